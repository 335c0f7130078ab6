"""Opens a source's container, and looks ahead in it where its beginning does not say who is on its sound tracks, or what they are."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

import av
from av.container import InputContainer

from pipelines.media.byte_stream import AHEAD_MAX_BYTES, ByteStream
from pipelines.media.container import FAR, NEAR, Reach, open_media, packets
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.joined import File
from pipelines.media.owners import is_unknown, unclear
from pipelines.types import Channels

PICTURE_MAX_PIXELS: Final = 5120 * 2880
"""FFmpeg looks at up to twenty pictures when it opens a file; larger ones, 10 bits deep, would take a gigabyte."""
OPEN_MAX_S: Final = 5.0
"""Processor time that opening may take where it is bounded; twenty pictures of 10 bits and that size take one second."""
AHEAD_S: Final = 12
"""So far a stream is looked ahead in for the first packet of a track; a file is to its end."""
_STREAM_MAX_BYTES: Final = AHEAD_MAX_BYTES - (4 << 20)
"""Less than may be looked ahead at: opening once more reads somewhat further."""
_MARGIN_BYTES: Final = 1 << 20
_MARGIN_S: Final = 1
"""FFmpeg knows some tracks by their second packet only."""


@dataclass(slots=True)
class _Recorded:
    """What is read of a stream, kept so that it can be put back, until `release`."""

    stream: ByteStream
    _kept: list[bytes] = field(default_factory=list)
    _kept_bytes: int = 0
    _ends: bool = False
    _records: bool = True

    def read(self, size: int) -> bytes:
        """Nothing more where as much is kept as may be, while it is looked ahead."""
        if self._ends and self._kept_bytes >= _STREAM_MAX_BYTES:
            return b""
        data = self.stream.read(size)
        if self._records:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes > AHEAD_MAX_BYTES:
                self.release()
        return data

    def looks_ahead(self) -> bool:
        """From now on the stream seems to end where no more may be kept; False where it is too late for that."""
        self._ends = self._records
        return self._records

    def put_back(self) -> None:
        """The stream stands where it stood."""
        self.stream.put_back(self._kept)
        self.release()

    def release(self) -> None:
        """Nothing is kept any more."""
        self._kept, self._records = [], False


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found by looking ahead."""

    silent: frozenset[int]
    """The indexes of the tracks that were waited for and sent nothing."""
    reach: Reach
    """How far it was looked."""


def open_source(
    file: File, opened: ExitStack, what: str, decoders: DecoderProcesses | None, participants: Channels
) -> tuple[InputContainer, frozenset[int]]:
    """The container, and the indexes of the sound tracks that have sent nothing as far as it was looked for them.

    A file that does not say at its beginning what its tracks are is looked through for it. A stream is looked ahead in only for what a
    name in `participants` stands for, or when it is not clear which track one stands for: at most `AHEAD_S`, and until that is known.

    Raises:
        MediaError: it cannot be opened, or opening it takes more than `OPEN_MAX_S` of a process of `decoders`.
    """
    recorded = _Recorded(file) if isinstance(file, ByteStream) else None
    _check(file, what, decoders, NEAR)
    container = opened.enter_context(open_media(recorded or file, what, PICTURE_MAX_PIXELS))
    reach = NEAR
    if recorded is None and any(is_unknown(stream) for stream in container.streams):
        _check(file, what, decoders, FAR)
        container, reach = _again(file, opened, what, FAR), FAR
    if not unclear(list(container.streams.audio), participants)[0] or not (recorded is None or recorded.looks_ahead()):
        if recorded is not None:
            recorded.release()
        return container, frozenset()
    seen = _looked_ahead(container, participants, bounded=recorded is not None)
    if recorded is not None:
        opened.close()
        recorded.put_back()
        reach = seen.reach
        _check(file, what, decoders, reach)
    return _again(file, opened, what, reach), seen.silent


def _again(file: File, opened: ExitStack, what: str, reach: Reach) -> InputContainer:
    opened.close()
    if not isinstance(file, ByteStream):
        file.seek(0, io.SEEK_SET)
    return opened.enter_context(open_media(file, what, PICTURE_MAX_PIXELS, reach=reach))


def _check(file: File, what: str, decoders: DecoderProcesses | None, reach: Reach) -> None:
    if decoders is not None:
        decoders.check_opening(file, what, PICTURE_MAX_PIXELS, cpu_max_s=OPEN_MAX_S, reach=reach)


def _looked_ahead(container: InputContainer, participants: Channels, *, bounded: bool) -> _Seen:
    """Reads on until enough of the tracks that are waited for have sent something, or as far as may be."""
    streams, enough = unclear(list(container.streams.audio), participants)
    waited_for = {stream.index for stream in streams}
    sent: set[int] = set()
    first_s = None
    took_s, took_bytes = 0.0, 0
    for index, at_s, size in _sizes(container):
        first_s = at_s if first_s is None else first_s
        took_s, took_bytes = max(took_s, at_s - first_s), took_bytes + size
        if index in waited_for:
            sent.add(index)
        if len(sent) == enough or (bounded and took_s >= AHEAD_S):
            break
    reach = Reach(max(NEAR.max_bytes, took_bytes + _MARGIN_BYTES), max(NEAR.max_s, min(took_s, AHEAD_S) + _MARGIN_S))
    return _Seen(frozenset(waited_for - sent), reach)


def _sizes(container: InputContainer) -> Iterator[tuple[int, float, int]]:
    """The track of each packet, when it is decoded, in s, and its bytes, up to where nothing can be read."""
    with suppress(av.FFmpegError):
        for packet in packets(container, *container.streams):
            ticks = packet.dts if packet.dts is not None else packet.pts
            yield packet.stream_index, 0.0 if ticks is None else float(ticks * packet.time_base), packet.size
