"""Fragments in; sound of each participant at its exact place, and pictures at their times, out."""

import io
import struct
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from models.types import FloatArray
from pipelines.errors import MediaError
from pipelines.media.demux import Demuxer
from pipelines.settings import MediaLimits, StreamSettings, VideoSettings
from pipelines.types import DEFAULT_CONSENT, MediaFragment, Participant
from tests.fuzz import bombs

AGENT, CUSTOMER, MIXED = Participant.AGENT, Participant.CUSTOMER, Participant.MIXED
BOTH = (AGENT, CUSTOMER)
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


def fragment(media: bytes, content_type: str, seq: int = 0, start_ms: int = 0, **changes: Any) -> MediaFragment:
    made = MediaFragment(
        call_id="call",
        tenant="default",
        stream="main",
        seq=seq,
        start_ms=start_ms,
        content_type=content_type,
        participants=(CUSTOMER,),
        consent=DEFAULT_CONSENT,
        final=False,
        media=media,
    )
    return replace(made, **changes)


def l16(samples: FloatArray) -> bytes:
    return (samples.T * 32767).round().astype(">i2").tobytes()


def sounds_like(heard: FloatArray, truth: FloatArray) -> float:
    shared = min(len(heard), len(truth))
    return float(np.corrcoef(heard[:shared], truth[:shared])[0, 1])


@pytest.mark.parametrize(("container", "codec", "rate_hz"), EXACT)
def test_lossless_sound_stands_exactly_where_it_was(
    media: ModuleType, container: str, codec: str, rate_hz: int
) -> None:
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
def test_the_encoders_delay_is_taken_off_once(media: ModuleType, container: str, codec: str, rate_hz: int) -> None:
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
    media: ModuleType, container: str, codec: str, rate_hz: int, at: int
) -> None:
    whole = media.film(container, sound_codec=codec, samples=media.sound(6, rate_hz, 2), rate_hz=rate_hz)
    cuts = media.cut(io.BytesIO(whole))
    undisturbed = media.hear(cuts)
    resumed = media.hear(cuts[at:], undisturbed.each[at].start_sample)
    assert resumed.start_sample[CUSTOMER] == undisturbed.each[at].start_sample
    assert [d.start_sample for d in resumed.each] == [d.start_sample for d in undisturbed.each[at:]]
    later = undisturbed.each[at + 1].start_sample
    expected = undisturbed.samples[CUSTOMER][later:]
    found = resumed.samples[CUSTOMER][later - resumed.start_sample[CUSTOMER] :]
    assert len(found) == len(expected)
    if (container, codec, rate_hz) in EXACT:
        assert np.array_equal(found, expected)
    else:
        assert sounds_like(found, expected) > 0.999


def test_ten_minutes_of_raw_sound_are_9600000_samples(media: ModuleType) -> None:
    second = bytes(range(200)) * 40
    cuts = media.cut(iter([second] * 600), content_type="audio/PCMU;rate=8000")
    assert len(cuts) == 600
    assert len(media.hear(cuts).samples[CUSTOMER]) == 9_600_000


def test_ten_minutes_of_wav_are_9600000_samples(media: ModuleType) -> None:
    cuts = media.cut(media.wav_stream(600 * 44_100 * 4))
    assert len(cuts) > 550
    assert len(media.hear(cuts).samples[CUSTOMER]) == 9_600_000


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", ["L16", "PCMU", "PCMA"])
def test_raw_sound_of_both_parties(media: ModuleType, encoding: str, channels: int, rate_hz: int) -> None:
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


def test_one_participant_hears_the_mean_of_the_channels(media: ModuleType) -> None:
    samples = media.sound(1, 16_000, 2)
    heard = media.hear([fragment(l16(samples), "audio/L16;rate=16000;channels=2")])
    assert np.abs(heard.samples[CUSTOMER] - samples.mean(axis=0)).max() < 1e-4


def test_sound_starts_where_the_call_says(media: ModuleType) -> None:
    raw = l16(media.sound(1, 8000))
    heard = media.hear([fragment(raw, "audio/L16;rate=8000", start_ms=2500)])
    assert heard.start_sample == {CUSTOMER: 40_000}
    assert media.hear([fragment(raw, "audio/L16;rate=8000", start_ms=2500)], 40_007).start_sample == {CUSTOMER: 40_007}


def test_small_differences_of_the_clock_do_not_matter(media: ModuleType) -> None:
    samples = media.sound(3, 8000)
    thirds = [
        fragment(l16(samples[:, n * 8000 : (n + 1) * 8000]), "audio/L16;rate=8000", n, n * 1000 + n * 45)
        for n in range(3)
    ]
    heard = media.hear(thirds)  # fails on a gap
    assert np.abs(heard.samples[CUSTOMER] - media.sound(3, 16_000)[0])[50:-50].max() < 1e-3


def test_a_gap_moves_what_follows(media: ModuleType) -> None:
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


def test_an_overlap_is_heard_once(media: ModuleType) -> None:
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
    ("container", "codecs", "options"),
    [
        ("matroska", "libx264 flac", {"bf": "3"}),
        ("mp4", "libx264 aac", {"bf": "2"}),
        ("mov", "mjpeg pcm_s16le", {}),
        ("webm", "libvpx libopus", {"deadline": "realtime", "auto-alt-ref": "0"}),
    ],
)
@pytest.mark.parametrize("key_every", [12, 1000])
def test_every_picture_keeps_its_time(
    media: ModuleType, container: str, codecs: str, options: dict[str, str], key_every: int
) -> None:
    codec, sound = codecs.split()
    whole = media.film(
        container,
        picture_codec=codec,
        sound_codec=sound,
        samples=media.sound(4, 48_000),
        rate_hz=48_000,
        seconds=4,
        key_every=key_every,
        picture_options=options,
    )
    cuts = media.cut(io.BytesIO(whole), start_ms=2000)
    heard = media.hear(cuts, settings=StreamSettings(video=VideoSettings(frames_per_s=25)))
    assert [frame.time_ms for frame in heard.frames] == [2000 + 40 * n for n in range(100)]
    assert [media.picture_number(frame.pixels) for frame in heard.frames] == [n % 16 for n in range(100)]
    sampled = media.hear(cuts).frames
    assert [frame.time_ms for frame in sampled] == [2000 + 200 * n for n in range(20)]
    assert sampled[7].pixels.shape == (64, 96, 3)
    assert heard.start_sample[CUSTOMER] == 32_000
    assert heard.damaged == 0


def test_the_choice_of_pictures_does_not_depend_on_the_cuts(media: ModuleType) -> None:
    whole = media.film("matroska", picture_codec="libx264", seconds=6, pictures_per_s=30, picture_options={"bf": "2"})
    choices = []
    for fragment_ms in (400, 1000, 2500):
        frames = media.hear(media.cut(io.BytesIO(whole), fragment_ms=fragment_ms)).frames
        choices.append([(frame.time_ms, frame.pixels.tobytes()) for frame in frames])
    assert choices[0] == choices[1] == choices[2]
    assert len(choices[0]) == 30


def test_after_a_restart_the_picture_returns_at_a_key_frame(media: ModuleType) -> None:
    whole = media.film(
        "matroska",
        picture_codec="libx264",
        sound_codec="flac",
        samples=media.sound(9, 16_000),
        seconds=9,
        key_every=100,
        picture_options={"bf": "2"},
    )
    cuts = media.cut(io.BytesIO(whole))
    undisturbed = media.hear(cuts)
    at = next(n for n, cut in enumerate(cuts) if cut.start_ms > 2000)
    resumed = media.hear(cuts[at:], undisturbed.each[at].start_sample)
    assert resumed.damaged == 0
    assert [frame.time_ms for frame in resumed.frames] == [f.time_ms for f in undisturbed.frames if f.time_ms >= 4000]
    tail = undisturbed.samples[CUSTOMER][undisturbed.each[at].start_sample + 100 :]
    assert np.array_equal(resumed.samples[CUSTOMER][100:], tail)


def test_a_missing_fragment_costs_pictures_up_to_the_next_key_frame(media: ModuleType) -> None:
    whole = media.film("matroska", picture_codec="libx264", seconds=8, key_every=50, picture_options={"bf": "2"})
    cuts = media.cut(io.BytesIO(whole), fragment_ms=500)
    lost = next(n for n, cut in enumerate(cuts) if cut.start_ms > 4200)
    heard = media.hear(cuts[:lost] + cuts[lost + 1 :])
    assert heard.damaged == 0
    for frame in heard.frames:
        assert media.picture_number(frame.pixels) == frame.time_ms // 40 % 16
        assert not cuts[lost].start_ms + 100 < frame.time_ms < 6000
    assert heard.frames[-1].time_ms == 7800


def test_pictures_belong_to_the_customer_and_are_scaled_down(media: ModuleType) -> None:
    whole = media.film(
        "mp4",
        picture_codec="libx264",
        sound_codec="aac",
        samples=media.sound(1, 48_000, 2),
        rate_hz=48_000,
        seconds=1,
        size=(640, 360),
    )
    frames = media.hear(media.cut(io.BytesIO(whole), BOTH)).frames
    assert {(frame.participant, frame.pixels.shape) for frame in frames} == {(CUSTOMER, (270, 480, 3))}
    assert all(frame.pixels.dtype == np.uint8 and frame.pixels.flags.c_contiguous for frame in frames)
    left, right = frames[0].pixels[:, 10].mean(axis=0), frames[0].pixels[:, -10].mean(axis=0)
    assert left[1] > 90
    assert left[2] < 40
    assert right[2] > 90
    assert right[1] < 40


def test_a_film_held_upright_is_turned(media: ModuleType) -> None:
    whole = bytearray(media.film("mp4", picture_codec="libx264", seconds=1))
    matrix = whole.index(b"tkhd") + 44  # ISO/IEC 14496-12 §8.3.2; a quarter turn clockwise
    whole[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    frames = media.hear(media.cut(io.BytesIO(bytes(whole)))).frames
    assert {frame.pixels.shape for frame in frames} == {(96, 64, 3)}
    assert frames[0].pixels[5, :, 1].mean() > 90  # what was left is up now
    assert frames[0].pixels[-5, :, 2].mean() > 90


def test_a_picture_of_one_pixel(media: ModuleType) -> None:
    whole = media.film("avi", picture_codec="ffv1", seconds=1, size=(1, 1))
    frames = media.hear(media.cut(io.BytesIO(whole))).frames
    assert {frame.pixels.shape for frame in frames} == {(1, 1, 3)}


def test_cover_art_is_no_film(media: ModuleType) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as output:
        sound: Any = output.add_stream("libmp3lame", rate=44_100)
        cover: Any = output.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(media.picture(3), format="rgb24")))
        output.mux(cover.encode(None))
        samples = media.sound(3, 44_100)
        frame = av.AudioFrame.from_ndarray(np.repeat(samples, 2, axis=0), format="fltp", layout="stereo")
        frame.sample_rate = 44_100
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    with av.open(io.BytesIO(file.getvalue())) as container:
        assert len(container.streams.video) == 1
    cuts = media.cut(io.BytesIO(file.getvalue()))
    assert {cut.content_type for cut in cuts} == {"audio/x-matroska"}
    heard = media.hear([fragment(file.getvalue(), "audio/mpeg")])
    assert heard.frames == []
    assert abs(len(heard.samples[CUSTOMER]) - 48_000) < 100


@pytest.mark.parametrize(
    ("container", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("mpegts", "aac")]
)
def test_any_self_contained_file_may_be_a_fragment(media: ModuleType, container: str, codec: str) -> None:
    whole = media.film(container, sound_codec=codec, samples=media.sound(2, 48_000), rate_hz=48_000)
    heard = media.hear([fragment(whole, "application/octet-stream", start_ms=1000)])
    assert heard.start_sample[CUSTOMER] == 16_000
    assert 0 <= len(heard.samples[CUSTOMER]) - 32_000 < 1100


def test_samples_that_are_no_numbers_become_silence_and_are_counted(media: ModuleType) -> None:
    samples = media.sound(2, 48_000)
    samples[0, 24_000:24_010] = [np.nan, np.inf, -np.inf, 1e30, -1e30, 0, 2, -2, np.nan, 0]
    whole = media.film("wav", sound_codec="pcm_f32le", samples=samples, rate_hz=48_000)
    heard = media.hear(media.cut(io.BytesIO(whole)))
    assert heard.damaged == 1
    assert np.isfinite(heard.samples[CUSTOMER]).all()
    assert np.abs(heard.samples[CUSTOMER]).max() <= 1
    assert len(heard.samples[CUSTOMER]) == 32_000


def test_a_damaged_packet_is_skipped_and_costs_no_place(media: ModuleType) -> None:
    whole = media.film("matroska", sound_codec="flac", samples=media.sound(6, 16_000), rate_hz=16_000)
    cuts = media.cut(io.BytesIO(whole))
    with av.open(io.BytesIO(cuts[2].media), "r") as container:
        packet = [packet for packet in container.demux() if packet.size][1]
        assert packet.pos is not None
        start = cuts[2].media.index(bytes(packet))
        spoilt = cuts[2].media[:start] + bytes(packet.size) + cuts[2].media[start + packet.size :]
    heard = media.hear([*cuts[:2], replace(cuts[2], media=spoilt), *cuts[3:]])
    assert heard.damaged == 1
    assert len(heard.samples[CUSTOMER]) == 96_000
    wrong = np.abs(heard.samples[CUSTOMER] - media.sound(6, 16_000)[0]) > 1e-3
    assert 1000 < wrong.sum() <= 1200
    assert np.ptp(np.flatnonzero(wrong)) < 1200


def test_an_odd_byte_of_raw_sound_is_counted(media: ModuleType) -> None:
    assert media.hear([fragment(bytes(16_001), "audio/L16;rate=8000")]).damaged == 1


def test_a_truncated_fragment_gives_what_it_holds(media: ModuleType) -> None:
    whole = media.film("matroska", sound_codec="flac", samples=media.sound(4, 16_000), rate_hz=16_000)
    cuts = media.cut(io.BytesIO(whole))
    heard = media.hear([replace(cuts[0], media=cuts[0].media[: len(cuts[0].media) // 2])])
    assert 4000 < len(heard.samples[CUSTOMER]) < 14_000


@pytest.mark.parametrize("junk", [b"", b"hello", b"\x1aE\xdf\xa3" + bytes(500), b"#EXTM3U\n/etc/passwd\n", bytes(9999)])
def test_junk_is_named_and_the_stream_goes_on(media: ModuleType, junk: bytes) -> None:
    cuts = media.cut(io.BytesIO(media.film("wav", sound_codec="pcm_s16le", samples=media.sound(3, 16_000))))
    demuxer = Demuxer(StreamSettings())
    demuxer.feed(cuts[0])
    with pytest.raises(MediaError):
        demuxer.feed(replace(cuts[1], media=junk))
    after = demuxer.feed(cuts[2])
    assert after.start_sample == cuts[2].start_ms * 16


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(picture_max_pixels=96 * 64 - 1), "96x64"),
        (MediaLimits(pixels_per_fragment_max=20 * 96 * 64), "pixels_per_fragment_max"),
        (MediaLimits(channels_max=1), "2 channels"),
        (MediaLimits(sample_rate_max_hz=44_100), "48000 Hz"),
        (MediaLimits(fragment_max_s=0.5), "0.5 s of media"),
        (MediaLimits(streams_max=1), "2 streams"),
        (MediaLimits(fragment_max_bytes=2000), "at most 2000"),
        (MediaLimits(packets_max=20), "more than 20 packets"),
        (MediaLimits(samples_per_fragment_max=9000), "more than 9000 samples"),
        (MediaLimits(decode_max_s=1e-6), "of processor time"),
    ],
)
def test_limits_are_named(media: ModuleType, limits: MediaLimits, message: str) -> None:
    whole = media.film(
        "mp4", picture_codec="libx264", sound_codec="aac", samples=media.sound(2, 48_000, 2), rate_hz=48_000, seconds=2
    )
    cuts = media.cut(io.BytesIO(whole))
    with pytest.raises(MediaError, match=message):
        Demuxer(StreamSettings(limits=limits)).feed(cuts[0])


def test_pictures_that_grow_on_the_way_are_counted_as_they_come(media: ModuleType) -> None:
    small = media.film("mpegts", picture_codec="libx264", seconds=0.4)
    large = media.film("mpegts", picture_codec="libx264", seconds=0.4, size=(640, 360))
    grown = fragment(small + large, "video/mp2t")
    limits = MediaLimits(pixels_per_fragment_max=5 * 640 * 360)
    assert len(Demuxer(StreamSettings()).feed(grown).frames) > 1
    with pytest.raises(MediaError, match="pixels_per_fragment_max"):
        Demuxer(StreamSettings(limits=limits)).feed(grown)


def test_sound_has_its_own_time_to_be_decoded_in(media: ModuleType) -> None:
    whole = media.film("flac", sound_codec="flac", samples=media.sound(1, 48_000), rate_hz=48_000)
    with pytest.raises(MediaError, match="of processor time"):
        Demuxer(StreamSettings(limits=MediaLimits(decode_max_s=1e-6))).feed(fragment(whole, "audio/flac"))


def test_pictures_may_be_large_or_deep_but_not_both() -> None:
    deep = fragment(bombs.pictures("ffv1", "yuv444p16le", (96, 64), 3, "matroska"), "video/x-matroska")
    assert Demuxer(StreamSettings()).feed(deep).frames
    limits = MediaLimits(picture_max_pixels=96 * 64)
    with pytest.raises(MediaError, match="yuv444p16le, 36864 bytes each"):
        Demuxer(StreamSettings(limits=limits)).feed(deep)


def test_times_that_are_hours_apart_are_no_fragment(media: ModuleType) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream: Any = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for n in (0, 1, 25 * 7200):
            picture = av.VideoFrame.from_ndarray(media.picture(n), format="rgb24")
            picture.pts = n
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    demuxer = Demuxer(StreamSettings())
    with pytest.raises(MediaError, match=r"7\.2e\+03 s apart"):
        demuxer.feed(fragment(file.getvalue(), "video/x-matroska"))
    after = media.cut(io.BytesIO(media.film("matroska", picture_codec="mjpeg", seconds=1)))[0]
    assert [frame.time_ms for frame in demuxer.feed(replace(after, seq=1)).frames] == [0, 200, 400]


def test_a_delay_of_years_at_the_front_is_refused(media: ModuleType) -> None:
    cut = media.cut(io.BytesIO(media.film("flac", sound_codec="flac", samples=media.sound(1, 16_000))))[0]
    told = b"0/16000"
    assert cut.media.count(told) == 1
    with pytest.raises(MediaError, match="s apart"):
        Demuxer(StreamSettings()).feed(replace(cut, media=cut.media.replace(told, b"-9999/1")))


@pytest.mark.parametrize("duration_ms", [61_000, 40_000_000, 1 << 62, (1 << 64) - 1])
def test_a_damaged_packet_that_lasts_for_ever_is_refused(duration_ms: int) -> None:
    with pytest.raises(MediaError, match="a damaged packet that says to last"):
        Demuxer(StreamSettings()).feed(fragment(bombs.damaged_for_ever(duration_ms), "audio/x-matroska"))


def test_a_fragment_without_any_packet_is_refused(media: ModuleType) -> None:
    with pytest.raises(MediaError, match="holds no packet of sound or picture"):
        Demuxer(StreamSettings()).feed(fragment(b"".join(media.wav_stream(0)), "audio/wav"))


def test_numbers_that_float32_cannot_hold_are_damaged_sound() -> None:
    demuxed = Demuxer(StreamSettings()).feed(fragment(bombs.wav(48_000, 1, 64, 3), "audio/wav"))
    assert demuxed.damaged > 0
    assert all(np.isfinite(block.samples).all() for block in demuxed.blocks)


def test_sound_that_always_changes_its_rate_is_refused() -> None:
    with pytest.raises(MediaError, match="more than 100 times"):
        Demuxer(StreamSettings()).feed(fragment(bombs.alternating_mp3()[:100_000], "audio/mpeg"))


def test_a_header_that_unpacks_to_a_gigabyte_is_not_unpacked() -> None:
    with pytest.raises(MediaError, match="Cannot allocate memory"):
        Demuxer(StreamSettings()).feed(fragment(bombs.packed_mp4_header(900 << 20), "video/quicktime"))


@pytest.mark.parametrize("content_type", ["audio/L16;rate=48000;channels=2", "audio/PCMU;rate=48000;channels=2"])
@pytest.mark.parametrize(
    "limits", [MediaLimits(channels_max=1), MediaLimits(sample_rate_max_hz=8000), MediaLimits(fragment_max_s=0.1)]
)
def test_limits_hold_for_raw_sound(content_type: str, limits: MediaLimits) -> None:
    with pytest.raises(MediaError):
        Demuxer(StreamSettings(limits=limits)).feed(fragment(bytes(48_000), content_type))


@pytest.mark.parametrize("codec", ["libx264", "libvpx", "mpeg4"])
def test_spoilt_fragments_never_break_the_demuxer(media: ModuleType, codec: str) -> None:
    whole = media.film(
        "matroska",
        picture_codec=codec,
        sound_codec="libopus",
        samples=media.sound(4, 48_000),
        rate_hz=48_000,
        seconds=4,
    )
    cuts = media.cut(io.BytesIO(whole))
    rng = np.random.default_rng(3)
    for _ in range(15):
        demuxer = Demuxer(StreamSettings())
        for cut in cuts:
            spoilt = np.frombuffer(cut.media, dtype=np.uint8).copy()
            spoilt[rng.integers(0, len(spoilt), 20)] = rng.integers(0, 256, 20)
            try:
                demuxer.feed(replace(cut, media=spoilt.tobytes()))
            except MediaError:
                continue
        demuxer.finish()


def test_finishing_twice_gives_nothing_more(media: ModuleType) -> None:
    demuxer = Demuxer(StreamSettings())
    demuxer.feed(fragment(l16(media.sound(1, 8000)), "audio/L16;rate=8000"))
    assert demuxer.finish().blocks
    assert demuxer.finish().blocks == []


def test_real_phone_call_and_clips(media: ModuleType, data_dir: Any) -> None:
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
