"""The time line of a source: every packet is placed by its decoding time, sound and pictures by one rule.

docs/architecture.md#the-time-line has the rules and a drawing. In short: what a container says holds, so that a gap stays a gap. A step
back, or one ahead of more than `STEP_MAX_S`, is a clock that was set anew, as by a recorder that was started again or in files that were
joined to one: what follows it goes on where everything before has ended.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream

from pipelines.errors import MediaError
from pipelines.media.container import Tracks, rounded, skipped_samples
from pipelines.media.frame_header import FrameHeader, frame_header

STEP_BACK_S: Final = Fraction(1, 10)
"""Decoding times that fall back by less are jitter."""
STEP_MAX_S: Final = 3600
"""So long a party may be late or muted; a clock that goes further ahead at once was set anew."""
_NEAR_S: Final = 10
"""Sound and pictures of one moment lie no further apart in a file: so near the end they follow each other to a new setting of the clock."""

SETTINGS_MAX: Final = 20_000
"""A recorder that starts again every second, for five hours."""
_GRID_HZ: Final = 10**9
_CHANGES_MAX: Final = 1000
_LENGTH_MAX_S: Final = 10
"""No packet of sound is longer."""


@dataclass(frozen=True, slots=True)
class TimedPacket:
    """A packet, the number of its track among `tracks.streams`, and its times in ms on the time line.

    `shown_ms` is when its content is heard or seen. `index` is where the first sample of a packet of sound is in its recording, at
    the track's rate; below zero within the encoder's delay. Where it `starts_anew` it is of another recording than the packets before
    or has other parameters, so that no file can hold both.
    """

    packet: "Packet[Stream]"
    tracks: Tracks
    track: int
    pts_ms: int
    dts_ms: int
    shown_ms: int
    index: int | None
    starts_anew: bool

    def moved(self, by_ms: int) -> "TimedPacket":
        """The same, so much later."""
        if not by_ms:
            return self
        return replace(self, pts_ms=self.pts_ms + by_ms, dts_ms=self.dts_ms + by_ms, shown_ms=self.shown_ms + by_ms)


class SourceClock:
    """Places the packets of a source, or of the files that were joined to one, on one time line."""

    def __init__(self) -> None:
        self._shifts: list[Fraction] = []
        """For each setting of the clock, by how much its own times are moved."""
        self._ends: list[Fraction] = []
        """Where the last of what was placed under it ends."""
        self._end = self._sound_end = Fraction(0)
        """Where the last of what was placed so far ends, and the last sound of it."""
        self._sound_setting: int | None = None
        """That of the sound that was placed last: pictures follow it."""
        self._file_setting = 0
        """The first of the file at hand."""

    @property
    def file_end_s(self) -> Fraction | None:
        """Where the file that was placed last ends, by its own times; None where it has none, or its clock was set anew."""
        if len(self._shifts) != self._file_setting + 1:
            return None
        return self._ends[-1] - self._shifts[-1]

    def place(
        self, packets: "Iterable[Packet[Stream]]", tracks: Tracks, *, counts: bool = False, from_zero: bool = False
    ) -> Iterator[TimedPacket]:
        """The packets of a file, of its `tracks`; those of the next file go on where this one ends.

        The times of a file that is made of bare frames are FFmpeg's own: it `counts` them here instead. In one that counts
        `from_zero` what lies before is not heard.
        """
        by_index = {
            stream.index: _Track(n, tracks, counts=counts, from_zero=from_zero)
            for n, stream in enumerate(tracks.streams)
        }
        begins = True
        self._file_setting = len(self._shifts)
        for packet in packets:
            track = by_index[packet.stream_index]
            own = track.own_times(packet)
            set_anew = self._follow(track, own, begins=begins)
            begins = False
            shift = self._shifts[track.setting or 0]
            track.end_s = shift + own.end_s
            self._end = max(self._end, track.end_s)
            self._ends[track.setting or 0] = max(self._ends[track.setting or 0], track.end_s)
            if track.is_sound:
                self._sound_end, self._sound_setting = max(self._sound_end, track.end_s), track.setting
            yield track.timed(packet, own, shift, set_anew=set_anew)

    def _follow(self, track: "_Track", own: "_OwnTimes", *, begins: bool) -> bool:
        """Finds the setting of the clock under which the track's next packet is; True when that begins another recording."""
        if begins:
            # The first file of all keeps its own times.
            self._new_setting(self._end - own.heard_s if self._shifts else Fraction(0))
            self._sound_setting = None
        last = len(self._shifts) - 1
        if track.setting is None:
            track.setting, track.told_s = last, own.told_s
            return begins and last > 0
        if own.told_s is None:
            return False
        step_s = Fraction(0) if track.told_s is None else own.told_s - track.told_s
        stepped = not -STEP_BACK_S <= step_s <= STEP_MAX_S
        if track.is_sound:
            setting = self._sound_after_step(track, own.heard_s) if stepped else track.setting
        else:
            setting = self._picture_setting(track, own.told_s, step_s, stepped=stepped)
        if setting == track.setting:
            track.told_s = own.told_s if track.told_s is None else max(track.told_s, own.told_s)
            return False
        track.setting, track.told_s = setting, own.told_s
        return track.is_sound

    def _sound_after_step(self, track: "_Track", heard_s: Fraction) -> int:
        """That of another sound track that has stepped already, or a new one: a track never goes back behind its own end."""
        other = self._sound_setting
        if other is not None and other != track.setting:
            place_s = self._shifts[other] + heard_s
            if track.end_s - STEP_BACK_S <= place_s <= self._end + _NEAR_S:
                return other
        # Pictures that have stepped before it, and are stored ahead of it, move it no further.
        end_s = max(self._sound_end, self._ends[track.setting or 0])
        return self._new_setting(end_s - heard_s)

    def _picture_setting(self, track: "_Track", told_s: Fraction, step_s: Fraction, *, stepped: bool) -> int:
        """Pictures follow the sound: where it is still behind they wait for it, and go over to its clock once it has that."""
        assert track.setting is not None  # noqa: S101 - the caller has looked
        sound = self._sound_setting
        if sound is None:
            return self._new_setting(self._end - told_s) if stepped else track.setting
        left_behind = step_s > _NEAR_S and not self._is_beside_sound(told_s, track.setting)
        if stepped or left_behind:
            # A gap of the sound, if that comes, is none of its clock's.
            track.follows_from = sound + 1 if stepped and sound == track.setting else sound
        elif track.follows_from is None:
            return track.setting
        if sound >= track.follows_from and sound != track.setting and self._is_beside_sound(told_s, sound):
            track.follows_from = None
            return sound
        return self._new_setting(self._sound_end - told_s) if stepped or left_behind else track.setting

    def _is_beside_sound(self, told_s: Fraction, setting: int) -> bool:
        return abs(self._shifts[setting] + told_s - self._sound_end) <= _NEAR_S

    def _new_setting(self, shift_s: Fraction) -> int:
        if len(self._shifts) == SETTINGS_MAX:
            raise MediaError(f"its clock is set anew more than {SETTINGS_MAX} times; re-encode it")
        # Rates that have nothing in common would make each sum of fractions longer than the one before.
        self._shifts.append(Fraction(round(shift_s * _GRID_HZ), _GRID_HZ))
        self._ends.append(Fraction(0))
        return len(self._shifts) - 1


@dataclass(frozen=True, slots=True)
class _OwnTimes:
    """A packet's times in seconds by the clock of its file; `told_s` is the one that shows whether that was set anew.

    `heard_s` is when something is heard or seen of it, should it be the first of its recording.
    """

    pts_s: Fraction
    dts_s: Fraction | None
    end_s: Fraction
    told_s: Fraction | None
    heard_s: Fraction
    is_delayed: bool
    """Whether the container says that an encoder's delay stands at its front."""
    header: FrameHeader | None


class _Track:
    """One track of a file, on its way along the time line."""

    def __init__(self, number: int, tracks: Tracks, *, counts: bool, from_zero: bool) -> None:
        self.setting: int | None = None
        self.told_s: Fraction | None = None
        self.end_s = Fraction(0)
        self.follows_from: int | None = None
        """Pictures that have stepped before the sound: from which setting of its clock on they go over to that."""
        self._number, self._tracks, self._counts, self._from_zero = number, tracks, counts, from_zero
        stream = tracks.streams[number]
        self.is_sound = isinstance(stream, AudioStream)
        # A damaged stream may tell no rate: 0.
        self._rate_hz = stream.codec_context.sample_rate if isinstance(stream, AudioStream) else 0
        self._delay_s = Fraction(0)
        self._next_s = self._length_s = Fraction(0)
        self._dts_ms: int | None = None
        self._first_s: Fraction | None = None
        """Sound: when its recording's first sample is heard, the encoder's delay left out, on the time line."""
        self._is_first = False
        self._header: FrameHeader | None = None
        self._changes = 0

    def own_times(self, packet: "Packet[Stream]") -> _OwnTimes:
        unit = packet.time_base
        header = frame_header(packet) if self.is_sound else None
        ticks = packet.pts if packet.pts is not None else packet.dts
        counted = ticks is None or (self._counts and header is not None and self._header is not None)
        pts_s = self._next_s if counted or ticks is None else unit * ticks
        padding_s, is_delayed = self._take_skipped(packet)
        length_s = unit * (packet.duration or 0) if header is None else header.duration_s
        self._next_s = pts_s + length_s
        # MP4 takes a gap for the length of the packet before. Some containers have taken padding off the last one's length already.
        length_s = length_s if length_s <= _LENGTH_MAX_S else self._length_s
        self._length_s = max(self._length_s, length_s)
        if padding_s:
            length_s = min(length_s, max(self._length_s - padding_s, Fraction(0)))
        dts_s = None if packet.dts is None else pts_s if counted else min(unit * packet.dts, pts_s)
        if counted:
            told_s = None
        elif self.is_sound or (dts_s is not None and pts_s - dts_s > STEP_MAX_S):
            # So far ahead no picture is shown: the clock has stepped while pictures were put into another order.
            told_s = pts_s
        else:
            # Matroska tells no dts of pictures before FFmpeg has seen enough of their order, and a pts says nothing of it.
            told_s = dts_s
        end_s = pts_s + length_s if self.is_sound else pts_s if told_s is None else told_s
        heard_s = pts_s + self._delay_s if self._delay_s else pts_s
        if self._from_zero and not self._delay_s:
            heard_s = max(pts_s, Fraction(0))  # the edit list of an MP4 leaves out what lies before
        return _OwnTimes(pts_s, dts_s, end_s, told_s, heard_s, is_delayed, header)

    def _take_skipped(self, packet: "Packet[Stream]") -> tuple[Fraction, bool]:
        """The length of the padding at the packet's end, and whether there is a delay at its front, which is remembered."""
        if not self._rate_hz:
            return Fraction(0), False
        start, end = skipped_samples(packet)
        if start:
            self._delay_s = opus_delay_s(packet.stream) or Fraction(start, self._rate_hz)
        return Fraction(end, self._rate_hz), start > 0

    def timed(self, packet: "Packet[Stream]", own: _OwnTimes, shift_s: Fraction, *, set_anew: bool) -> TimedPacket:
        """The packet where it stands on the time line, from which its own clock is `shift_s` away."""
        pts_s = shown_s = own.pts_s + shift_s if shift_s else own.pts_s
        index = None
        if self.is_sound:
            # An Ogg link's first packet still has the time of the link before.
            set_anew &= not self._is_first
            set_anew |= self._changed(own.header) or (own.is_delayed and self._first_s is not None)
            self._is_first = set_anew
            if set_anew or self._first_s is None:
                self._first_s = shift_s + own.heard_s
            shown_s = max(pts_s, self._first_s)
            index = rounded(pts_s - self._first_s, self._rate_hz) if self._rate_hz else None
        pts_ms = rounded(pts_s, 1000)
        told_ms = pts_ms if own.dts_s is None else min(rounded(own.dts_s + shift_s, 1000), pts_ms)
        if self._dts_ms is None:
            self._dts_ms = told_ms
        elif own.dts_s is not None:
            self._dts_ms = max(self._dts_ms, told_ms)
        dts_ms, shown_ms = self._dts_ms, rounded(shown_s, 1000)
        return TimedPacket(packet, self._tracks, self._number, max(pts_ms, dts_ms), dts_ms, shown_ms, index, set_anew)

    def _changed(self, header: FrameHeader | None) -> bool:
        """Whether rate or channels are others than those of the packet before."""
        before, self._header = self._header, header
        if before is None or header is None or (before.rate_hz, before.channels) == (header.rate_hz, header.channels):
            return False
        self._changes += 1
        if self._changes > _CHANGES_MAX:
            raise MediaError(f"sound that changes its rate or channels more than {_CHANGES_MAX} times; re-encode it")
        return True


def opus_delay_s(stream: Stream) -> Fraction:
    """The delay of a stream of Opus, as its own header has it (RFC 7845 §5.1); FFmpeg writes others into Matroska. 0 of other codecs."""
    head = stream.codec_context.extradata or b""
    if stream.codec_context.name not in {"opus", "libopus"} or head[:8] != b"OpusHead" or len(head) < 12:
        return Fraction(0)
    return Fraction(int.from_bytes(head[10:12], "little"), 48_000)
