"""Pictures of one track, kept as they were sent until somebody looks at them; only then are they decoded."""

import time
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from typing import Final, Literal

import av
import numpy as np
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame as DecodedFrame
from av.video.reformatter import VideoReformatter

from pipelines.errors import MediaError
from pipelines.media.pictures import PicturePacket, check_depth, check_pixels, fit_within
from pipelines.settings import StreamSettings
from pipelines.types import Participant, VideoFrame

HELD_MAX_BYTES: Final = 16 << 20
"""Of packets that wait; what comes beyond makes the oldest be decoded."""
_PACKET_BYTES: Final = 1 << 10
"""What a packet takes besides its own bytes."""
_HELD_MAX_SHARE: Final = Fraction(1, 2)
"""As many pixels may wait, of those that a fragment may have: so many are decoded at once where speech begins."""
_HELD_BACK_MAX: Final = 64
"""A decoder holds back 16 pictures at most, of two fields each; after twice as many packets one does not come any more."""
_REORDER_MAX: Final = 16


class PictureBuffer:
    """The pictures of one track: chosen by their times alone, decoded where they are taken.

    The choice is the first of each slot of `1 / frames_per_s`, and of these the first of each cell of `cell_ms`; slots and cells
    are counted on the call's time axis, so it depends neither on how the stream was cut nor on what is decoded. What is decoded
    begins at the last key frame before, and leaves out what is neither chosen nor referred to. What cannot be decoded, or takes
    too long, is left out and counted.
    """

    def __init__(self, settings: StreamSettings, cell_ms: int) -> None:
        self._limits, self._side_max_px = settings.limits, settings.video.side_max_px
        self._rate = Fraction(settings.video.frames_per_s).limit_denominator(1000)
        self._cell_ms = cell_ms
        self._packets: deque[PicturePacket] = deque()
        self._held_bytes = self._held_pixels = 0
        self._added: PicturePacket | None = None
        self._fed: PicturePacket | None = None
        """What the decoder took last; None where it must begin at a key frame."""
        self._waits_for_key = True
        self._ended = False
        self._needed_ms = 0
        self._shown_ms = -1
        """Up to when the decoder has given what it was fed."""
        self._firsts: dict[int, int] = {}
        """The first time of each slot."""
        self._chosen: frozenset[int] | None = None
        self._done: dict[int, VideoFrame] = {}
        """The picture of each slot that was decoded."""
        self._latest: list[int] = []
        self._reordered = 0
        self._damaged = 0
        self._used_s, self._pixels = 0.0, 0
        """Processor time and pixels of what was decoded since `add`."""
        self._scaler = VideoReformatter()

    @property
    def held_bytes(self) -> int:
        """What waiting packets and decoded pictures take in memory."""
        return self._held_bytes + sum(frame.pixels.nbytes for frame in self._done.values())

    @property
    def settled_ms(self) -> int:
        """No picture comes any more that is shown before; as far as the order of those before tells."""
        return self._latest[max(-1 - self._reordered, -len(self._latest))] if self._latest else -1

    def add(self, pictures: Iterable[PicturePacket], *, ended: bool = False) -> None:
        """Takes what follows; nothing comes after it that needs what came before if it has `ended`."""
        self._used_s, self._pixels, self._ended = 0.0, 0, ended
        for picture in pictures:
            if not picture.follows(self._added):
                self._latest.clear()
            self._waits_for_key = (self._waits_for_key or not picture.follows(self._added)) and not picture.is_key
            if not self._waits_for_key:
                self._hold(picture)
            self._added = picture

    def times(self, start_ms: int, end_ms: int | None = None) -> list[int]:
        """When the chosen pictures in `[start_ms, end_ms)` are shown, in order."""
        start_ms = max(start_ms, self._needed_ms)
        return sorted(at for at in self._choice() if start_ms <= at and (end_ms is None or at < end_ms))

    def decode_until(self, start_ms: int, end_ms: int) -> None:
        """Decodes ahead of `take` what has come of the pictures in `[start_ms, end_ms)`."""
        self._needed_ms = max(self._needed_ms, start_ms)
        end_ms = min(end_ms, self.settled_ms + 1)
        chosen = self._missing(self.times(start_ms, end_ms))
        if chosen:
            self._go_to(chosen[0])
            while self._packets and self._packets[0].time_ms < end_ms:
                self._feed()

    def take(self, start_ms: int, end_ms: int, most: int) -> tuple[VideoFrame, ...]:
        """The chosen pictures in `[start_ms, end_ms)`, the first `most` of them; none before `start_ms` will be taken later."""
        self._needed_ms = max(self._needed_ms, start_ms)
        chosen = self._missing(self.times(start_ms, end_ms)[:most])
        if chosen:
            self._go_to(chosen[0])
            self._decode(chosen)
        found = [frame for _, frame in sorted(self._done.items()) if start_ms <= frame.time_ms < end_ms]
        return tuple(found[:most])

    def forget_before(self, time_ms: int) -> None:
        """No picture before `time_ms` will be taken; the rest stays within its bounds."""
        self._needed_ms = max(self._needed_ms, time_ms)
        self._done = {slot: frame for slot, frame in self._done.items() if frame.time_ms >= self._needed_ms}
        oldest_ms = self._needed_ms - self._cell_ms - 1000 / self._rate
        if any(at < oldest_ms for at in self._firsts.values()):
            self._firsts = {slot: at for slot, at in self._firsts.items() if at >= oldest_ms}
        self._chosen = None
        self._go_to(self._needed_ms)
        pixels_max = self._limits.pixels_per_fragment_max * _HELD_MAX_SHARE
        while self._held_bytes > HELD_MAX_BYTES or self._held_pixels > pixels_max:
            self._feed()

    def clear(self) -> None:
        """No picture that has come will be taken; those that come may still refer to them."""
        self._done.clear()
        self._firsts.clear()
        self._chosen = None

    def take_damaged(self) -> int:
        """How many packets were left out because they could not be decoded, and not returned yet."""
        damaged, self._damaged = self._damaged, 0
        return damaged

    def _hold(self, picture: PicturePacket) -> None:
        self._packets.append(picture)
        self._held_bytes += picture.packet.size + _PACKET_BYTES
        self._held_pixels += picture.pixels
        if not picture.is_shown:
            return
        time_ms = picture.time_ms
        slot = int(time_ms * self._rate // 1000)
        if time_ms < self._firsts.get(slot, time_ms + 1):
            self._firsts[slot] = time_ms
            self._chosen = None
        self._reordered = max(self._reordered, sum(time_ms < other for other in self._latest))
        self._latest = sorted([*self._latest, time_ms])[-_REORDER_MAX - 1 :]

    def _choice(self) -> frozenset[int]:
        if self._chosen is None:
            cells: dict[int, int] = {}
            for at in sorted(self._firsts.values(), reverse=True):
                cells[at // self._cell_ms] = at
            self._chosen = frozenset(cells.values())
        return self._chosen

    def _missing(self, times_ms: list[int]) -> list[int]:
        return [at for at in times_ms if self._slot(at) not in self._done]

    def _slot(self, time_ms: int) -> int:
        return int(time_ms * self._rate // 1000)

    def _go_to(self, time_ms: int) -> None:
        """Leaves out what is not needed to decode a picture at `time_ms` and those behind it."""
        begin = max(
            (n for n, one in enumerate(self._packets) if one.is_key and one.time_ms <= time_ms),
            default=0,
        )
        if begin:
            for _ in range(begin):
                self._pop()
            self._restart()

    def _decode(self, chosen: list[int]) -> None:
        """Until those of `chosen` that come at all have come out of the decoder."""
        wanted, late = frozenset(chosen), 0
        ahead = max((n for n, one in enumerate(self._packets, 1) if one.time_ms in wanted), default=0)
        while self._packets and (ahead > 0 or (self._shown_ms < chosen[-1] and late < _HELD_BACK_MAX)):
            # All that are shown later are decoded: the decoder gives a picture when it has enough of them.
            is_late = self._packets[0].time_ms > chosen[-1]
            ahead, late = ahead - 1, late + is_late
            self._feed(all_of_them=is_late)
        if self._ended and not self._packets and self._shown_ms < chosen[-1]:
            self._drain()

    def _pop(self) -> PicturePacket:
        picture = self._packets.popleft()
        self._held_bytes -= picture.packet.size + _PACKET_BYTES
        self._held_pixels -= picture.pixels
        return picture

    def _restart(self) -> None:
        if self._fed is not None:
            self._fed.codec.flush_buffers()
        self._fed, self._shown_ms = None, -1

    def _feed(self, *, all_of_them: bool = False) -> None:
        """Decodes the next packet; without `all_of_them` one that is neither chosen nor referred to gives no picture."""
        picture = self._pop()
        if not picture.follows(self._fed):
            self._drain()
        self._fed = picture
        wanted = all_of_them or (picture.time_ms >= self._needed_ms and picture.time_ms in self._choice())
        codec = picture.codec
        if not wanted and codec.codec.intra_only:
            return  # nothing refers to it
        self._accept(picture, picture.packet, "DEFAULT" if wanted else "NONREF")

    def _drain(self) -> None:
        """What the decoder holds back; it must begin at a key frame then."""
        if self._fed is not None:
            self._accept(self._fed, None, "DEFAULT")
        self._restart()

    def _accept(
        self, picture: PicturePacket, packet: "Packet[Stream] | None", skip: Literal["DEFAULT", "NONREF"]
    ) -> None:
        """Decodes a packet, or what is held back, within the limits for what one fragment may cost."""
        began_s, codec = time.thread_time(), picture.codec
        try:
            codec.open(strict=False)
            codec.skip_frame = skip
            for frame in codec.decode(packet):
                self._pixels += frame.width * frame.height
                if frame.pts is not None:
                    self._keep(frame, frame.pts, picture.participant)
            # The declared size need not be that of the decoded pictures.
            check_pixels(self._pixels, self._limits)
            check_depth(codec, self._limits)
        except MediaError:
            self._give_up()
        except (av.FFmpegError, ValueError):
            self._damaged += packet is not None
        self._used_s += time.thread_time() - began_s
        if self._used_s > self._limits.decode_max_s:
            self._give_up()

    def _keep(self, frame: DecodedFrame, time_ms: int, participant: Participant) -> None:
        """Keeps a chosen one; where the chosen one of a slot did not come, the next one of it."""
        self._shown_ms = max(self._shown_ms, time_ms)
        slot = self._slot(time_ms)
        first_ms = self._firsts.get(slot)
        if slot in self._done or first_ms is None or not self._needed_ms <= first_ms <= time_ms:
            return
        if first_ms in self._choice():
            self._done[slot] = VideoFrame(participant, time_ms, self._looked_at(frame))

    def _give_up(self) -> None:
        """The rest of what has come is left out, and the picture returns at the next key frame."""
        self._damaged += 1 + len(self._packets)
        self._packets.clear()
        self._held_bytes = self._held_pixels = 0
        self._restart()
        self._firsts = {slot: at for slot, at in self._firsts.items() if slot in self._done}
        self._chosen = None
        self._added, self._waits_for_key = None, True

    def _looked_at(self, frame: DecodedFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """The picture as (H, W, 3) of RGB, scaled down and upright."""
        width, height = fit_within(frame.width, frame.height, self._side_max_px)
        # One scaler for all, on this thread: one for each picture, on as many threads as there are processors, took five times as
        # long.
        rgb = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="AREA", threads=1
        ).to_ndarray()
        turned = np.rot90(rgb, k=round(frame.rotation / 90)) if frame.rotation % 360 else rgb
        return np.ascontiguousarray(turned, dtype=np.uint8)


def decoded(pictures: Iterable[PicturePacket], settings: StreamSettings) -> tuple[list[VideoFrame], int]:
    """Every picture that would be looked at if somebody spoke all the time, and how many packets were damaged."""
    buffer, pictures = PictureBuffer(settings, cell_ms=1), list(pictures)
    buffer.add(pictures, ended=True)
    end_ms = 1 + max((picture.time_ms for picture in pictures), default=0)
    return list(buffer.take(0, end_ms, len(pictures))), buffer.take_damaged()
