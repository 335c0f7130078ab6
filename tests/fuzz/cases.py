"""The hostile inputs: case `number` of a format under a seed is always the same bytes."""

from dataclasses import dataclass
from random import Random

from tests.fuzz.bombs import bomb, bomb_names
from tests.fuzz.mutate import ABSURD, BLIND, splice
from tests.fuzz.seeds import seeds

HEADERS = "headers"
"""The format whose record headers are hostile, whatever its media."""
FORMATS = (*seeds(), HEADERS)
_START_MS = 1000
_SPLICE_P, _ABSURD_P, _BOMB_P = 0.12, 0.35, 0.38
_HOSTILE: dict[str, tuple[bytes, ...]] = {
    "v": (b"2", b"", b"1" * 5000, b"\xff"),
    "seq": (b"-1", b"2147483647", b"99999999999", b"1e9", "٣".encode(), b""),
    "start-ms": (b"604800000", b"604800001", b"-5", b"0x10", b"1.5", b"9" * 40),
    "participants": (b"", b"agent,customer", b"agent,agent", b",".join([b"mixed"] * 400), b"nobody", b"\xff\xfe"),
    "final": (b"1", b"true", b"0"),
    "consent": (b"customer=audio", b"=;=;", b"customer=" + b"+".join([b"audio"] * 500), b"everyone=all", b"\0"),
    "tenant": (b"../../etc", b"a" * 65, b"", b"t"),
    "content-type": (
        b"audio/L16", b"audio/L16;rate=0", b"audio/L16;rate=384000;channels=64", b"audio/L16;rate=192000;channels=8",
        b"audio/l16 ; rate=4000", b"audio/PCMU;rate=1", b"audio/PCMU;rate=99999999999999", b"audio/PCMA;channels=0",
        b"audio/L16;rate=16000;rate=8000", b"audio/PCMU;rate=" + b"8" * 5000, b"audio/PCMU;channels=8;rate=4000",
        b"video/mp4", b"text/html", b"audio/wav", b"/", b"audio/L16;rate=8000\r\nv: 2",
        "audio/L16;rate=٨٠٠٠".encode(),
        b"audio/L16;rate=+8000", b"audio/L16;rate=8_000", b"", b"audio/L16;rate=16000;endian=little", b"audio/GSM",
        b"audio/G722", b"audio/G729", b"audio/x-sln;rate=192000;channels=8", b"audio/basic", b"audio/G726-32",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile input; `valid` is the unspoilt media of its format, which may come `before` and `after` it."""

    format: str
    number: int
    mutation: str
    headers: tuple[tuple[str, bytes], ...]
    media: bytes
    valid: bytes
    before: bool
    after: bool
    piped: bool
    """Whether the `Fragmenter` reads it in order, without going back."""


def case(seed: int, format_name: str, number: int) -> Case:
    """Makes an input anew."""
    rng = Random(f"{seed}/{format_name}/{number}")
    plain = "l16" if format_name == HEADERS else format_name
    valid = seeds()[plain]
    headers = {
        "v": b"1",
        "seq": b"1",
        "start-ms": str(_START_MS).encode(),
        "participants": b"agent,customer" if rng.random() < 0.03 else b"customer",
        "content-type": valid.content_type.encode(),
    }
    if format_name == HEADERS:
        mutation, media, spoilt = "headers", bytearray(valid.media[: rng.choice([0, 1, 2, 999, 19_200])]), headers
        rows = _spoilt_headers(rng, spoilt)
    else:
        mutation, media = _spoilt(rng, format_name, bytearray(valid.media))
        if rng.random() < 0.05:
            headers["content-type"] = rng.choice(_HOSTILE["content-type"])
        rows = list(headers.items())
    before, after, piped = rng.random() < 0.3, rng.random() < 0.3, rng.random() < 0.5
    return Case(format_name, number, mutation, tuple(rows), bytes(media), valid.media, before, after, piped)


def _spoilt_headers(rng: Random, headers: dict[str, bytes]) -> list[tuple[str, bytes]]:
    for name in rng.sample(sorted(_HOSTILE), rng.randint(1, 3)):
        headers[name] = rng.choice(_HOSTILE[name]) if rng.random() < 0.8 else rng.randbytes(rng.randint(0, 30))
    if rng.random() < 0.2:
        headers.pop(rng.choice(sorted(headers)))
    rows = list(headers.items())
    if rng.random() < 0.1:
        rows += rng.choice([rows[:1], [(f"x-{n}", b"") for n in range(100)], [("x", b"y" * 9000)]])
    rng.shuffle(rows)
    return rows


def _spoilt(rng: Random, format_name: str, media: bytearray) -> tuple[str, bytearray]:
    chance = rng.random()
    bombs = bomb_names(format_name)
    if chance < _SPLICE_P:
        other = rng.choice(sorted(seeds()))
        splice(rng, media, seeds()[other].media)
        return f"splice {other}", media
    if chance < _ABSURD_P and format_name in ABSURD:
        ABSURD[format_name](rng, media)
        return "absurd", media
    if chance < _BOMB_P and bombs:
        name = rng.choice(bombs)
        media = bytearray(bomb(name))
        if rng.random() < 0.5:
            rng.choice(BLIND[:2])(rng, media[:500] and media)
        return f"bomb {name}", media
    names = []
    for mutate in rng.choices(BLIND, k=rng.choice([1, 1, 2, 3])):
        if media:
            mutate(rng, media)
            names.append(mutate.__name__)
    if rng.random() < 0.2 and media and format_name in ABSURD:
        ABSURD[format_name](rng, media)
        names.append("absurd")
    return " ".join(names), media
