"""What is damaged costs its own place and no more, and is counted."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest

from pipelines.errors import MediaError
from pipelines.media.demux import Demuxer
from pipelines.settings import StreamSettings
from tests.fuzz import bombs
from tests.pipelines import media_files as media
from tests.pipelines.media_files import CUSTOMER, fragment


def test_samples_that_are_no_numbers_become_silence_and_are_counted() -> None:
    samples = media.sound(2, 48_000)
    samples[0, 24_000:24_010] = [np.nan, np.inf, -np.inf, 1e30, -1e30, 0, 2, -2, np.nan, 0]
    whole = media.film("wav", sound_codec="pcm_f32le", samples=samples, rate_hz=48_000)
    heard = media.hear(media.cut(io.BytesIO(whole)))
    assert heard.damaged == 1
    assert np.isfinite(heard.samples[CUSTOMER]).all()
    assert np.abs(heard.samples[CUSTOMER]).max() <= 1
    assert len(heard.samples[CUSTOMER]) == 32_000


def test_a_damaged_packet_is_skipped_and_costs_no_place() -> None:
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


def test_an_odd_byte_of_raw_sound_is_counted() -> None:
    assert media.hear([fragment(bytes(16_001), "audio/L16;rate=8000")]).damaged == 1


def test_a_truncated_fragment_gives_what_it_holds() -> None:
    whole = media.film("matroska", sound_codec="flac", samples=media.sound(4, 16_000), rate_hz=16_000)
    cuts = media.cut(io.BytesIO(whole))
    heard = media.hear([replace(cuts[0], media=cuts[0].media[: len(cuts[0].media) // 2])])
    assert 4000 < len(heard.samples[CUSTOMER]) < 14_000


@pytest.mark.parametrize("junk", [b"", b"hello", b"\x1aE\xdf\xa3" + bytes(500), b"#EXTM3U\n/etc/passwd\n", bytes(9999)])
def test_junk_is_named_and_the_stream_goes_on(junk: bytes) -> None:
    cuts = media.cut(io.BytesIO(media.film("wav", sound_codec="pcm_s16le", samples=media.sound(3, 16_000))))
    demuxer = Demuxer(StreamSettings())
    demuxer.feed(cuts[0])
    with pytest.raises(MediaError):
        demuxer.feed(replace(cuts[1], media=junk))
    after = demuxer.feed(cuts[2])
    assert after.start_sample == cuts[2].start_ms * 16


def test_a_fragment_without_any_packet_is_refused() -> None:
    with pytest.raises(MediaError, match="holds no packet of sound or picture"):
        Demuxer(StreamSettings()).feed(fragment(b"".join(media.wav_stream(0)), "audio/wav"))


def test_numbers_that_float32_cannot_hold_are_damaged_sound() -> None:
    demuxed = Demuxer(StreamSettings()).feed(fragment(bombs.wav(48_000, 1, 64, 3), "audio/wav"))
    assert demuxed.damaged > 0
    assert all(np.isfinite(block.samples).all() for block in demuxed.blocks)


@pytest.mark.parametrize("codec", ["libx264", "libvpx", "mpeg4"])
def test_spoilt_fragments_never_break_the_demuxer(codec: str) -> None:
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
