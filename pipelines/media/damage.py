"""What is damaged in the middle: what FFmpeg passes over in a Matroska, told by where packets lie, and packets that no fragment can hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream

from pipelines.media.clock import TimedPacket

_LOST_MIN_MS: Final = 20
_BESIDE_BYTES: Final = 1024
"""Heads of clusters and blocks between two packets of a Matroska take less."""


@dataclass(slots=True)
class PassedOver:
    """How many bytes were passed over, and how many ms of the track that lost most."""

    damaged_bytes: int = 0
    _lost_s: dict[int, Fraction] = field(default_factory=dict)
    _end: int | None = None
    _ends_s: dict[int, Fraction] = field(default_factory=dict)

    @property
    def lost_ms(self) -> int:
        """In the track of sound that lost most."""
        return round(max(self._lost_s.values(), default=Fraction(0)) * 1000)

    def sentences(self) -> Iterator[str]:
        """What its sender should know, as it goes on behind the file's name."""
        # Where no time was lost they are no damage: tags, room for some, laced blocks.
        if self.damaged_bytes and self.lost_ms >= _LOST_MIN_MS:
            yield (
                f" is damaged in the middle: {self.damaged_bytes} bytes were passed over, "
                f"with {self.lost_ms} ms of sound; what stands around them is heard"
            )

    def seen(self, packets: "Iterator[Packet[Stream]]", *, complete: bool) -> "Iterator[Packet[Stream]]":
        """The same packets, of a Matroska in the order of the file; nothing is told where not all of its tracks are read.

        The tracks that begin behind the damage have lost nothing that is known.
        """
        pending: set[int] = set()
        for packet in packets:
            if complete and packet.pos is not None:
                gap = 0 if self._end is None else packet.pos - self._end
                if gap > _BESIDE_BYTES:
                    self.damaged_bytes += gap
                    pending = set(self._ends_s)
                self._end = max(self._end or 0, packet.pos + packet.size)
                self._time(packet, pending)
            yield packet

    def _time(self, packet: "Packet[Stream]", pending: set[int]) -> None:
        if packet.pts is None or not isinstance(packet.stream, AudioStream):
            return
        index, begins_s = packet.stream_index, packet.pts * packet.time_base
        if index in pending:
            pending.discard(index)
            lost_s = max(begins_s - self._ends_s[index], Fraction(0))
            self._lost_s[index] = self._lost_s.get(index, Fraction(0)) + lost_s
        self._ends_s[index] = begins_s + (packet.duration or 0) * packet.time_base


@dataclass(slots=True)
class Refused:
    """How many packets could not be written again."""

    packets: int = 0
    first_ms: int = 0

    def add(self, packets: list[TimedPacket]) -> None:
        """They are left out; what stands around them keeps its time."""
        first_ms = min(packet.shown_ms for packet in packets)
        self.first_ms = min(self.first_ms, first_ms) if self.packets else first_ms
        self.packets += len(packets)

    def sentences(self) -> Iterator[str]:
        """What their sender should know."""
        if self.packets:
            yield (
                f"{self.packets} damaged packets, the first at {self.first_ms} ms, cannot be written again and are left out; "
                "what stands around them is heard at its time"
            )
