"""How a file has ended, in the sentences that its sender is told: what of it was not read, and what of it is missing."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from pipelines.media.byte_stream import ByteStream
from pipelines.media.joined import UNREAD_MAX_BYTES, File, peeked, unread_bytes
from pipelines.media.stated import Ends, id3_bytes, mp3_length_s

_TELL_LENGTH: Final = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "flac", "flv", "aiff", "au"}
"""Containers whose length in seconds FFmpeg takes from what they say, where it has it. Of ASF, CAF and W64 it goes by the size of
the file, of an AVI that was written to a pipe it makes one up; those say how many bytes they have."""
_IN_ORDER: Final = {
    *("aac", "flac", "gsm", "matroska,webm", "mp3", "mpegts", "ogg", "wav", "aiff", "w64", "flv", "amr", "au")
}
"""Containers of which FFmpeg reads the end last."""
_SHORT_S: Final = 1.0
_MP3_HEAD_BYTES: Final = 192


class Ending:
    """One file, from before it is opened to after it was read."""

    def __init__(self, file: File, ends: Ends) -> None:
        """`ends` is complete when the file was read to its end."""
        self.file, self._ends = file, ends
        self._reached = 0
        """Where the last packet that was read ends, as far as packets say where they stand."""
        self._mp3_s: Fraction | None = None
        head = peeked(file, 10)
        if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
            tag_bytes = id3_bytes(head)
            self._mp3_s = mp3_length_s(peeked(file, tag_bytes + _MP3_HEAD_BYTES)[tag_bytes:])

    def watched(self, packets: "Iterator[Packet[Stream]]") -> "Iterator[Packet[Stream]]":
        """The packets, while it is noted how far they reach."""
        for packet in packets:
            self._reached = max(self._reached, (packet.pos or 0) + packet.size)
            yield packet

    def sentences(self, container: InputContainer, end_s: Fraction | None) -> Iterator[str]:
        """What its sender should know, each as it goes on behind the file's name.

        Args:
            container: what was read.
            end_s: where the last packet ended by the file's own times; None where that cannot be held against what the file says,
                because its clock was set anew, or because not all of it was read.
        """
        in_order = isinstance(self.file, ByteStream) or container.format.name in _IN_ORDER
        unread = unread_bytes(self.file) if in_order else 0
        ends = self._ends
        # A reader that has taken what stands there for media has left nothing of it.
        if ends.junk_from is not None and self._reached <= ends.junk_from:
            unread = max(unread, ends.junk_bytes)
        if unread:
            more = "or more " if unread == UNREAD_MAX_BYTES else ""
            yield f": {unread} bytes {more}behind the last packet were not read; what came before is heard"
        stated_s = self._stated_s(container, end_s)
        if end_s is not None and stated_s is not None and stated_s - end_s > _SHORT_S:
            yield f" says to last {float(stated_s):.1f} s, and ends after {float(end_s):.1f} s: the rest is missing"
        elif ends.ends_unmarked:
            yield " ends without the page that is marked as its last: its end may be missing"
        elif ends.missing_bytes:
            yield f" says to have {ends.missing_bytes} bytes more than it has: its end is missing"

    def _stated_s(self, container: InputContainer, end_s: Fraction | None) -> Fraction | None:
        """How long the file says to be."""
        if container.format.name == "mp3":
            return self._mp3_s
        if container.format.name == "wav" and self._ends.bytes_per_s and end_s is not None:
            return end_s + Fraction(self._ends.missing_bytes, self._ends.bytes_per_s)
        if container.duration is None or container.format.name not in _TELL_LENGTH:
            return None
        return Fraction(container.duration, av.time_base)
