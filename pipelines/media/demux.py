"""From fragments to blocks of sound per participant, and packets of pictures; decoders live on from one to the next."""

import io
import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.container import (
    START_TAG,
    SoundTrack,
    Tracks,
    open_media,
    packets,
    rounded,
    skipped_samples,
    time_s,
    tracks_of,
)
from pipelines.media.decode import SoundDecoder
from pipelines.media.pictures import PicturePacket, PictureReader
from pipelines.media.raw_audio import RawAudio, RawDecoder, is_container, raw_audio
from pipelines.media.resample import AudioBlock, Sound, Timeline
from pipelines.settings import MediaLimits, StreamSettings
from pipelines.types import SAMPLES_PER_MS, MediaFragment, Participant

PICTURES_APART_MAX_S = 3600
"""So long a picture may stand still."""
_EXPANSION_MAX = 8
"""Matroska may hold packed packets; unpacked they may be this many times the fragment's own limit."""


@dataclass(frozen=True, slots=True)
class Demuxed:
    """What one fragment gave.

    The last samples of a fragment (2 ms at 8 kHz, held in the resampler) come with the next one, so the first block
    may start before `start_sample`, the exact place of this fragment's own first sample at 16 kHz (None without
    sound). A later `Demuxer` may take it as its `start_sample` to start at this fragment. `damaged` counts packets
    that were left out, with silence in the place of sound.
    """

    blocks: list[AudioBlock] = field(default_factory=list)
    pictures: list[PicturePacket] = field(default_factory=list)
    damaged: int = 0
    start_sample: int | None = None
    starts_at_key_frame: bool = True
    """False when its pictures need an earlier fragment: a decoder that starts here gives none until a key frame."""
    ended: bool = False
    """Whether nothing comes that needs these pictures: their decoder may give what it holds back."""

    @property
    def media_ms(self) -> int:
        """The length of the longest participant's sound; of the pictures where there is no sound."""
        samples: dict[Participant, int] = {}
        for block in self.blocks:
            samples[block.participant] = samples.get(block.participant, 0) + block.samples.size
        if samples:
            return max(samples.values()) // SAMPLES_PER_MS
        times_ms = [picture.time_ms for picture in self.pictures]
        return max(times_ms) - min(times_ms) if times_ms else 0


class Demuxer:
    """Turns the fragments of one stream, fed in order, into sound and into packets of pictures, which are decoded where they are looked at.

    The place of a sample is its count from the first fragment's `start_ms`, or from `start_sample` where an earlier
    run left off, and is given up only when a fragment's `start_ms` is more than 100 ms away from it.
    """

    def __init__(self, settings: StreamSettings, start_sample: int | None = None) -> None:
        self._limits = settings.limits
        self._start_sample = start_sample
        self._ahead = 0
        """By how many samples the exact places are behind those that times in ms say."""
        self._resumes_at: int | None = None
        """The fragment whose first sound that is the difference of."""
        self._sounds: dict[int, _SoundTrack] = {}
        self._raw_sound = RawDecoder()
        self._picture = PictureReader()
        self._seq: int | None = None

    def feed(self, fragment: MediaFragment) -> Demuxed:
        """Decodes one fragment; a final one without media gives nothing.

        Raises:
            MediaError: it cannot be opened, or passes a limit of the settings. The stream can go on without it.
        """
        if len(fragment.media) > self._limits.fragment_max_bytes:
            raise MediaError(f"{len(fragment.media)} bytes; at most {self._limits.fragment_max_bytes} are allowed")
        if self._seq is not None and fragment.seq != self._seq + 1:
            self._picture.skip_to_key_frame()
        self._seq = fragment.seq
        if fragment.final and not fragment.media:
            return Demuxed()
        raw = raw_audio(fragment.content_type)
        if raw is not None and not is_container(fragment.media):
            return self._raw(fragment, raw)
        return self._container(fragment)

    def finish(self) -> Demuxed:
        """What decoders and resamplers still hold at the end of the stream."""
        blocks = [block for track in self._sounds.values() for block in track.timeline.finish()]
        return Demuxed(blocks, ended=True)

    def _raw(self, fragment: MediaFragment, raw: RawAudio) -> Demuxed:
        _check_raw(raw, len(fragment.media), self._limits)
        timeline = self._track(0, fragment.start_ms).timeline
        start_sample = timeline.next_sample(fragment.start_ms)
        samples, damaged = self._raw_sound.decode(raw, fragment.media)
        blocks = timeline.place(Sound(raw.rate_hz, samples), fragment.participants, fragment.start_ms)
        return Demuxed(blocks, [], damaged, start_sample)

    def _container(self, fragment: MediaFragment) -> Demuxed:
        what = f"fragment {fragment.seq} of stream {fragment.stream}"
        file = io.BytesIO(fragment.media)
        with open_media(file, what, self._limits.picture_max_pixels, undecoded=True) as container:
            if len(container.streams) > self._limits.streams_max:
                raise MediaError(f"{what} holds {len(container.streams)} streams; send sound and picture only")
            tracks = tracks_of(container, fragment.participants, what)
            parts = _read(container, tracks, what, self._limits, fragment.seq)
            if not parts.picture_packets and not any(part.packets for part in parts.sounds):
                raise MediaError(f"{what} opens, but holds no packet of sound or picture")
            pictures = self._pictures(parts, fragment)
            at_key_frame = not parts.picture_packets or parts.picture_packets[0].is_keyframe
            demuxed = Demuxed([], pictures, parts.damaged, None, at_key_frame)
            for number, part in enumerate(parts.sounds):
                if part.packets:
                    demuxed = self._with_sound(demuxed, number, part, fragment.start_ms, parts.start)
        return demuxed

    def _pictures(self, parts: "_Parts", fragment: MediaFragment) -> list[PicturePacket]:
        if parts.picture is None or not parts.picture_packets:
            return []
        everyone = fragment.heard
        participant = Participant.CUSTOMER if Participant.CUSTOMER in everyone else everyone[0]
        times_ms = [fragment.start_ms + rounded(time_s(packet) - parts.start, 1000) for packet in parts.picture_packets]
        return self._picture.read(parts.picture, parts.picture_packets, times_ms, participant, self._limits)

    def _with_sound(self, demuxed: Demuxed, number: int, part: "_SoundPart", start_ms: int, start: Fraction) -> Demuxed:
        """With one track's sound; the encoder's delay is cut off here, once per recording."""
        heard_ms = start_ms + round((part.heard - start) * 1000)
        track = self._track(number, heard_ms)
        decoded = track.decoder.decode(part.track.stream, part.packets, self._limits)
        begins = part.index_s is not None and part.index_s <= 0
        start_sample = track.timeline.next_sample(heard_ms, begins=begins)
        blocks: list[AudioBlock] = []
        for n, (begins_s, sound) in enumerate(decoded.sounds):
            if n == 0:
                skip = round(part.skip_s * sound.rate_hz)
                index = None if part.index_s is None else max(round(part.index_s * sound.rate_hz), 0)
                first = Sound(sound.rate_hz, sound.samples[:, skip:], index)
                blocks += track.timeline.place(first, part.track.participants, heard_ms)
            elif begins_s is None:  # the rate or the channels changed on the way: the rest simply follows
                blocks += track.timeline.follow(sound, part.track.participants)
            else:
                begins_ms = start_ms + round((begins_s - start) * 1000)
                blocks += track.timeline.place(sound, part.track.participants, begins_ms)
        return replace(
            demuxed,
            blocks=[*demuxed.blocks, *blocks],
            damaged=demuxed.damaged + decoded.damaged,
            start_sample=start_sample if demuxed.start_sample is None else demuxed.start_sample,
        )

    def _track(self, number: int, start_ms: int) -> "_SoundTrack":
        """The decoder and the time line of a sound track whose next sound says to start at `start_ms`.

        Where a run left off is known of the first track that sounds then, and by it, within a millisecond, of those beside it. One
        that sounds later starts where it says.
        """
        if number not in self._sounds:
            exact = None
            if self._start_sample is not None and self._resumes_at in {None, self._seq}:
                if self._resumes_at is None:
                    self._ahead, self._resumes_at = self._start_sample - start_ms * SAMPLES_PER_MS, self._seq
                exact = start_ms * SAMPLES_PER_MS + self._ahead
            self._sounds[number] = _SoundTrack(SoundDecoder(), Timeline(exact))
        return self._sounds[number]


@dataclass(frozen=True, slots=True)
class _SoundTrack:
    decoder: SoundDecoder
    timeline: Timeline


@dataclass(slots=True)
class _SoundPart:
    """A fragment's packets of one sound track, and its times in seconds of the fragment's own clock."""

    track: SoundTrack
    packets: "list[Packet[Stream]]" = field(default_factory=list)
    index_s: Fraction | None = None
    """The exact place of the first sample in the source media, when the `Fragmenter` wrote it down."""
    skip_s: Fraction = Fraction(0)
    """The encoder's delay at the front."""
    heard: Fraction = Fraction(0)
    """When the first sound is heard."""


@dataclass(slots=True)
class _Parts:
    """A fragment's packets, and its times in seconds of its own clock."""

    sounds: list[_SoundPart]
    picture: VideoStream | None
    picture_packets: "list[Packet[Stream]]" = field(default_factory=list)
    damaged: int = 0
    start: Fraction = Fraction(0)
    """When the first sound is heard or the first picture seen: that moment is `start_ms`."""
    end: Fraction = Fraction(0)
    """When the last of them is: the first sound of a track or any picture."""


def _read(container: InputContainer, tracks: Tracks, what: str, limits: MediaLimits, seq: int) -> _Parts:
    """All packets of a fragment; what cannot be read any more counts as one damaged packet."""
    parts = _Parts([_SoundPart(track) for track in tracks.sounds], tracks.picture)
    lists = {part.track.stream.index: part.packets for part in parts.sounds}
    size_bytes = 0
    try:
        for count, packet in enumerate(packets(container, *tracks.streams), 1):
            size_bytes += packet.size
            if count > limits.packets_max:
                raise MediaError(
                    f"{what} holds more than {limits.packets_max} packets; cut it shorter "
                    "(settings: stream.limits.packets_max)"
                )
            if size_bytes > _EXPANSION_MAX * limits.fragment_max_bytes:
                raise MediaError(f"{what} unpacks to more than {_EXPANSION_MAX} times the allowed size")
            lists.get(packet.stream_index, parts.picture_packets).append(packet)
    except av.FFmpegError:
        parts.damaged = 1
    for part in parts.sounds:
        tags = part.track.stream.metadata.get(START_TAG) or container.metadata.get(START_TAG, "")
        _time_sound(part, tags, seq)
    heard = [part.heard for part in parts.sounds if part.packets]
    times = [time_s(packet) for packet in parts.picture_packets] + heard
    parts.start, parts.end = min(times, default=Fraction(0)), max(times, default=Fraction(0))
    apart_s = max([max(heard, default=parts.start) - parts.start, *(part.skip_s for part in parts.sounds)])
    # A still picture is followed by one that is decoded before and shown long after, beside the sound of the moment.
    for found_s, max_s in ((apart_s, limits.fragment_max_s), (parts.end - parts.start, PICTURES_APART_MAX_S)):
        if found_s > max_s:
            raise MediaError(
                f"{what}: its times are {float(found_s):.3g} s apart; at most {max_s:g} s of media are one fragment "
                "(settings: stream.limits.fragment_max_s)"
            )
    return parts


def _time_sound(part: _SoundPart, tag: str, seq: int) -> None:
    """Finds the encoder's delay and when the first sound is heard."""
    if not part.packets:
        return
    first = part.packets[0]
    if match := re.fullmatch(r"(-?\d{1,15})/([1-9]\d{0,5})", tag):
        part.index_s = Fraction(int(match[1]), int(match[2]))
        part.skip_s = max(-part.index_s, Fraction(0))
    elif seq == 0:
        # Others write the delay into every header (Matroska's CodecDelay); it is there to be skipped only once.
        part.skip_s = Fraction(skipped_samples(first)[0], max(part.track.stream.codec_context.sample_rate, 1))
    part.heard = time_s(first) + part.skip_s


def _check_raw(raw: RawAudio, size_bytes: int, limits: MediaLimits) -> None:
    if raw.channels > limits.channels_max or raw.rate_hz > limits.sample_rate_max_hz:
        raise MediaError(
            f"sound of {raw.channels} channels at {raw.rate_hz} Hz; at most {limits.channels_max} channels at "
            f"{limits.sample_rate_max_hz} Hz are allowed (settings: stream.limits)"
        )
    if size_bytes / raw.frame_bytes * raw.frame_s > limits.fragment_max_s:
        raise MediaError(f"more than {limits.fragment_max_s:g} s of sound in one fragment; cut it shorter")
