"""Files made of pieces that say how long they are: where one of them ends, another begins, and what is no part of either.

Boxes of ISO base media (ISO/IEC 14496-12 §4.2), pages of Ogg (RFC 3533 §6), chunks of IFF and RIFF.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipelines.errors import MediaError
from pipelines.media.stated import SLACK_BYTES, Ends, is_unknown

PIECES_MAX: Final = 2_000_000
"""Boxes, pages or chunks of a file: eleven hours of Ogg with a page for each packet."""
SMALL_BYTES: Final = 64
"""A movie fragment is no shorter; only what holds next to nothing is."""
SMALL_MAX: Final = 100_000
"""So many boxes may be small: each costs the time of a large one, and a MiB has 131,072 of eight bytes."""


def _box(head: bytes) -> int | None:
    """The length of a box; None where it ends with the file, or is none."""
    size = int.from_bytes(head[:4], "big")
    if size == 1:
        size = int.from_bytes(head[8:16], "big")
    return size if size >= 8 else None


def _page(head: bytes) -> int | None:
    """The length of a page of Ogg; None of what is none."""
    segments = head[27 : 27 + head[26]] if len(head) > 26 and head[:4] == b"OggS" else b""
    return (
        27 + len(segments) + sum(segments) if len(head) > 26 and head[:4] == b"OggS" else None
    )  # one of no segments is a page too


def _chunk(head: bytes) -> int | None:
    """The length of a chunk of IFF, as of AIFF, or of RIFF, as of AVI; None where it is not known."""
    size = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
    return None if is_unknown(size) else 8 + size + size % 2


@dataclass(frozen=True, slots=True)
class Kind:
    """Files that say how long each of their pieces is: behind a piece another file may begin."""

    begins: re.Pattern[bytes]
    piece: re.Pattern[bytes]
    """How pieces begin that are known; others are none where their length reaches beyond the file."""
    length: Callable[[bytes], int | None]
    is_ogg: bool = False
    """Several pieces in a row may look like the first, of one file; and readers find their way again behind what is no piece."""
    small_max: int = PIECES_MAX
    slack_bytes: int = 0
    """By so much their lengths are often wrong."""


_BOXES: Final = b"|".join([
    *(b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"styp", b"ssix", b"prft", b"emsg", b"free", b"skip"),
    *(b"wide", b"uuid", b"udta", b"meta", b"pdin", b"pnot", b"PICT", b"junk", b"imda"),
])  # fmt: skip
KINDS: Final = (
    Kind(re.compile(rb"....ftyp", re.DOTALL), re.compile(rb"....(?:%b)" % _BOXES, re.DOTALL), _box, small_max=SMALL_MAX),
    Kind(
        re.compile(rb"FORM....AIF[FC]|RIFF....AVI ", re.DOTALL),
        re.compile(rb"FORM....AIF[FC]|RIFF....AVI[ X]", re.DOTALL),
        _chunk,
        slack_bytes=SLACK_BYTES,
    ),
    Kind(re.compile(rb"OggS\x00[\x02\x06]"), re.compile(rb"OggS"), _page, is_ogg=True),
)  # fmt: skip


class Walk:
    """From piece to piece; `ends` is what the file at hand has shown of its end."""

    def __init__(self, kind: Kind) -> None:
        self.ends = Ends()
        self._kind = kind
        self._before = b""
        self._count = self._small = 0
        self._begun = self._ended = 0
        """Streams of Ogg that have had their first page, and their last."""

    def begins_other(self, head: bytes) -> bool:
        """Whether a piece with this head, behind the one before, begins another file."""
        begins = self._kind.begins
        if not self._before or begins.match(head) is None:
            return False
        return not self._kind.is_ogg or begins.match(self._before) is None

    def length(self, head: bytes) -> int | None:
        """That of the piece with this head; None where it reaches to the end of all, or is no piece.

        Raises:
            MediaError: there are too many.
        """
        length = self._kind.length(head) if len(head) >= 8 else None
        if length is not None:
            self._count += 1
            self._small += length < SMALL_BYTES
            if self._count > PIECES_MAX:
                raise MediaError(f"more than {PIECES_MAX} pieces in one file; re-encode it")
            if self._small > self._kind.small_max:
                raise MediaError(
                    f"more than {self._kind.small_max} boxes of less than {SMALL_BYTES} bytes in one MP4; re-encode it"
                )
            if self._kind.is_ogg:
                self._begun += head[5] >> 1 & 1
                self._ended += head[5] >> 2 & 1
        self._before = head
        return length

    def end_in(self, head: bytes, at: int, got: int, length: int | None) -> None:
        """All ends within what has this head and begins at `at`: `got` bytes of `length`, if that is known."""
        if self._kind.piece.match(head) is not None:
            self.ends.fall_short(0 if length is None else length - got, self._kind.slack_bytes)
        elif not self._kind.is_ogg:
            self.ends.junk_from, self.ends.junk_bytes = at, got
        else:
            self._ended = self._begun

    def close(self) -> Ends:
        """How the file has ended; another may begin."""
        ends, self.ends = self.ends, Ends()
        ends.ends_unmarked = self._ended < self._begun
        self._begun = self._ended = 0
        return ends


def kind_of(head: bytes) -> Kind | None:
    """The kind of the file with this head; None where it is no such file."""
    return next((kind for kind in KINDS if kind.begins.match(head)), None)
