"""Sound whose header says less of its length than there is, read to its end: AIFF, RF64 and W64; `pipelines.media.wav` does WAV.

A program that was ended before it could write the length, or that writes to a pipe, leaves 0 there, or how far it had come. FFmpeg
reads no further than that. Here the sound goes on to the file's end, unless the file as a whole says to end where its sound does: what
stands behind that is no part of it. AU is read to its end by FFmpeg itself; a CAF whose header says less is not.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pipelines.media.byte_stream import ByteStream
from pipelines.media.stated import UNKNOWN_FROM_BYTES, is_unknown
from pipelines.media.wav import copied

HEAD_BYTES: Final = 8192
"""The sound begins within."""
_CHUNK_MAX_BYTES: Final = 16 << 20
"""Of a chunk behind the sound."""
_CHUNKS_MAX: Final = 1000
"""Of them; no recorder writes more, and each takes time."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Files made of chunks, each with a name and a length, one of which is the sound."""

    begins: re.Pattern[bytes]
    first_at: int
    """Where the first chunk begins."""
    name: re.Pattern[bytes]
    name_bytes: int
    length_bytes: int
    order: Literal["big", "little"]
    sound: bytes
    """The name of the sound's chunk."""
    unknown: int
    """The length that lets FFmpeg read on."""
    align: int
    counts_head: bool = False
    """Whether a chunk's length includes its name and length."""
    needs: bytes = b""
    """A chunk without which the sound is not understood, where that comes first."""
    whole_at: int | None = None
    """Where the length of the whole file stands, which counts what is behind it unless `counts_head`."""

    @property
    def head_bytes(self) -> int:
        return self.name_bytes + self.length_bytes

    def length(self, head: bytes, at: int = 0) -> int:
        """Of what the chunk at this place holds; -1 where its head is cut off, or nobody knew it."""
        if len(head) < at + self.head_bytes:
            return -1
        length = self._number(head, at + self.name_bytes, self.length_bytes)
        is_none = length >= UNKNOWN_FROM_BYTES or (self.length_bytes == 4 and length and is_unknown(length))
        return -1 if is_none else length - self.head_bytes * self.counts_head

    def end(self, head: bytes) -> int | None:
        """Where the whole file says to end; None where it says nothing."""
        if self.whole_at is None:
            return None
        length = self._number(head, self.whole_at, self.length_bytes)
        if length >= UNKNOWN_FROM_BYTES or is_unknown(length):
            return None
        return length if self.counts_head else self.whole_at + self.length_bytes + length

    def is_chunk(self, head: bytes) -> bool:
        """Whether a further chunk may have this head."""
        return self.name.match(head) is not None and 0 <= self.length(head) <= _CHUNK_MAX_BYTES

    def padded(self, length: int) -> int:
        """A length with the bytes up to where the next chunk may begin."""
        return length + -length % self.align

    def endless(self) -> bytes:
        """The head of a chunk of sound of no known length."""
        return self.sound + self.unknown.to_bytes(self.length_bytes, self.order)

    def _number(self, head: bytes, at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], self.order)


_NAME: Final = re.compile(rb"[A-Za-z(][A-Za-z0-9_ )]{3}")
_W64: Final = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_NAME: Final = re.compile(
    rb".{11}\xc0\x4f\x8e\xdb\x8a|list\x2f\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", re.DOTALL
)
_RF64: Final = re.compile(rb"(?:RF64|BW64)....WAVEds64", re.DOTALL)
_FORMS: Final = (
    # Apple, "Audio Interchange File Format" 1.3 and AIFF-C.
    _Form(re.compile(rb"FORM....AIF[FC]", re.DOTALL), 12, _NAME, 4, 4, "big", b"SSND", 0xFFFFFFFF, 2, needs=b"COMM", whole_at=4),
    # EBU Tech 3306 and ITU-R BS.2088: the lengths stand in the first chunk.
    _Form(_RF64, 12, _NAME, 4, 4, "little", b"data", 0xFFFFFFFF, 2, needs=b"fmt "),
    # Sony Pictures Digital, "Wave64".
    _Form(
        re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"), 40, _W64_NAME, 16, 8, "little",
        b"data" + _W64, 1 << 61, 8, counts_head=True, needs=b"fmt " + _W64, whole_at=16,
    ),
)  # fmt: skip


def says_sound_length(head: bytes) -> bool:
    """Whether a file with these 16 bytes at its front is of a kind that `sound_to_its_end` knows."""
    return any(form.begins.match(head) for form in _FORMS)


def sound_to_its_end(file: Callable[[], ByteStream], head: bytes) -> ByteStream | None:
    """The file with this `head`, `HEAD_BYTES` of it, with the length of its sound taken out; None of one that needs none of it.

    That is one of another kind, one whose sound ends where the whole file says to end, and one whose parts can be understood only
    by reading its end first.
    """
    form = next((form for form in _FORMS if form.begins.match(head)), None)
    if form is None:
        return None
    at, names = form.first_at, set[bytes]()
    while (name := head[at : at + form.name_bytes]) != form.sound:
        if (length := form.length(head, at)) < 0 or not form.name.match(name):
            return None
        names.add(name)
        at += form.head_bytes + form.padded(length)
    begins = at + form.head_bytes
    if form.needs not in names or len(head) < begins:
        return None
    length, end = form.length(head, at), form.end(head)
    if form.begins is _RF64:
        length, end = _lengths_of_rf64(head)
    if length > 0 and end in {begins + length, begins + form.padded(length)}:
        return None
    return ByteStream(_read_on(file(), form, at, length, end))


def _lengths_of_rf64(head: bytes) -> tuple[int, int | None]:
    whole, sound = struct.unpack("<QQ", head[20:36])
    return (
        sound if sound < UNKNOWN_FROM_BYTES else -1,
        8 + whole if 0 < whole < UNKNOWN_FROM_BYTES else None,
    )


def _read_on(whole: ByteStream, form: _Form, at: int, length: int, end: int | None) -> Iterator[bytes]:
    before = b"".join(copied(whole, at))
    yield b"RIFF" + before[4:] if form.begins is _RF64 else before
    for _ in copied(whole, form.head_bytes):
        continue
    yield form.endless()
    at += form.head_bytes
    if length > 0:
        yield from copied(whole, length)
        at += length + _skip_chunks(whole, form, -length % form.align)
        if end is not None and at >= end:
            for _ in copied(whole, None):  # behind the whole file: no part of it
                continue
    yield from copied(whole, None)


def _skip_chunks(whole: ByteStream, form: _Form, padding: int) -> int:
    """Passes over chunks of other things than sound; returns how many bytes that were."""
    behind = whole.peek(padding + form.head_bytes)
    skipped = 0
    if behind[:padding] == bytes(padding) and (not behind[padding:] or form.is_chunk(behind[padding:])):
        skipped = sum(map(len, copied(whole, padding)))
    for _ in range(_CHUNKS_MAX):
        if not form.is_chunk(head := whole.peek(form.head_bytes)):
            break
        skipped += sum(map(len, copied(whole, form.head_bytes + form.padded(form.length(head)))))
    return skipped
