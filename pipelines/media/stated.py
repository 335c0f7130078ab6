"""What a file says of where it ends, against where it does: in bytes by its header, or in seconds.

A program that writes to a pipe does not know the length, and says 0, or the most that there is room for: that is no length.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

SLACK_BYTES: Final = 64
"""Programs count the header in, or a byte that makes a length even."""
HEAD_BYTES: Final = 300
"""So much of a file is looked at where it may come live."""
CAF_HEAD_BYTES: Final = 8192
"""Apple's programs leave 4 KiB free before the sound."""
_ID3_MAX_BYTES: Final = 60_000
_UNKNOWN_NEAR_BYTES: Final = 4096
UNKNOWN_FROM_BYTES: Final = 1 << 62
"""Of lengths of 64 bits: FFmpeg writes 2**63 - 1."""
_RATES_HZ: Final = (44_100, 48_000, 32_000)
_SOUND_ALONE: Final = {b"caff", b".snd"}
"""They say where their sound ends, and more of the file may stand behind it."""
_ASF: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_W64_RIFF: Final = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"


@dataclass(slots=True)
class Ends:
    """How a file ends; complete once it was read to its end."""

    missing_bytes: int = 0
    """So many more it says to have."""
    bytes_per_s: int = 0
    """Of its sound, where each second of it has as many."""
    junk_from: int | None = None
    """Where what begins is no part of it; `junk_bytes` stand there."""
    junk_bytes: int = 0
    ends_unmarked: bool = False
    """Whether no page of Ogg is marked as the last of its stream (RFC 3533 §4)."""

    def fall_short(self, count: int, slack_bytes: int = SLACK_BYTES) -> None:
        """`count` bytes that were announced have not come."""
        if count > slack_bytes:
            self.missing_bytes = count

    def begin(self) -> None:
        """Of the next file nothing is known yet."""
        self.missing_bytes = self.bytes_per_s = self.junk_bytes = 0
        self.junk_from, self.ends_unmarked = None, False

    def become(self, other: "Ends") -> None:
        """Those of another file."""
        self.missing_bytes, self.bytes_per_s, self.junk_bytes = other.missing_bytes, other.bytes_per_s, other.junk_bytes
        self.junk_from, self.ends_unmarked = other.junk_from, other.ends_unmarked


def is_unknown(length: int) -> bool:
    """Whether a length of 32 bits says only that nobody knew it: 0, or about the most (ffmpeg, arecord, sox, GStreamer)."""
    return length == 0 or any(abs(length - most) <= _UNKNOWN_NEAR_BYTES for most in (1 << 31, 1 << 32))


def measure(head: bytes, length: int, ends: Ends) -> None:
    """Tell `ends` whether a file with this head is as long as it says; it has `length` bytes."""
    stated = stated_bytes(head)
    if stated is None:
        return
    ends.fall_short(stated - length)
    if length > stated and head[:4] not in _SOUND_ALONE:
        ends.junk_from, ends.junk_bytes = stated, length - stated


def stated_bytes(head: bytes) -> int | None:
    """Where the file with this head says to end; None where it says nothing, or its kind is none of those that do.

    RF64 (EBU Tech 3306), W64, CAF (Apple, "Core Audio Format"), AU, ASF (Microsoft, "Advanced Systems Format" §3.2), and a Matroska that
    knows its length (RFC 9559 §5.1).
    """
    return next((find(head) for magic, find in _STATED.items() if head.startswith(magic)), None)


def _known(length: int) -> int | None:
    return length if 8 < length < UNKNOWN_FROM_BYTES else None


def _end_of_rf64(head: bytes) -> int | None:
    return _known(8 + _little(head, 20)) if head[12:16] == b"ds64" else None


def _end_of_au(head: bytes) -> int | None:
    begins, length = struct.unpack(">II", head[4:12]) if len(head) >= 12 else (0, 0)
    return None if is_unknown(length) else begins + length


def _end_of_asf(head: bytes) -> int | None:
    at = head.find(_ASF_FILE)
    is_broadcast = head[at + 88 : at + 89] in {b"\1", b"\3"}  # another flag says that it can be sought in
    return None if at < 0 or is_broadcast else _known(_little(head, at + 40))


def _little(head: bytes, at: int) -> int:
    """64 bits; 0 where they are cut off."""
    return int.from_bytes(head[at : at + 8], "little") if len(head) >= at + 8 else 0


def _end_of_caf(head: bytes) -> int | None:
    at = 8
    while len(head) >= at + 12:
        length = int.from_bytes(head[at + 4 : at + 12], "big", signed=True)
        if length < 0:
            return None
        if head[at : at + 4] == b"data":
            return _known(at + 12 + length)
        at += 12 + length
    return None


def _end_of_segment(head: bytes) -> int | None:
    header = _vint(head, 4)
    if header is None:
        return None
    at = header[1] + header[0]
    if head[at : at + 4] != b"\x18\x53\x80\x67" or (segment := _vint(head, at + 4)) is None:
        return None
    return _known(segment[1] + segment[0])


def _vint(head: bytes, at: int) -> tuple[int, int] | None:
    """A size (RFC 8794 §6) and where it ends; None of an unknown one, or where it is cut off."""
    if at >= len(head) or not head[at]:
        return None
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") - (1 << (7 * width))
    return None if at + width > len(head) or value == (1 << (7 * width)) - 1 else (value, at + width)


_STATED: Final[dict[bytes, Callable[[bytes], int | None]]] = {
    b"RF64": _end_of_rf64,
    b"BW64": _end_of_rf64,
    _W64_RIFF: lambda head: _known(_little(head, 16)),
    b"caff": _end_of_caf,
    b".snd": _end_of_au,
    _ASF: _end_of_asf,
    b"\x1aE\xdf\xa3": _end_of_segment,
}
"""How each kind begins, and where it says to end."""


def id3_bytes(head: bytes) -> int:
    """The length of the tag before an MP3 (ID3 2.4 §3.1); 0 where there is none, or one so long that it is not looked behind."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return size if size <= _ID3_MAX_BYTES else 0


def mp3_length_s(head: bytes) -> Fraction | None:
    """How long an MP3 with this head, without a tag, says to be: by a count of frames in its first one (Xing's, LAME's, Fraunhofer's)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[2] >> 2 & 3 == 3:
        return None
    version, mono = head[1] >> 3 & 3, head[3] >> 6 == 3
    if version == 1:  # reserved
        return None
    mpeg1 = version == 3
    rate_hz = _RATES_HZ[head[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
    side_bytes = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    tag = head[4 + side_bytes :]
    count = 0
    if tag[:4] in {b"Xing", b"Info"} and tag[7:8] and tag[7] & 1:
        count = int.from_bytes(tag[8:12], "big")
    elif head[36:40] == b"VBRI":
        count = int.from_bytes(head[50:54], "big")
    return Fraction(count * (1152 if mpeg1 else 576), rate_hz) if count else None
