"""Sound without a container: what content types and names say, the values of ITU-T G.711, and decoders that live on."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models.types import FloatArray
from pipelines.errors import MediaError
from pipelines.media.container import SOUND_DECODERS
from pipelines.media.demux import Demuxer
from pipelines.media.fragment import fragments
from pipelines.media.raw_audio import (
    RATE_MIN_HZ,
    RawAudio,
    RawDecoder,
    content_type_of,
    is_container,
    names_raw_audio,
    raw_audio,
)
from pipelines.media.utterances import utterances_of
from pipelines.settings import StreamSettings
from tests.pipelines import media_files as media
from tests.pipelines.media_files import CUSTOMER, fragment

CLEAN_MS = [(1120, 4320), (5120, 7970), (9120, 12_000)]
"""When somebody speaks in the files of `media_cases` that hold the clean call."""


def read(content_type: str) -> RawAudio:
    raw = raw_audio(content_type)
    assert raw is not None
    return raw


def decoded(content_type: str, sound: bytes) -> FloatArray:
    return RawDecoder().decode(read(content_type), sound)[0]


def speech(rate_hz: int, seconds: int = 6) -> FloatArray:
    """(1, N), loud and soft by turns, with pauses."""
    sound = media.sound(seconds, rate_hz)
    at_s = np.arange(sound.shape[1]) / rate_hz
    loud: FloatArray = (sound * np.clip(np.sin(2 * np.pi * 0.7 * at_s), 0, 1)).astype(np.float32)
    return loud


def g722(sound: FloatArray) -> bytes:
    codec: Any = av.CodecContext.create("g722", "w")
    codec.rate, codec.layout, codec.format = 16_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16), format="s16", layout="mono")
    frame.sample_rate = 16_000
    even = av.AudioResampler(format="s16", layout="mono", rate=16_000, frame_size=320)
    return b"".join(bytes(packet) for one in even.resample(frame) for packet in codec.encode(one))


def frames_of_chance(frame_bytes: int, count: int, first: int | None = None) -> bytes:
    """Frames of GSM (whose first four bits are 0xD) or G.729, of which any bits are some sound: nothing here encodes them."""
    frames = np.random.default_rng(3).integers(0, 256, (count, frame_bytes), dtype=np.uint8)
    if first is not None:
        frames[:, 0] = first << 4 | frames[:, 0] & 15
    return frames.tobytes()


STATEFUL = [
    pytest.param("audio/G722", lambda: g722(speech(16_000)), 8000, 16_000, id="g722"),
    pytest.param("audio/GSM", lambda: frames_of_chance(33, 300, first=0xD), 1650, 8000, id="gsm"),
    pytest.param("audio/G729", lambda: frames_of_chance(10, 600), 1000, 8000, id="g729"),
]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("audio/L16;rate=8000;channels=2", ("pcm_s16be", 8000, 2, 4, 1)),
        ("Audio/l16 ; Rate=16000", ("pcm_s16be", 16_000, 1, 2, 1)),
        ("audio/L16;rate=16000;endian=little", ("pcm_s16le", 16_000, 1, 2, 1)),
        ("audio/L16;rate=16000;endian=BIG", ("pcm_s16be", 16_000, 1, 2, 1)),
        ("audio/x-sln", ("pcm_s16le", 8000, 1, 2, 1)),
        ("audio/x-sln;rate=16000;endian=big", ("pcm_s16be", 16_000, 1, 2, 1)),
        ("audio/pcm;rate=24000", ("pcm_s16le", 24_000, 1, 2, 1)),
        ("audio/PCMU", ("pcm_mulaw", 8000, 1, 1, 1)),  # RFC 3551: 8000 Hz where nothing is said
        ("audio/basic", ("pcm_mulaw", 8000, 1, 1, 1)),  # RFC 2046 §4.3
        ("audio/x-mulaw;rate=16000;", ("pcm_mulaw", 16_000, 1, 1, 1)),
        ("audio/PCMA;rate=16000;channels=2", ("pcm_alaw", 16_000, 2, 2, 1)),
        ("audio/x-alaw-basic", ("pcm_alaw", 8000, 1, 1, 1)),
        ("audio/G722", ("g722", 16_000, 1, 1, 2)),
        ("audio/G722;rate=8000", ("g722", 16_000, 1, 1, 2)),  # its clock in RTP: RFC 3551 §4.5.2
        ("audio/GSM;rate=8000;channels=1", ("gsm", 8000, 1, 33, 160)),
        ("audio/G729", ("g729", 8000, 1, 10, 80)),
    ],
)
def test_a_content_type_says_how_it_is_read(content_type: str, expected: tuple[str, int, int, int, int]) -> None:
    assert read(content_type) == RawAudio(content_type, *expected)
    assert expected[0] in SOUND_DECODERS.split(",")


# As Twilio, Genesys, Telnyx, Plivo, GStreamer, VoiceXML and speech services write them.
@pytest.mark.parametrize("name", ["PCMU", "basic", "mulaw", "x-mulaw", "ulaw", "x-ulaw", "g711u", "G711-ulaw"])
def test_mu_law_has_many_names(name: str) -> None:
    assert read(f"audio/{name}").decoder == "pcm_mulaw"


@pytest.mark.parametrize("name", ["PCMA", "alaw", "x-alaw", "x-alaw-basic", "g711a"])
def test_a_law_has_many_names(name: str) -> None:
    assert read(f"audio/{name}").decoder == "pcm_alaw"


@pytest.mark.parametrize(
    "content_type", ["audio/x-matroska", "video/mp2t", "audio/webm;codecs=opus", "", "audio/opus", "audio/AMR"]
)
def test_what_is_left_to_ffmpeg_is_none(content_type: str) -> None:
    assert raw_audio(content_type) is None
    assert not names_raw_audio(content_type)


@pytest.mark.parametrize(
    "name",
    ["L8", "L24;rate=8000", "x-raw", "lpcm", "G726-32", "G7221", "x-g723", "gsm-efr", "DVI4", "PCMA-WB", "slin16"],
)
def test_raw_sound_that_is_not_decoded_names_what_is(name: str) -> None:
    with pytest.raises(
        MediaError, match="audio/L16, audio/pcm, audio/x-sln, audio/PCMU, audio/PCMA, audio/G722, audio/GSM, audio/G729"
    ):
        raw_audio(f"audio/{name}")
    assert names_raw_audio(f"audio/{name}")


def test_what_ffmpeg_cannot_open_is_told_how_raw_sound_is_named() -> None:
    with pytest.raises(MediaError, match=r"audio/PCMU, .*\.gsm"):
        media.cut(io.BytesIO(bytes(1000)), content_type="audio/x-nobody-knows")


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        ("audio/L16;rate=8000;byteorder=le", "'byteorder' is not known; those that are: rate, channels, endian"),
        ("audio/L16;rate=8000;endian=middle", "endian must be little or big"),
        ("audio/L16;rate=8000;endian", "endian must be little or big"),
        ("audio/L16;rate=8000;rate=16000", "rate stands there twice"),
        ("audio/PCMU;endian=little", "'endian' is not known; those that are: rate, channels"),
        ("audio/basic;codec=mulaw", "'codec' is not known"),
        ("audio/GSM;rate=16000", "GSM has one channel and rate=8000"),
        ("audio/G729;channels=2", "G729 has one channel"),
        ("audio/G722;rate=48000", "G722 has one channel and rate=16000"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_by_name(content_type: str, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        raw_audio(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/L16",
        "audio/pcm",
        "audio/L16;rate=fast",
        f"audio/PCMU;rate={RATE_MIN_HZ - 1}",
        "audio/PCMA;rate=400000",
        "audio/L16;rate=8000;channels=0",
        "audio/L16;rate=8000;channels=65",
    ],
)
def test_a_rate_or_channels_that_are_missing_or_out_of_range_are_named(content_type: str) -> None:
    with pytest.raises(MediaError, match=content_type.split(";", maxsplit=1)[0]):
        raw_audio(content_type)


@pytest.mark.parametrize(("endian", "order"), [("big", ">i2"), ("little", "<i2")])
def test_linear_pcm_is_interleaved_and_in_full_scale(endian: str, order: str) -> None:
    sound = np.array([[0, 16_384], [-32_768, 32_767]], order).tobytes()
    found = decoded(f"audio/L16;rate=8000;channels=2;endian={endian}", sound)
    assert found.tolist() == [[0.0, -1.0], [0.5, 32_767 / 32_768]]


def test_sixty_four_channels_are_told_apart() -> None:
    sound = np.arange(128, dtype=">i2").tobytes()
    found = decoded("audio/L16;rate=8000;channels=64", sound) * 32_768
    assert found.T.ravel().tolist() == list(range(128))


# Values of G.711 in 14 and 13 bits (tables 2a and 1a of the recommendation), on a scale of 16 bits: times 4 and 8.
@pytest.mark.parametrize(
    ("encoding", "code", "value"),
    [
        ("PCMU", 0x00, -8031 * 4),
        ("PCMU", 0x80, 8031 * 4),
        ("PCMU", 0x7F, 0),
        ("PCMU", 0xFF, 0),
        ("PCMU", 0xFE, 2 * 4),
        ("PCMU", 0xEF, 33 * 4),
        ("PCMA", 0xAA, 4032 * 8),
        ("PCMA", 0x2A, -4032 * 8),
        ("PCMA", 0xD5, 1 * 8),
        ("PCMA", 0x55, -1 * 8),
        ("PCMA", 0xC5, 33 * 8),
    ],
)
def test_g711_codes_have_the_values_of_the_recommendation(encoding: str, code: int, value: int) -> None:
    assert decoded(f"audio/{encoding}", bytes([code])).item() * 32_768 == value


@pytest.mark.parametrize(
    ("content_type", "length", "samples", "damaged"),
    [
        ("audio/L16;rate=8000;channels=2", 11, 2, 1),
        ("audio/PCMU", 0, 0, 0),
        ("audio/G722", 3, 6, 0),
        ("audio/G729", 25, 160, 1),
        ("audio/GSM", 32, 0, 1),
    ],
)
def test_a_frame_that_is_not_whole_is_left_over_and_counted(
    content_type: str, length: int, samples: int, damaged: int
) -> None:
    found, count = RawDecoder().decode(read(content_type), bytes(length))
    assert (found.shape[1], count) == (samples, damaged)


def test_what_is_no_gsm_is_refused_instead_of_heard_as_noise() -> None:
    whole = frames_of_chance(33, 100, first=0xD)
    cut_between = whole[7 : 7 + 33 * 50]
    for sound in (cut_between, l16_of(speech(8000))):
        with pytest.raises(MediaError, match="whole ones, of 33 bytes each"):
            RawDecoder().decode(read("audio/GSM"), sound)
        with pytest.raises(MediaError, match="no frames of GSM"):
            media.cut(io.BytesIO(sound), content_type="audio/GSM")
    few_spoilt = bytearray(whole)
    few_spoilt[330] = 0
    assert RawDecoder().decode(read("audio/GSM"), bytes(few_spoilt))[0].shape == (1, 16_000)


@pytest.mark.parametrize(("content_type", "sound", "piece_bytes", "rate_hz"), STATEFUL)
def test_cuts_fall_between_frames_and_what_a_decoder_remembers_lives_on(
    content_type: str, sound: Any, piece_bytes: int, rate_hz: int
) -> None:
    whole = sound()
    cuts = media.cut(media.Pipe(whole), content_type=content_type)
    assert [(one.start_ms, len(one.media)) for one in cuts] == [(1000 * n, piece_bytes) for n in range(6)]
    assert {one.content_type for one in cuts} == {content_type}
    heard, heard_shorter = (
        media.hear(cuts),
        media.hear(media.cut(io.BytesIO(whole), content_type=content_type, fragment_ms=333)),
    )
    assert np.array_equal(heard_shorter.samples[CUSTOMER], heard.samples[CUSTOMER])
    assert heard_shorter.damaged == 0
    in_one_go = decoded(content_type, whole)
    assert in_one_go.shape == (1, 6 * rate_hz)
    assert heard.damaged == 0
    again = media.hear([fragment(l16_of(in_one_go), f"audio/L16;rate={rate_hz}")])
    assert np.array_equal(heard.samples[CUSTOMER], again.samples[CUSTOMER])


def l16_of(samples: FloatArray) -> bytes:
    return (samples.T * 32_768).astype(">i2").tobytes()


@pytest.mark.parametrize(("content_type", "sound"), [pytest.param(*one.values[:2], id=one.id) for one in STATEFUL])
def test_a_resumed_stream_has_converged_within_the_pre_roll(content_type: str, sound: Any) -> None:
    cuts = media.cut(io.BytesIO(sound()), content_type=content_type)
    undisturbed, resumed = media.hear(cuts).samples[CUSTOMER], media.hear(cuts[2:])
    assert resumed.start_sample == {CUSTOMER: 32_000}
    assert not np.array_equal(resumed.samples[CUSTOMER][:4000], undisturbed[32_000:36_000])
    assert np.array_equal(resumed.samples[CUSTOMER][16_000:], undisturbed[48_000:])


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("call.gsm", "audio/GSM"),
        ("CALL.GSM", "audio/GSM"),
        ("call.g722", "audio/G722"),
        ("call.g729", "audio/G729"),
        ("call.sln", "audio/x-sln"),
        ("call.sln16", "audio/x-sln;rate=16000"),
        ("call.sln44", "audio/x-sln;rate=44100"),
        ("call.ulaw", "audio/PCMU"),
        ("a.b.ul", "audio/PCMU"),
        ("call.alaw", "audio/PCMA"),
        ("call.wav", None),
        ("call.raw", None),
        ("call.pcm", None),
        ("gsm", None),
        ("", None),
    ],
)
def test_an_extension_says_what_raw_sound_a_file_holds(name: str, content_type: str | None) -> None:
    assert content_type_of(name) == content_type
    assert content_type is None or raw_audio(content_type) is not None


def test_a_file_of_raw_sound_is_cut_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "call.sln16"
    file.write_bytes((media.sound(2, 16_000).T * 32767).round().astype("<i2").tobytes())
    cuts = media.cut(file)
    assert {one.content_type for one in cuts} == {"audio/x-sln;rate=16000"}
    assert np.abs(media.hear(cuts).samples[CUSTOMER] - media.sound(2, 16_000)[0]).max() < 1e-3


@pytest.mark.parametrize("content_type", ["audio/basic", "audio/L16;rate=8000"])
@pytest.mark.parametrize(("container", "codec"), [("au", "pcm_mulaw"), ("wav", "pcm_s16le"), ("ogg", "libopus")])
def test_a_container_is_opened_whatever_its_content_type_says(container: str, codec: str, content_type: str) -> None:
    rate_hz = 48_000 if codec == "libopus" else 8000
    whole = media.film(container, sound_codec=codec, samples=media.sound(3, rate_hz), rate_hz=rate_hz)
    assert is_container(whole)
    for cuts in (
        media.cut(io.BytesIO(whole), content_type=content_type),
        media.cut(media.Pipe(whole), content_type=content_type),
        [fragment(whole, content_type)],
    ):
        heard = media.hear(cuts).samples[CUSTOMER]
        assert media.sounds_like(heard[1000:47_000], media.sound(3, 16_000)[0, 1000:47_000]) > 0.98


@pytest.mark.parametrize(
    ("content_type", "order", "fits"),
    [
        ("audio/L16;rate=16000", "<i2", "audio/L16;rate=16000;channels=1;endian=little"),
        ("audio/L16;rate=16000;endian=little", ">i2", "audio/L16;rate=16000;channels=1;endian=big"),
        ("audio/x-sln;rate=16000", ">i2", "audio/x-sln;rate=16000;channels=1;endian=big"),
    ],
)
def test_bytes_the_other_way_round_are_refused_alike_as_an_upload_and_as_records(
    content_type: str, order: str, fits: str
) -> None:
    sound = np.concatenate([np.zeros((1, 32_000), np.float32), speech(16_000, 3)], axis=1)
    swapped = (sound.T * 32767).astype(order).tobytes()

    cuts = fragments_of(swapped, content_type)
    assert [next(cuts).start_ms for _ in range(2)] == [0, 1000]  # silence is the same in both orders
    with pytest.raises(MediaError, match=fits):
        next(cuts)

    records = [fragment(swapped[at * 32_000 :][:32_000], content_type, at, at * 1000) for at in range(5)]
    demuxer = Demuxer(StreamSettings())
    assert [demuxer.feed(one).damaged for one in records[:2]] == [0, 0]
    with pytest.raises(MediaError, match=fits):
        demuxer.feed(records[2])

    assert (
        np.abs(media.hear(media.cut(io.BytesIO(swapped), content_type=fits)).samples[CUSTOMER] - sound[0]).max() < 1e-3
    )


def fragments_of(sound: bytes, content_type: str) -> Any:
    return fragments(
        io.BytesIO(sound),
        call_id="call",
        tenant="default",
        stream="main",
        participants=(CUSTOMER,),
        consent=None,
        content_type=content_type,
    )


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("h_l16_be.raw", "audio/L16;rate=16000"),
        ("h_l16_le.raw", "audio/L16;rate=16000;endian=little"),
        ("h_l16_le.raw", "audio/x-sln;rate=16000"),
        ("m_mulaw.raw", "audio/x-mulaw"),
        ("m_mulaw.raw", "audio/basic"),
        ("o_gsm_raw.gsm", "audio/GSM"),
        ("o_gsm_raw.gsm", None),
        ("o_speex.ogg", None),
    ],
)
def test_a_call_without_a_container_has_the_utterances_of_the_clean_one(
    data_dir: Path, name: str, content_type: str | None
) -> None:
    cuts = media.cut(data_dir / "media_cases" / name, content_type=content_type)
    found = [(one.start_ms, one.end_ms) for one in utterances_of(cuts, StreamSettings())]
    assert found == [pytest.approx(times, abs=250) for times in CLEAN_MS]
    assert len(media.hear(cuts).samples[CUSTOMER]) == 12 * 16_000
