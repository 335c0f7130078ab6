"""Variants of the shared media cases: the same kinds by other makers, other codecs and containers, made when asked for."""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.pipelines.media.media_cases import AGENT, BOTH, CUSTOMER, Case, Make, Spans
from tests.pipelines.media.media_makers import (
    Edit,
    Pictures,
    Sound,
    dropped,
    every_lost,
    joined,
    jumped,
    pieces,
    write,
)

FMP4 = {"movflags": "frag_keyframe+empty_moov"}
FROM, TO = "AUDIO_FROM_CUSTOMER", "AUDIO_TO_CUSTOMER"
CUT = 73_600
"""4.6 s at 16 kHz: silence."""
ALL_25 = tuple(n / 25 for n in range(300))
EACH_S = tuple(float(n) for n in range(12))


def _moved(spans: Spans, by_s: float) -> Spans:
    return tuple((start + by_s, end + by_s) for start, end in spans)


def _one(container: str, codec: str, rate_hz: int, edit: Edit | None = None, options: Any = None, **more: Any) -> Make:
    return lambda s: write(container, Sound(s.customer, codec, rate_hz, edit=edit, **more), options=options)


def _film(container: str, codec: str, rate_hz: int, times_s: Sequence[float], bframes: int = 3, **more: Any) -> Make:
    """`sound` and `pictures` in `more` are edits."""
    shown = {"x264-params": f"no-asm=1:bframes={bframes}:b-adapt=0:keyint=250"}
    sound, pictures = more.pop("sound", None), more.pop("pictures", None)
    return lambda s: write(
        container,
        Pictures(times_s, options=shown, edit=pictures),
        Sound(s.customer, codec, rate_hz, edit=sound),
        **more,
    )


def _joined(container: str, codec: str, rate_hz: int, length_s: float, options: Any = None) -> Make:
    return lambda s: joined(container, s.customer, length_s, codec, rate_hz, options=options)


def _two(first: Callable[[Any], Sound], second: Callable[[Any], Sound], containers: tuple[str, str]) -> Make:
    """Two recordings in one file, each of half of the customer's sound."""
    return lambda s: write(containers[0], first(s.customer[:CUT])) + write(containers[1], second(s.customer[CUT:]))


def _rates(container: str, codec: str, before_hz: int, after_hz: int) -> Make:
    return _two(lambda x: Sound(x, codec, before_hz), lambda x: Sound(x, codec, after_hz), (container, container))


def _tracks(container: str, *who: tuple[int | None, dict[str, Any]]) -> Make:
    """A track each of the agent (0), the customer (1) or silence (None)."""
    return lambda s: write(
        container,
        *(Sound(s.stereo[0] * 0 if n is None else s.stereo[n].copy(), **more) for n, more in who),
    )


def _live(container: str, *lengths: int | None) -> Make:
    """A track of so many samples for each: all of the customer's sound where it is None. Nothing says which one is empty."""
    return lambda s: write(container, *(Sound(s.customer[:length]) for length in lengths), options={"live": "1"})


def _late(party: int, at_s: float, container: str, codec: str, rate_hz: int) -> Make:
    """A party that joined later: the file says so by its own zero."""
    start = round(at_s * 16_000)
    return lambda s: write(
        container, Sound(s.stereo[party, start:].copy(), codec, rate_hz, edit=jumped((-1, at_s))), as_came=False
    )


def _party(party: int, container: str, codec: str, rate_hz: int, edit: Edit | None = None) -> Make:
    return lambda s: write(container, Sound(s.stereo[party].copy(), codec, rate_hz, edit=edit))


def _header(container: str, codec: str, mark: bytes, form: str, length: int) -> Make:
    """A file whose header says that its sound has `length` bytes."""

    def make(sounds: Any) -> bytes:
        media = write(container, Sound(sounds.customer, codec, 16_000))
        at = media.index(mark) + len(mark)
        return media[:at] + struct.pack(form, length) + media[at + struct.calcsize(form) :]

    return make


def _cut_off(make: Make, part: float = 0.7) -> Make:
    def cut(sounds: Any) -> bytes:
        media = make(sounds)
        return media[: int(len(media) * part)]

    return cut


def _damaged(make: Make, count: int = 4096) -> Make:
    """With so many zeros in the middle."""

    def damaged(sounds: Any) -> bytes:
        media = make(sounds)
        half = len(media) // 2
        return media[:half] + bytes(count) + media[half + count :]

    return damaged


def _opposed(gain: float, container: str, codec: str, rate_hz: int, bit_rate: int | None = None) -> Make:
    return lambda s: write(
        container, Sound(np.stack([s.customer, -gain * s.customer]), codec, rate_hz, bit_rate=bit_rate)
    )


def _only(stereo: Any, channel: int) -> Any:
    return np.stack([x if n == channel else 0 * x for n, x in enumerate(stereo)])


def _long_still(sounds: Any) -> bytes:
    whole = np.concatenate([sounds.customer, np.zeros(60 * 16_000, np.float32), sounds.customer])
    times = [n / 5 for n in range(84 * 5) if n / 5 < 4.5 or n / 5 > 70]
    return write("matroska", Pictures(times), Sound(whole))


CODECS = [
    ("mp3", "libmp3lame", 44_100), ("mp4", "aac", 44_100), ("mpegts", "aac", 48_000), ("flv", "aac", 44_100),
    ("ogg", "flac", 48_000), ("avi", "pcm_s16le", 16_000), ("mov", "pcm_s16be", 8000), ("caf", "pcm_s16be", 16_000),
    ("aiff", "pcm_s16be", 44_100), ("w64", "pcm_s16le", 16_000), ("au", "pcm_mulaw", 8000),
    ("amr", "libopencore_amrnb", 8000), ("3gp", "libopencore_amrnb", 8000), ("wav", "g722", 16_000), ("wav", "g726", 8000),
    ("matroska", "wavpack", 44_100), ("latm", "aac", 44_100), ("mpegts", "libopus", 48_000), ("rm", "real_144", 8000),
]  # fmt: skip
JOINED: list[tuple[str, str, int, float, Any, str]] = [
    ("webm", "libopus", 48_000, 0.7, {"live": "1"}, ""), ("webm", "libopus", 48_000, 2, None, ""),
    ("matroska", "pcm_s16le", 16_000, 2, None, ""), ("ogg", "libopus", 48_000, 0.7, None, ""),
    ("ogg", "flac", 48_000, 2, None, ""), ("mpegts", "aac", 48_000, 2, None, ""), ("mp4", "aac", 44_100, 0.7, None, ""),
    ("mp4", "aac", 44_100, 10, {"movflags": "faststart"}, ""), ("mp4", "aac", 48_000, 2, FMP4, ""),
    ("wav", "pcm_s16le", 16_000, 0.7, None, ""), ("mp3", "libmp3lame", 44_100, 2, None, "fault 8"),
    ("mp3", "libmp3lame", 44_100, 10, None, ""), ("flac", "flac", 44_100, 2, None, ""),
    ("flac", "flac", 44_100, 10, None, ""), ("adts", "aac", 44_100, 10, None, ""),
    ("flv", "aac", 44_100, 10, None, ""), ("aiff", "pcm_s16be", 16_000, 10, None, ""),
    ("caf", "pcm_s16be", 16_000, 10, None, ""), ("w64", "pcm_s16le", 16_000, 10, None, ""),
    ("amr", "libopencore_amrnb", 8000, 2, None, ""), ("avi", "pcm_s16le", 16_000, 2, None, ""),
    ("3gp", "libopencore_amrnb", 8000, 0.7, None, ""), ("au", "pcm_s16be", 16_000, 2, None, ""),
]  # fmt: skip
MUTED = (*CUSTOMER[:1], *_moved(CUSTOMER[1:], 120))
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
STEP = jumped((4.6, 36_000))
OTHER_CODECS = ("pcm_s16le", 16_000), ("pcm_s16le", 8000), ("pcm_mulaw", 8000)

VARIANTS: list[Case] = [
    *(Case(f"codec {codec} in {c}", make=_one(c, codec, hz)) for c, codec, hz in CODECS),
    # Pictures.
    *(
        Case(f"1 fps, {b} B-frames, {c}", last_picture_s=11, make=_film(c, k, 48_000, EACH_S, b))
        for c, k, b in (("matroska", "libopus", 16), ("mpegts", "aac", 16), ("mp4", "aac", 3), ("mov", "pcm_s16le", 3))
    ),
    Case("1 fps, B-frames, fragmented MP4", last_picture_s=11, make=_film("mp4", "aac", 48_000, EACH_S, options=FMP4), pending="fault 3"),
    Case("variable rate, B-frames, FLV", last_picture_s=11.5, make=_film("flv", "aac", 44_100, (0, 0.1, 0.2, 0.9, 2.5, 4, 4.04, 6, 9, 9.1, 11.5))),
    Case("a still minute with B-frames", {"customer": (*CUSTOMER, *_moved(CUSTOMER, 72))}, sound_s=84, last_picture_s=83.8, make=_long_still),
    Case("pictures from 3 s on, MP4", last_picture_s=11.8, pictures_at_s=(3,), make=_film("mp4", "aac", 48_000, [t for t in ALL_25 if t >= 3], 0)),
    Case("pictures from 3 s on, TS", make=_film("mpegts", "aac", 48_000, [t for t in ALL_25 if t >= 3], 0)),
    # Recorders started again, files joined.
    *(
        Case(f"{c} {codec} joined every {length} s{' (' + ' '.join(o.values()) + ')' if o else ''}", make=_joined(c, codec, hz, length, o), pending=why)
        for c, codec, hz, length, o, why in JOINED
    ),
    Case("WAVs of other rates and codecs joined", make=lambda s: b"".join(write("wav", Sound(p, k, hz)) for p, (k, hz) in zip(pieces(s.customer, 4.6), OTHER_CODECS, strict=True))),
    # Clocks.
    Case("10 h ahead, Matroska", make=_one("matroska", "libopus", 48_000, STEP)),
    Case("10 h ahead, FLV with pictures", last_picture_s=11.8, make=_film("flv", "aac", 44_100, ALL_25, 0, sound=STEP, pictures=STEP)),
    Case("10 h ahead, MP4", make=_one("mp4", "aac", 48_000, STEP)),
    Case("10 h ahead, Matroska with B-frames", make=_film("matroska", "libopus", 48_000, ALL_25, sound=STEP, pictures=STEP)),
    Case("10 h ahead for the encoder too, TS with B-frames", make=_film("mpegts", "aac", 48_000, [t if t < 4.6 else t + 36_000 for t in ALL_25], sound=STEP)),
    Case("10 h ahead, only the sound, TS", last_picture_s=11, make=_film("mpegts", "aac", 48_000, EACH_S, sound=STEP)),
    Case("10 h ahead, only the pictures, FLV", make=_film("flv", "aac", 44_100, ALL_25, pictures=jumped((5, 36_000)))),
    Case("two minutes ahead, only the pictures, TS", make=_film("mpegts", "aac", 48_000, ALL_25, pictures=jumped((5, 120)))),
    Case("10 h ahead, only the sound, FLV at 1 fps", make=_film("flv", "aac", 44_100, EACH_S, sound=STEP)),
    Case("10 h ahead, FLV at 1 fps", make=_film("flv", "aac", 44_100, EACH_S, sound=STEP, pictures=STEP)),
    Case("26.5 h ahead, TS", make=_one("mpegts", "aac", 48_000, jumped((4.6, 2**33 / 90_000)))),
    Case("the counter runs over at 3.7 s, TS", make=_one("mpegts", "aac", 48_000, options={"output_ts_offset": "95440"})),
    Case("the counter runs over after the end, TS", make=_one("mpegts", "aac", 48_000, options={"output_ts_offset": "95390"})),
    Case("back by 0.5 s, TS", make=_two(lambda x: Sound(x, "aac"), lambda x: Sound(x, "aac", edit=jumped((-1, 4.1))), ("mpegts", "mpegts"))),
    Case("back by 0.5 s, WebM", make=_two(Sound, lambda x: Sound(x, edit=jumped((-1, 4.1))), ("webm", "webm"))),
    Case("muted for two minutes, TS", {"customer": MUTED}, sound_s=132, make=_one("mpegts", "aac", 48_000, jumped((4.6, 120)))),
    Case("muted for two minutes, MP4", {"customer": MUTED}, sound_s=132, make=_one("mp4", "aac", 48_000, jumped((4.6, 120)))),
    # Lost packets.
    *(Case(f"every 20th packet lost, {c}", make=_one(c, k, 48_000, every_lost(20))) for c, k in (("matroska", "libopus"), ("ogg", "libopus"), ("mp4", "aac"))),
    *(Case(f"300 ms lost in speech, {c}", make=_one(c, k, 48_000, dropped((2.2, 2.5)))) for c, k in (("mpegts", "aac"), ("matroska", "pcm_s16le"), ("webm", "libopus"))),
    Case("550 ms lost in speech, MP4", make=_one("mp4", "aac", 44_100, dropped((2.2, 2.75)))),
    Case("700 ms lost in silence, Matroska", make=_one("matroska", "libopus", 48_000, dropped((8.2, 8.9)))),
    Case("1 s lost in speech, FLV", {"customer": ((1.12, 2.2), (3.2, 4.32), *CUSTOMER[1:])}, make=_one("flv", "aac", 44_100, dropped((2.2, 3.2)))),
    # Tracks and channels.
    Case("three tracks", BOTH, "-,agent,customer", make=_tracks("matroska", (None, {}), (0, {}), (1, {}))),
    Case("two stereo tracks", BOTH, "agent,customer", make=lambda s: write("matroska", *(Sound(np.stack([x, x])) for x in s.stereo))),
    Case("two stereo tracks, by channel", BOTH, "agent,-,-,customer", make=lambda s: write("matroska", Sound(_only(s.stereo, 0)), Sound(_only(s.stereo, 1)))),
    Case("the third track is the default", make=_tracks("matroska", (0, {"is_default": False}), (None, {"is_default": False}), (1, {"is_default": True}))),
    Case("two tracks, one name", {}, error="name one participant a track", make=_tracks("matroska", (0, {}), (1, {}))),
    Case("Connect's titles in the other order", BOTH, "agent,customer", make=_tracks("matroska", (1, {"title": FROM}), (0, {"title": TO}))),
    Case("Connect's titles in small letters", BOTH, "customer,agent", make=_tracks("matroska", (0, {"title": TO.lower()}), (1, {"title": FROM.lower()}))),
    Case("Connect's agent alone, sent as the customer", {}, error="AUDIO_TO_CUSTOMER", make=_tracks("matroska", (0, {"title": TO}))),
    Case("Connect's title on the customer's track only", BOTH, "agent,customer", error=FROM, make=_tracks("matroska", (1, {"title": FROM}), (0, {}))),
    Case("Connect's titles and a third track", BOTH, "agent,customer,-", error=FROM, make=_tracks("matroska", (1, {"title": FROM}), (0, {"title": TO}), (None, {}))),
    Case("an empty second track", make=lambda s: write("matroska", Sound(s.customer), Sound(s.customer[:0]))),
    Case("an empty second track, TS", make=lambda s: write("mpegts", Sound(s.customer, "aac"), Sound(s.customer[:0], "aac"))),
    Case("an empty second track, TS, both named", {"agent": AGENT}, "agent,customer", warning="the sound track of customer sends nothing", make=lambda s: write("mpegts", Sound(s.stereo[0].copy(), "aac"), Sound(s.customer[:0], "aac"))),
    *(
        Case(f"an empty {n} track, live {c}", make=_live(c, *lengths))
        for c in ("webm", "matroska") for n, lengths in (("first", (0, None)), ("second", (None, 0)))
    ),
    Case("a second track from 4.6 s on, TS", {"agent": AGENT, "customer": CUSTOMER[1:]}, "agent,customer", make=_tracks("mpegts", (0, {"codec": "aac"}), (1, {"codec": "aac", "edit": dropped((-1, 4.6))}))),
    Case("a second track from 4.6 s on, TS, one name", {}, error="name one participant a track", make=_tracks("mpegts", (0, {"codec": "aac"}), (1, {"codec": "aac", "edit": dropped((-1, 4.6))}))),
    Case("a second track from 4.6 s on, live WebM, one name", {}, error="name one participant a track", make=_tracks("webm", (0, {}), (1, {"edit": dropped((-1, 4.6))}))),
    Case("the left channel left out", participants="-,customer", make=lambda s: write("flac", Sound(s.stereo, "flac", 16_000))),
    Case("one participant twice", {}, "customer,customer", error="customer", make=lambda s: write("flac", Sound(s.stereo, "flac", 16_000))),
    # One file a party.
    *(
        Case(f"the customer joins at 4.5 s, {c}", {"agent": AGENT, "customer": CUSTOMER[1:]}, "agent,customer", besides=(_late(1, 4.5, c, k, 48_000),), make=_party(0, "matroska", "libopus", 48_000))
        for c, k in (("matroska", "libopus"), ("mp4", "aac"))
    ),
    Case("both join late", {"agent": AGENT, "customer": CUSTOMER[1:]}, "agent,customer", besides=(_late(1, 4.5, "matroska", "libopus", 48_000),), make=_late(0, 3.5, "matroska", "libopus", 48_000)),
    Case("WAV at 8 kHz beside MKA with gaps", BOTH, "agent,customer", besides=(_party(1, "matroska", "libopus", 48_000, dropped((4.5, 4.9), (8.2, 8.9))),), make=_party(0, "wav", "pcm_s16le", 8000)),
    Case("two WAVs in mu-law", BOTH, "agent,customer", besides=(_party(1, "wav", "pcm_mulaw", 8000),), make=_party(0, "wav", "pcm_mulaw", 8000)),
    # Out of phase.
    *(Case(f"out of phase by {gain}, {k}", make=_opposed(gain, c, k, hz, rate)) for gain, c, k, hz, rate in ((1, "ogg", "libopus", 48_000, None), (0.7, "ogg", "libopus", 48_000, 24_000), (0.5, "mp4", "aac", 48_000, None), (0.9, "flac", "flac", 44_100, None))),
    Case("out of phase and two silent channels", make=lambda s: write("flac", Sound(np.stack([s.customer, -s.customer, 0 * s.customer, 0 * s.customer]), "flac", 48_000))),
    # Lengths that are wrong, files that are cut off.
    *(Case(f"a WAV that says {n} bytes", make=_header("wav", "pcm_s16le", b"data", "<I", n)) for n in (0, 0xFFFFFFFF, 32_000, 10_000_000)),
    Case("a WAV that says 1 byte", make=_header("wav", "pcm_s16le", b"data", "<I", 1)),
    Case("a W64 that says 1 s", make=_header("w64", "pcm_s16le", W64_DATA, "<Q", 32_024)),
    *(
        Case(f"a {what} that says {n}", make=_header(c, k, mark, form, n))
        for what, c, k, mark, form, n in (("W64", "w64", "pcm_s16le", W64_DATA, "<Q", 2**63 - 1), ("AIFF", "aiff", "pcm_s16be", b"SSND", ">I", 32_008), ("AIFF-C", "aiff", "pcm_s16le", b"SSND", ">I", 0))
    ),
    Case("a FLAC cut off", {"customer": CUSTOMER[:2]}, sound_s=None, warning="missing", make=_cut_off(_one("flac", "flac", 16_000))),
    Case("an MP4 with faststart cut off", {"customer": CUSTOMER[:2]}, sound_s=None, warning="missing", make=_cut_off(_one("mp4", "aac", 48_000, options={"movflags": "faststart"}))),
    Case("half a Matroska cluster", {"customer": CUSTOMER[:2]}, sound_s=None, warning="missing", make=_cut_off(_one("matroska", "libopus", 48_000))),
    # Damage in the middle: what FFmpeg passes over up to the next cluster is said.
    Case("4 KiB of damage, WebM", {"customer": (CUSTOMER[0], (5.12, 6.3), (9.97, 12.0))}, warning="bytes were passed over, with 3\\d{3} ms", make=_damaged(_one("webm", "libopus", 48_000))),
    Case("4 KiB of damage, Matroska with PCM", {"customer": (CUSTOMER[0], (5.12, 6.02), (9.98, 12.0))}, warning="bytes were passed over, with 3\\d{3} ms", make=_damaged(_one("matroska", "pcm_s16le", 16_000))),
    # Rates and channels that change on the way.
    Case("MP3 44.1 to 22.05 kHz", make=_rates("mp3", "libmp3lame", 44_100, 22_050)),
    Case("ADTS 16 to 48 kHz", make=_rates("adts", "aac", 16_000, 48_000)),
    Case("TS 48 to 16 kHz", make=_rates("mpegts", "aac", 48_000, 16_000)),
    Case("Matroska PCM 16 to 8 kHz", make=_rates("matroska", "pcm_s16le", 16_000, 8000)),
    Case("chained FLAC in Ogg 48 to 16 kHz", make=_rates("ogg", "flac", 48_000, 16_000)),
    Case("chained Opus, mono then stereo", make=_two(Sound, lambda x: Sound(np.stack([x, x])), ("ogg", "ogg"))),
    Case("WebM, then Matroska with PCM", make=_two(Sound, lambda x: Sound(x, "pcm_s16le", 16_000), ("webm", "matroska"))),
    Case("WebM, mono then stereo", make=_two(Sound, lambda x: Sound(np.stack([x, x])), ("webm", "webm"))),
]  # fmt: skip
