"""Fragments in; sound of each participant at its exact place out."""

import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.errors import MediaError
from pipelines.media.demux import Demuxer
from pipelines.settings import StreamSettings
from tests.pipelines import media_files as media
from tests.pipelines.media_files import BOTH, CUSTOMER, MIXED, fragment, l16, sounds_like

EXACT = [  # bit for bit the same after a resume
    ("wav", "pcm_s16le", 8000),
    ("wav", "pcm_s16le", 44_100),
    ("wav", "pcm_f32le", 48_000),
    ("wav", "pcm_mulaw", 8000),
    ("flac", "flac", 44_100),
    ("flac", "flac", 16_000),
    ("avi", "pcm_s16le", 44_100),
]
LOSSY = [
    ("mp3", "libmp3lame", 44_100),
    ("ipod", "aac", 44_100),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
]


@pytest.mark.parametrize(("container", "codec", "rate_hz"), EXACT)
def test_lossless_sound_stands_exactly_where_it_was(container: str, codec: str, rate_hz: int) -> None:
    whole = media.film(container, sound_codec=codec, samples=media.sound(4.3, rate_hz, 2), rate_hz=rate_hz)
    heard = media.hear(media.cut(io.BytesIO(whole), BOTH))
    truth = media.sound(4.3, 16_000, 2)
    tolerance = 2e-2 if "law" in codec else 1e-4
    for channel, participant in enumerate(BOTH):
        samples = heard.samples[participant]
        assert heard.start_sample[participant] == 0
        assert len(samples) == truth.shape[1]
        assert np.abs(samples - truth[channel])[100:-100].max() < tolerance
    assert heard.damaged == 0


@pytest.mark.parametrize(("container", "codec", "rate_hz"), LOSSY)
def test_the_encoders_delay_is_taken_off_once(container: str, codec: str, rate_hz: int) -> None:
    whole = media.film(container, sound_codec=codec, samples=media.sound(4.3, rate_hz, 2), rate_hz=rate_hz)
    heard = media.hear(media.cut(io.BytesIO(whole), BOTH))
    truth = media.sound(4.3, 16_000, 2)
    for channel, participant in enumerate(BOTH):
        samples = heard.samples[participant]
        assert heard.start_sample[participant] == 0
        # AAC in MP4 says how its delay is to be skipped, but not always how the last packet is padded (1024 samples).
        assert 0 <= len(samples) - truth.shape[1] <= (1024 * 16_000 // rate_hz if codec == "aac" else 0)
        assert sounds_like(samples, truth[channel]) > 0.995


@pytest.mark.parametrize(("container", "codec", "rate_hz"), [*EXACT, *LOSSY, ("ogg", "vorbis", 44_100)])
@pytest.mark.parametrize("at", [1, 3])
def test_a_resumed_demuxer_goes_on_where_the_undisturbed_one_is(
    container: str, codec: str, rate_hz: int, at: int
) -> None:
    whole = media.film(container, sound_codec=codec, samples=media.sound(6, rate_hz, 2), rate_hz=rate_hz)
    cuts = media.cut(io.BytesIO(whole))
    undisturbed = media.hear(cuts)
    resumed = media.hear(cuts[at:], undisturbed.each[at].start_sample)
    assert resumed.start_sample[CUSTOMER] == undisturbed.each[at].start_sample
    assert [d.start_sample for d in resumed.each] == [d.start_sample for d in undisturbed.each[at:]]
    later = undisturbed.each[at + 1].start_sample
    assert later is not None
    expected = undisturbed.samples[CUSTOMER][later:]
    found = resumed.samples[CUSTOMER][later - resumed.start_sample[CUSTOMER] :]
    assert len(found) == len(expected)
    if (container, codec, rate_hz) in EXACT:
        assert np.array_equal(found, expected)
    else:
        assert sounds_like(found, expected) > 0.999


def test_ten_minutes_of_raw_sound_are_9600000_samples() -> None:
    second = bytes(range(200)) * 40
    cuts = media.cut(iter([second] * 600), content_type="audio/PCMU;rate=8000")
    assert len(cuts) == 600
    assert len(media.hear(cuts).samples[CUSTOMER]) == 9_600_000


def test_ten_minutes_of_wav_are_9600000_samples() -> None:
    cuts = media.cut(media.wav_stream(600 * 44_100 * 4))
    assert len(cuts) > 550
    assert len(media.hear(cuts).samples[CUSTOMER]) == 9_600_000


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", ["L16", "PCMU", "PCMA"])
def test_raw_sound_of_both_parties(encoding: str, channels: int, rate_hz: int) -> None:
    samples = media.sound(3, rate_hz, channels)
    raw = l16(samples)
    if encoding != "L16":
        codec: Any = av.CodecContext.create({"PCMU": "pcm_mulaw", "PCMA": "pcm_alaw"}[encoding], "w")
        codec.rate, codec.layout, codec.format = rate_hz, {1: "mono", 2: "stereo"}[channels], "s16"
        whole = np.ascontiguousarray(np.frombuffer(raw, ">i2").astype(np.int16)[None])
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout=codec.layout.name)
        frame.sample_rate = rate_hz
        raw = b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
    people = BOTH if channels == 2 else (MIXED,)
    cuts = media.cut(iter([raw]), people, content_type=f"audio/{encoding};rate={rate_hz};channels={channels}")
    heard = media.hear(cuts)
    truth = media.sound(3, 16_000, channels)
    for channel, participant in enumerate(people):
        assert len(heard.samples[participant]) == 48_000
        assert np.abs(heard.samples[participant] - truth[channel])[100:-100].max() < 2e-2


@pytest.mark.parametrize("frames_per_packet", [1, 3])
def test_speex_whose_packets_wav_would_not_keep_loses_no_sample(data_dir: Path, frames_per_packet: int) -> None:
    speex = speex_of(data_dir / "media_cases/o_speex.ogg", frames_per_packet)
    with av.open(io.BytesIO(speex), "r") as container:
        whole = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    cuts = media.cut(io.BytesIO(speex))
    assert {one.content_type for one in cuts} == {"audio/ogg"}
    heard, direct = media.hear(cuts), media.hear([fragment(l16(whole[None]), "audio/L16;rate=8000")])
    assert heard.damaged == 0
    assert len(heard.samples[CUSTOMER]) == 12 * 16_000
    assert sounds_like(heard.samples[CUSTOMER], direct.samples[CUSTOMER]) > 0.9999


def speex_of(file: Path, frames_per_packet: int) -> bytes:
    """The same sound with so many frames a packet; each has 300 bits, and a packet that is not full ends with 01111 (RFC 5574 §3.3)."""
    made = io.BytesIO()
    with av.open(file, "r") as container, av.open(made, "w", format="ogg", options={"fflags": "+bitexact"}) as output:
        (source,) = container.streams.audio
        frames = [
            np.unpackbits(np.frombuffer(bytes(packet), np.uint8))[:300]
            for packet in container.demux(source)
            if packet.size
        ]
        stream = output.add_stream_from_template(source, opaque=True)
        assert source.codec_context.extradata is not None
        header = bytearray(source.codec_context.extradata)
        header[64:68] = frames_per_packet.to_bytes(4, "little")
        stream.codec_context.extradata = bytes(header)
        for at in range(0, len(frames), frames_per_packet):
            packet = av.Packet(
                np.packbits([*np.concatenate(frames[at : at + frames_per_packet]), 0, 1, 1, 1]).tobytes()
            )
            packet.stream, packet.time_base = stream, Fraction(1, 8000)
            packet.pts = packet.dts = at * 160
            packet.duration = frames_per_packet * 160
            output.mux(packet)
    return made.getvalue()


def test_one_participant_hears_the_mean_of_the_channels() -> None:
    samples = media.sound(1, 16_000, 2)
    heard = media.hear([fragment(l16(samples), "audio/L16;rate=16000;channels=2")])
    assert np.abs(heard.samples[CUSTOMER] - samples.mean(axis=0)).max() < 1e-4


def test_sound_starts_where_the_call_says() -> None:
    raw = l16(media.sound(1, 8000))
    heard = media.hear([fragment(raw, "audio/L16;rate=8000", start_ms=2500)])
    assert heard.start_sample == {CUSTOMER: 40_000}
    assert media.hear([fragment(raw, "audio/L16;rate=8000", start_ms=2500)], 40_007).start_sample == {CUSTOMER: 40_007}


def test_small_differences_of_the_clock_do_not_matter() -> None:
    samples = media.sound(3, 8000)
    thirds = [
        fragment(l16(samples[:, n * 8000 : (n + 1) * 8000]), "audio/L16;rate=8000", n, n * 1000 + n * 45)
        for n in range(3)
    ]
    heard = media.hear(thirds)  # fails on a gap
    assert np.abs(heard.samples[CUSTOMER] - media.sound(3, 16_000)[0])[50:-50].max() < 1e-3


def test_a_gap_moves_what_follows() -> None:
    samples = media.sound(4, 8000)
    demuxer = Demuxer(StreamSettings())
    blocks = []
    for n in (0, 1, 3):
        piece = l16(samples[:, n * 8000 : (n + 1) * 8000])
        blocks += demuxer.feed(fragment(piece, "audio/L16;rate=8000", n, n * 1000)).blocks
    blocks += demuxer.finish().blocks
    at = np.zeros(64_000, dtype=np.float32)
    covered = np.zeros(64_000, dtype=bool)
    for block in blocks:
        where = slice(block.start_sample, block.start_sample + len(block.samples))
        assert not covered[where].any()
        at[where], covered[where] = block.samples, True
    assert np.array_equal(np.flatnonzero(~covered), np.arange(32_000, 48_000))
    assert np.abs(at - media.sound(4, 16_000)[0])[covered].max() < 0.1  # the ends ring a little
    assert np.abs(at - media.sound(4, 16_000)[0])[48_100:63_900].max() < 1e-3


def test_an_overlap_is_heard_once() -> None:
    samples = media.sound(4, 8000)
    starts_ms = [0, 1000, 1200, 400, 2200]
    pieces = [
        fragment(l16(samples[:, at * 8 : (at + 1000) * 8]), "audio/L16;rate=8000", n, at)
        for n, at in enumerate(starts_ms)
    ]
    heard = media.hear(pieces)
    assert len(heard.samples[CUSTOMER]) == 3200 * 16
    assert np.abs(heard.samples[CUSTOMER] - media.sound(3.2, 16_000)[0])[50:-50].max() < 1e-3


def test_participants_must_fit_the_channels() -> None:
    with pytest.raises(MediaError, match="2 participants on 1 channel"):
        Demuxer(StreamSettings()).feed(fragment(bytes(8000), "audio/PCMU", participants=BOTH))


@pytest.mark.parametrize(
    ("container", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("mpegts", "aac")]
)
def test_any_self_contained_file_may_be_a_fragment(container: str, codec: str) -> None:
    whole = media.film(container, sound_codec=codec, samples=media.sound(2, 48_000), rate_hz=48_000)
    heard = media.hear([fragment(whole, "application/octet-stream", start_ms=1000)])
    assert heard.start_sample[CUSTOMER] == 16_000
    assert 0 <= len(heard.samples[CUSTOMER]) - 32_000 < 1100


def test_finishing_twice_gives_nothing_more() -> None:
    demuxer = Demuxer(StreamSettings())
    demuxer.feed(fragment(l16(media.sound(1, 8000)), "audio/L16;rate=8000"))
    assert demuxer.finish().blocks
    assert demuxer.finish().blocks == []


def test_real_phone_call_and_clips(data_dir: Any) -> None:
    for path in sorted(data_dir.glob("clips/talk_*.mp4")):
        heard = media.hear(media.cut(path))
        assert heard.damaged == 0
        assert {later.time_ms - earlier.time_ms for earlier, later in pairwise(heard.frames)} <= set(range(160, 241))
    call = data_dir / "calls/auto_repairs_40_agent.flac"
    with av.open(str(call)) as container:
        stream = container.streams.audio[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        samples = stream.duration * stream.time_base * 16_000
    assert len(media.hear(media.cut(call)).samples[CUSTOMER]) == samples


def test_packets_that_are_missing_within_a_fragment_leave_a_gap_there() -> None:
    whole = media.film("matroska", sound_codec="pcm_s16le", samples=media.sound(3, 16_000), rate_hz=16_000)
    with av.open(io.BytesIO(whole), "r") as source, av.open(torn := io.BytesIO(), "w", format="matroska") as output:
        copy = output.add_stream_from_template(source.streams.audio[0])
        for n, packet in enumerate(source.demux(audio=0)):
            if packet.size and n not in {10, 11, 12, 20}:
                packet.stream = copy
                output.mux(packet)
    packet_s = 1024 / 16_000
    blocks = Demuxer(StreamSettings()).feed(fragment(torn.getvalue(), "audio/x-matroska")).blocks
    truth = media.sound(3, 16_000)[0]
    assert blocks[0].samples.size == pytest.approx(10 * 1024, abs=16)
    # One packet of 64 ms is below what counts as drift of a clock, three are not.
    assert [block.start_sample for block in blocks] == pytest.approx([0, 13 * packet_s * 16_000], abs=16)
    behind = blocks[1].samples[: 5 * 1024]
    assert sounds_like(behind, truth[blocks[1].start_sample :][: len(behind)]) > 0.99


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
def test_two_files_of_one_party_each_give_what_one_of_two_channels_gives(rate_hz: int, tmp_path: Path) -> None:
    samples = media.sound(4.3, rate_hz, 2)
    both = media.film("flac", sound_codec="flac", samples=samples, rate_hz=rate_hz)
    for n in (0, 1):
        (tmp_path / f"{n}.flac").write_bytes(
            media.film("flac", sound_codec="flac", samples=samples[n : n + 1], rate_hz=rate_hz)
        )
    stereo = media.hear(media.cut(io.BytesIO(both), BOTH))
    cuts = media.cut(tmp_path / "0.flac", BOTH, besides=[tmp_path / "1.flac"])
    assert {one.participants for one in cuts} == {BOTH}
    files = media.hear(cuts)
    for participant in BOTH:
        assert np.array_equal(files.samples[participant], stereo.samples[participant])
        assert files.start_sample[participant] == 0
    resumed = media.hear(cuts[2:], files.each[2].start_sample)
    for participant in BOTH:
        later = files.each[3].start_sample
        assert later is not None
        expected = files.samples[participant][later:]
        assert np.array_equal(resumed.samples[participant][-len(expected) :], expected)


def test_tracks_of_foreign_fragments_keep_apart_whose_packets_come() -> None:
    demuxer = Demuxer(StreamSettings())
    for seq, empty in enumerate(((), (0,), (1,), ())):
        one = fragment(media.two_tracks(empty=empty), "video/x-matroska", seq, 3000 * seq, participants=BOTH)
        found = demuxer.feed(one)
        assert {block.participant for block in found.blocks} == {who for n, who in enumerate(BOTH) if n not in empty}
        for block in found.blocks:
            truth = media.sound(3, 16_000, 2)[BOTH.index(block.participant)]
            assert block.start_sample == 48_000 * seq
            assert np.abs(block.samples - truth).max() < 1e-4
    with pytest.raises(MediaError, match="2 sound tracks"):
        demuxer.feed(fragment(media.two_tracks(), "video/x-matroska", 4, 12_000))


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
def test_telephone_sound_of_one_file_a_party_keeps_its_samples(codec: str, tmp_path: Path) -> None:
    samples = media.sound(3, 8000, 2)
    both = media.hear(media.cut(io.BytesIO(media.film("wav", sound_codec=codec, samples=samples, rate_hz=8000)), BOTH))
    for n in (0, 1):
        one = media.film("wav", sound_codec=codec, samples=samples[n : n + 1], rate_hz=8000)
        (tmp_path / f"{n}.wav").write_bytes(one)
    files = media.hear(media.cut(tmp_path / "0.wav", BOTH, besides=[tmp_path / "1.wav"]))
    for participant in BOTH:
        assert np.array_equal(files.samples[participant], both.samples[participant])


def test_a_party_that_sounds_later_than_a_resume_starts_where_it_says(tmp_path: Path) -> None:
    for name, samples in (("0", media.sound(8, 44_100)), ("1", media.sound(3, 44_100))):
        (tmp_path / f"{name}.mka").write_bytes(
            media.film(
                "matroska",
                sound_codec="flac",
                samples=samples,
                rate_hz=44_100,
                options={"output_ts_offset": "5"} if name == "1" else {},
            )
        )
    cuts = media.cut(tmp_path / "0.mka", BOTH, besides=[tmp_path / "1.mka"])
    undisturbed = media.hear(cuts)
    assert undisturbed.start_sample[CUSTOMER] == pytest.approx(5 * 16_000, abs=1700)
    for at in (1, 2, 3, 4):
        resumed = media.hear(cuts[at:], undisturbed.each[at].start_sample)
        assert resumed.start_sample[CUSTOMER] == pytest.approx(undisturbed.start_sample[CUSTOMER], abs=16)
