"""Any media in, fragments out that stand by themselves."""

import io
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.errors import MediaError
from pipelines.media import byte_stream
from pipelines.media.fragment import fragments
from pipelines.types import FRAGMENT_MAX_BYTES, Participant
from tests.fuzz import bombs
from tests.pipelines import media_files as media
from tests.pipelines.media_files import BOTH

SOUND_FILES = [
    ("wav", "pcm_s16le", 44_100),
    ("wav", "pcm_f32le", 48_000),
    ("flac", "flac", 44_100),
    ("mp3", "libmp3lame", 44_100),
    ("ipod", "aac", 44_100),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
    ("mpegts", "aac", 44_100),
]
FILMS = [
    ("mp4", "libx264", "aac", {"bf": "2"}),
    ("mp4:faststart", "libx264", "aac", {"bf": "2"}),
    ("mp4:frag_keyframe+empty_moov", "libx264", "aac", {"bf": "2"}),
    ("mov", "mjpeg", "pcm_s16le", {}),
    ("webm", "libvpx", "libopus", {"deadline": "realtime", "auto-alt-ref": "0"}),
    ("matroska", "libx264", "flac", {"bf": "3"}),
    ("mpegts", "libx264", "aac", {"bf": "2"}),
    ("avi", "mpeg4", "libmp3lame", {}),
]


def film(container: str, picture: str, sound: str, picture_options: dict[str, str], **more: Any) -> bytes:
    return media.film(
        container,
        picture_codec=picture,
        sound_codec=sound,
        samples=media.sound(4, 48_000),
        rate_hz=48_000,
        seconds=4,
        picture_options=picture_options,
        **more,
    )


def check_contract(cuts: list[Any]) -> None:
    assert [fragment.seq for fragment in cuts] == list(range(len(cuts)))
    assert [fragment.final for fragment in cuts] == [False] * (len(cuts) - 1) + [True]
    assert cuts[0].start_ms == 0
    for fragment in cuts:
        assert len(fragment.media) <= FRAGMENT_MAX_BYTES
        with av.open(io.BytesIO(fragment.media), "r") as container:
            assert sum(packet.size > 0 for packet in container.demux()) > 0


@pytest.mark.parametrize(("container", "codec", "rate_hz"), SOUND_FILES)
def test_sound_is_cut_about_every_second(tmp_path: Path, container: str, codec: str, rate_hz: int) -> None:
    path = tmp_path / "sound"
    path.write_bytes(media.film(container, sound_codec=codec, samples=media.sound(4.3, rate_hz), rate_hz=rate_hz))
    cuts = media.cut(path)
    check_contract(cuts)
    assert {fragment.content_type for fragment in cuts} == {"audio/x-matroska"}
    assert all(850 <= later.start_ms - earlier.start_ms <= 1150 for earlier, later in pairwise(cuts))
    piped = media.cut(media.Pipe(path.read_bytes()))
    # The padding at the end of an MP3 is known only to who can look there first.
    assert [fragment.media for fragment in piped][:-1] == [fragment.media for fragment in cuts][:-1]


@pytest.mark.parametrize("kind", FILMS, ids=lambda kind: " ".join(kind[:3]))
def test_films_are_cut_the_same_from_a_file_a_reader_and_chunks(
    tmp_path: Path, kind: tuple[str, str, str, dict[str, str]]
) -> None:
    path = tmp_path / "film"
    container, _, flags = kind[0].partition(":")
    path.write_bytes(film(container, *kind[1:], options={"movflags": flags} if flags else {}))
    cuts = media.cut(path)
    check_contract(cuts)
    assert {fragment.content_type for fragment in cuts} == {"video/x-matroska"}
    assert all(500 <= later.start_ms - earlier.start_ms <= 1500 for earlier, later in pairwise(cuts))
    whole = path.read_bytes()
    for source in (media.Pipe(whole), iter([whole[:7], b"", whole[7:9000], whole[9000:]]), io.BytesIO(whole)):
        assert [fragment.media for fragment in media.cut(source)] == [fragment.media for fragment in cuts]


def test_pictures_are_cut_at_key_frames_when_there_are_any() -> None:
    cuts = media.cut(io.BytesIO(film("matroska", "libx264", "flac", {}, key_every=20)))
    for fragment in cuts:
        with av.open(io.BytesIO(fragment.media), "r") as container:
            assert next(iter(container.demux(video=0))).is_keyframe


def test_pictures_are_cut_between_rare_key_frames() -> None:
    cuts = media.cut(io.BytesIO(film("matroska", "libx264", "flac", {"bf": "2"}, key_every=1000)))
    assert len(cuts) == 4
    assert len(media.hear(cuts).frames) == 20


def test_heavy_pictures_are_cut_before_a_second_is_over() -> None:
    heavy = media.film("matroska", picture_codec="mjpeg", seconds=1, size=(640, 480), show=media.noise)
    assert len(heavy) > 3 * FRAGMENT_MAX_BYTES
    cuts = media.cut(io.BytesIO(heavy))
    check_contract(cuts)
    assert len(cuts) > 3


def test_a_picture_larger_than_a_fragment_is_refused() -> None:
    big = media.film("matroska", picture_codec="mjpeg", seconds=0.2, size=(2400, 1800), show=media.noise)
    with pytest.raises(MediaError, match="re-encode the pictures smaller"):
        media.cut(io.BytesIO(big))


def test_the_first_fragment_comes_before_the_source_ends() -> None:
    near, far = socket.socketpair()
    whole = media.film("webm", sound_codec="libopus", samples=media.sound(8, 48_000), rate_hz=48_000)
    with near, far, far.makefile("rb", buffering=0) as reader:
        near.sendall(whole[: len(whole) // 2])
        stream = fragments(
            reader,
            call_id="live",
            tenant="default",
            stream="main",
            participants=(Participant.CUSTOMER,),
            consent={},
            start_ms=5000,
        )
        first = next(stream)
        assert (first.seq, first.start_ms, first.final) == (0, 5000, False)
        near.sendall(whole[len(whole) // 2 :])
        near.close()
        assert [fragment.final for fragment in stream][-1]


def test_a_torn_live_stream_keeps_what_came() -> None:
    whole = media.film("webm", sound_codec="libopus", samples=media.sound(8, 48_000), rate_hz=48_000)
    cuts = media.cut(media.Pipe(whole[: len(whole) // 2]))
    check_contract(cuts)
    assert 3.5 * 16_000 < len(media.hear(cuts).samples[Participant.CUSTOMER]) < 4.5 * 16_000


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("encoding", "width"), [("L16", 2), ("PCMU", 1), ("PCMA", 1)])
def test_raw_sound_is_cut_by_bytes(encoding: str, width: int, channels: int, rate_hz: int) -> None:
    content_type = f"audio/{encoding};rate={rate_hz};channels={channels}"
    whole = bytes(range(256)) * (rate_hz * channels * width * 5 // 2 // 256)
    cuts = media.cut(media.Pipe(whole), content_type=content_type)
    assert b"".join(fragment.media for fragment in cuts) == whole
    assert [(f.start_ms, f.content_type, f.final) for f in cuts] == [
        (0, content_type, False),
        (1000, content_type, False),
        (2000, content_type, True),
    ]


def test_joined_recordings_follow_each_other() -> None:
    one = media.film("mpegts", sound_codec="mp2", samples=media.sound(4, 48_000), rate_hz=48_000)
    cuts = media.cut(io.BytesIO(one * 3))
    check_contract(cuts)
    assert len(cuts) in {12, 13}
    assert abs(len(media.hear(cuts).samples[Participant.CUSTOMER]) - 12 * 16_000) < 3000


def test_raw_sound_that_ends_with_a_fragment_is_final_there() -> None:
    cuts = media.cut(iter([bytes(8000)] * 2), content_type="audio/PCMU")
    assert [(len(fragment.media), fragment.final) for fragment in cuts] == [(8000, False), (8000, True)]


def test_raw_sound_at_odd_rates_starts_on_whole_ms() -> None:
    cuts = media.cut(iter([bytes(22_050 * 2 * 2)]), content_type="audio/L16;rate=22050", fragment_ms=333)
    assert [fragment.start_ms for fragment in cuts] == [320 * n for n in range(7)]
    assert len(cuts[0].media) == 22_050 * 320 // 1000 * 2


@pytest.mark.parametrize(
    "content_type", ["audio/L16", "audio/L16;rate=x", "audio/PCMU;channels=0", "audio/PCMA;rate=1"]
)
def test_a_senseless_raw_content_type_is_named(content_type: str) -> None:
    with pytest.raises(MediaError, match="content type"):
        media.cut(iter([b"12"]), content_type=content_type)


def test_a_long_stream_costs_no_memory() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    media.cut(media.wav_stream(5 << 20))
    before, count, highest = resident_bytes(), 0, 0
    stream = fragments(
        media.wav_stream(120 << 20), call_id="c", tenant="t", stream="s", participants=(Participant.MIXED,), consent={}
    )
    for count, _ in enumerate(stream, 1):  # noqa: B007 - counted after the loop
        highest = max(highest, resident_bytes())
    assert count > 650
    assert highest - before < 20 << 20


def test_an_mp4_stream_larger_than_the_spool_is_refused() -> None:
    whole = film("mp4", "libx264", "aac", {})
    with pytest.raises(MediaError, match="frag_keyframe"), byte_stream.opened(media.Pipe(whole), spool_max_bytes=5000):
        pass


HOSTILE = {
    "text": b"Dear customer,\n" * 500,
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "zeros": bytes(5000),
    "one byte": b"\x1a",
    "matroska magic": b"\x1a\x45\xdf\xa3" + bytes(100),
    "riff": b"RIFF\xff\xff\xff\xffWAVEfmt \x00\x00\x00\x00",
    "mp4 magic": b"\x00\x00\x00\x18ftypmp42" + bytes(100),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_media_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "call.mp4"
    path.write_bytes(HOSTILE[name])
    for source in (path, media.Pipe(HOSTILE[name])):
        with pytest.raises(MediaError):
            media.cut(source)


def test_nothing_at_all_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    for source in (empty, io.BytesIO(), media.Pipe(b""), iter([b"", b""])):
        with pytest.raises(MediaError, match="is empty"):
            media.cut(source)
    with pytest.raises(MediaError, match="is not a file"):
        media.cut(tmp_path / "none.wav")
    with pytest.raises(MediaError, match="is empty"):
        media.cut(iter([]), content_type="audio/PCMU")


def test_a_header_without_packets_is_named() -> None:
    with pytest.raises(MediaError, match="no packet"):
        media.cut(media.wav_stream(0))


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (bombs.wav(1, 1, 8), "sound at 1 Hz"),
        (bombs.many_ts_streams(), "holds 1000 sound tracks"),
    ],
    ids=["one sample a second", "thousands of streams"],
)
def test_what_would_last_for_ever_is_named(hostile: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        media.cut(io.BytesIO(hostile))


def test_times_of_years_are_no_time_of_the_call() -> None:
    cuts = media.cut(io.BytesIO(bombs.endless(1_000_000_000, 1 << 31, 1 << 31)), BOTH)
    assert cuts[-1].start_ms < 60_000
    with pytest.raises(MediaError, match="at most 604800000 ms are allowed"):
        media.cut(
            io.BytesIO(media.film("flac", sound_codec="flac", samples=media.sound(1, 16_000))), start_ms=604_800_001
        )


def test_a_codec_that_matroska_cannot_hold_is_named() -> None:
    with pytest.raises(MediaError, match="flv, which Matroska cannot"):
        media.cut(io.BytesIO(media.film("flv", picture_codec="flv", seconds=1)))


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw", "adpcm_ima_wav"])
def test_telephone_codecs_that_matroska_cannot_hold_become_wav(codec: str) -> None:
    cuts = media.cut(io.BytesIO(media.film("wav", sound_codec=codec, samples=media.sound(3, 8000), rate_hz=8000)))
    check_contract(cuts)
    assert {fragment.content_type for fragment in cuts} == {"audio/wav"}
    samples = media.hear(cuts).samples[Participant.CUSTOMER]
    assert np.abs(samples[:48_000] - media.sound(3, 16_000)[0])[50:-50].max() < 0.06


def test_an_error_of_the_source_is_not_taken_for_its_end() -> None:
    def torn() -> Any:
        yield from media.wav_stream(1 << 20)
        raise ConnectionResetError("peer went away")

    with pytest.raises(ConnectionResetError):
        media.cut(torn())


@pytest.mark.parametrize("container", ["matroska", "mpegts", "ogg", "mp3", "wav", "avi"])
def test_damaged_files_end_or_raise_but_never_break(container: str) -> None:
    codec = {"ogg": "libopus", "mp3": "libmp3lame", "wav": "pcm_s16le"}.get(container, "libmp3lame")
    whole = media.film(container, sound_codec=codec, samples=media.sound(3, 48_000), rate_hz=48_000)
    rng = np.random.default_rng(0)
    for _ in range(25):
        spoilt = np.frombuffer(whole, dtype=np.uint8).copy()
        spoilt[rng.integers(0, len(spoilt), 30)] = rng.integers(0, 256, 30)
        try:
            cuts = media.cut(io.BytesIO(spoilt[: rng.integers(1, len(spoilt))].tobytes()))
        except MediaError:
            continue
        assert cuts[-1].final
