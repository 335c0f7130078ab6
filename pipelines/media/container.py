"""Opens untrusted media with FFmpeg, whether a file, a byte stream or a fragment; nothing else here opens a container.

FFmpeg's own messages stay off (PyAV's default, `av.logging` level None): what matters comes back as an error.
"""

import ctypes
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import av._core
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from pipelines.errors import MediaError, ParticipantsError
from pipelines.media.raw_audio import ACCEPTED
from pipelines.types import Channels, Participant, format_participants

FORMATS = (
    "3gp,aac,ac3,adts,aiff,amr,amrnb,amrwb,asf,au,avi,caf,dts,eac3,flac,flv,gsm,loas,matroska,webm,mov,mp4,m4a,3g2,mj2,"
    "mp3,mpeg,mpegts,mpegvideo,ogg,rm,w64,wav"
)
"""What may be opened. Playlists (hls, dash, concat, imf) and image sequences are left out: they open other files."""
SOUND_DECODERS = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,alac,amrnb,amrwb,cook,dca,"
    "dvaudio,eac3,flac,g722,g723_1,g726,g726le,g729,gsm,gsm_ms,ilbc,libopencore_amrnb,libopencore_amrwb,"
    "libopus,libspeex,mp1,mp1float,mp2,mp2float,mp3,mp3adu,mp3adufloat,mp3float,nellymoser,opus,qcelp,qdm2,"
    "real_144,real_288,s302m,sipr,siren,speex,truespeech,vorbis,wavpack,wmav1,wmav2,wmavoice,wmapro,"
    "pcm_alaw,pcm_bluray,pcm_dvd,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16be_planar,"
    "pcm_s16le,pcm_s16le_planar,pcm_s24be,pcm_s24le,pcm_s24le_planar,pcm_s32be,pcm_s32le,pcm_s32le_planar,"
    "pcm_s64be,pcm_s64le,pcm_s8,pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,"
    "pcm_u8"
)
PICTURE_DECODERS = (
    "av1,libdav1d,cinepak,dvvideo,ffv1,flv,h261,h263,h263i,h263p,h264,hevc,mjpeg,mpeg1video,mpeg2video,"
    "mpeg4,mpegvideo,msmpeg4,msmpeg4v1,msmpeg4v2,prores,rawvideo,rv20,rv30,rv40,svq1,svq3,theora,vc1,vp3,"
    "vp6,vp6f,vp8,vp9,wmv1,wmv2,wmv3"
)
"""What may be decoded, by FFmpeg's names: what calls and recordings of people use. FFmpeg has 517 decoders; others make pictures
or sound of next to no bytes, or unpack archives, in one call that cannot be interrupted (see `passes`)."""
START_TAG = "UNDERTONE_START"
"""Matroska tag of a fragment: `index/rate`, the exact place of its first decoded sample in the source media.

Matroska's times are whole ms. The tag lets a decoder that starts at this fragment resample on the same grid as one
that has been running since the start; an index below zero counts the encoder's delay, which is not part of the sound.
"""
TRACK_TITLES = {"AUDIO_FROM_CUSTOMER": Participant.CUSTOMER, "AUDIO_TO_CUSTOMER": Participant.AGENT}
"""Who is on a sound track of that title, as Amazon Connect's streams of Kinesis Video have them (Amazon Connect, Administrator Guide,
"Live media streaming")."""
_NAMED_MAX = 8
"""So many tracks are named in an error."""
ALLOCATION_MAX_BYTES = 256 << 20
"""FFmpeg gets no larger piece of memory at once: a megabyte of QuickTime's packed header would unpack to a gigabyte."""
# PyAV does not expose this setting of libavutil, which holds for the whole process.
ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(ALLOCATION_MAX_BYTES))  # noqa: SLF001


@contextmanager
def open_media(
    file: Any, what: str, picture_max_pixels: int, *, key_frames_only: bool = False, looks_far: bool = False
) -> Iterator[InputContainer]:
    """Opens `file` (a Python file object; seekable or not) with no way to reach any other file or address.

    FFmpeg looks at the first 2 MiB or 2 s for what the tracks are; 32 MiB and an hour where it `looks_far`. It decodes up to twenty
    pictures to see in which order they are shown, or none but key frames where `key_frames_only`: then decoding times are not told
    apart from those at which pictures are shown.

    Raises:
        MediaError: FFmpeg cannot open it; `what` names it in the message.
    """
    try:
        container = av.open(
            file,
            "r",
            options={"max_pixels": str(picture_max_pixels)}
            | ({"skip_frame": "nokey", "skip_loop_filter": "all"} if key_frames_only else {}),
            container_options={
                "format_whitelist": FORMATS,
                # FFmpeg decodes while it looks at a file.
                "codec_whitelist": f"{SOUND_DECODERS},{PICTURE_DECODERS}",
                "protocol_whitelist": "none",
                "probesize": str((32 if looks_far else 2) << 20),
                "analyzeduration": "3600000000" if looks_far else "2000000",
            },
            metadata_errors="replace",
            buffer_size=64 << 10,
        )
    except (av.FFmpegError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.FFmpegError) else error
        raise MediaError(
            f"{what} is no media that FFmpeg can open ({reason}); check the file or convert it; {ACCEPTED}"
        ) from error
    with container:
        yield container


@dataclass(frozen=True, slots=True)
class SoundTrack:
    """A sound track that is heard, and who is on it: one for all of its channels, or one for each."""

    stream: AudioStream
    participants: Channels


@dataclass(frozen=True, slots=True)
class Tracks:
    """What of a container is decoded, and the names of its sound tracks that are not."""

    sounds: tuple[SoundTrack, ...]
    picture: VideoStream | None
    participants: Channels
    """Who is on which track, or channel, of those that are heard; without sound, who is in the picture."""
    left_out: tuple[str, ...] = ()

    @property
    def streams(self) -> list[Stream]:
        """The picture first."""
        return [stream for stream in (self.picture, *(sound.stream for sound in self.sounds)) if stream is not None]


def tracks_of(container: InputContainer, participants: Channels, what: str) -> Tracks:
    """The sound tracks on which `participants` are, and the first moving picture; cover art is none.

    A sound track is somebody's, and none is taken for another's (docs/architecture.md#sound-tracks).

    Raises:
        MediaError: there is neither sound nor picture, nothing may or can decode it, or it is not clear who is on which track.
    """
    sounds = list(container.streams.audio)
    picture = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if not sounds and picture is None:
        raise MediaError(f"{what} holds neither sound nor moving pictures")
    named = [who for who in participants if who is not None]
    if not named or len(set(named)) < len(named):
        raise ParticipantsError(
            f"{what}: {format_participants(participants)!r} names nobody, or somebody twice: name each at most once"
        )
    heard = [SoundTrack(stream, who) for stream, who in _owners(sounds, participants, what) if any(who)]
    chosen = {track.stream.index for track in heard}
    left_out = tuple(_track_name(n, s) for n, s in enumerate(sounds[:_NAMED_MAX], 1) if s.index not in chosen)
    who = tuple(who for track in heard for who in track.participants) or participants
    found = Tracks(tuple(heard), picture, who, left_out)
    for stream in found.streams:
        name = "unknown" if stream.codec_context is None else stream.codec_context.name
        if name not in (PICTURE_DECODERS if stream is picture else SOUND_DECODERS).split(","):
            raise MediaError(
                f"{what}: its {stream.type} is in the codec {name}, which is not decoded; re-encode it, say to Opus or H.264"
            )
    if not found.streams:
        raise MediaError(f"{what}: every channel of its sound is left out, and it has no pictures")
    return found


def _owners(sounds: list[AudioStream], participants: Channels, what: str) -> list[tuple[AudioStream, Channels]]:
    """Who is on which track; see `tracks_of`."""
    if not sounds:
        return []
    titled = [TRACK_TITLES.get(stream.metadata.get("title", "").upper()) for stream in sounds]
    named = _by_title(sounds, titled, participants) if any(titled) else _by_order(sounds, participants)
    # What a track's title says is never overruled by where it stands.
    wrong = any(title and set(who) - {title, None} for (_, who), title in zip(named, titled, strict=False))
    if named and not wrong:
        return named
    channels = [_channels(stream) for stream in sounds]
    if len(sounds) == 1 and not any(titled):
        raise ParticipantsError(
            f"{len(participants)} participants on {channels[0]} channel(s): name one for each channel, or one for all; "
            "- leaves a channel out"
        )
    tracks = "; ".join(_track_name(n, stream) for n, stream in enumerate(sounds[:_NAMED_MAX], 1))
    raise ParticipantsError(
        f"{what} holds {len(sounds)} sound tracks ({tracks}), and {format_participants(participants)!r} does not say who is on each: "
        "name one participant a track, in order, such as agent,customer; - leaves a track out"
    )


def _by_title(
    sounds: list[AudioStream], titled: list[Participant | None], participants: Channels
) -> list[tuple[AudioStream, Channels]]:
    """As the titles have it where they say enough, else in order; the caller looks whether both agree."""
    known = [who for who in titled if who is not None]
    wanted = {who for who in participants if who is not None}
    if participants == (Participant.MIXED,) and None not in titled:
        wanted = set(known)
    if len(set(known)) == len(known) and wanted <= set(known):
        return [(stream, (who if who in wanted else None,)) for stream, who in zip(sounds, titled, strict=True)]
    return _by_order(sounds, participants) if len(sounds) > 1 and len(participants) > 1 else []


def _by_order(sounds: list[AudioStream], participants: Channels) -> list[tuple[AudioStream, Channels]]:
    """One a track, or one a channel, or one for the only track that can be meant; nothing where none of it fits."""
    channels = [_channels(stream) for stream in sounds]
    if len(participants) == len(sounds):
        return [(stream, (who,)) for stream, who in zip(sounds, participants, strict=True)]
    if len(participants) == sum(channels):
        who_is = iter(participants)
        return [(stream, tuple(islice(who_is, count))) for stream, count in zip(sounds, channels, strict=True)]
    if len(participants) == 1 and (only := _chosen(sounds)) is not None:
        return [(stream, participants if stream is only else (None,)) for stream in sounds]
    return []


def _chosen(sounds: list[AudioStream]) -> AudioStream | None:
    """The only track that does not say to be empty, or that somebody has made the default; None where nothing tells."""
    full = [stream for stream in sounds if not _says_to_be_empty(stream)]
    if len(full) == 1:
        return full[0]
    defaults = [stream for stream in full if stream.disposition & Disposition.default]
    # Programs make the first one the default by themselves.
    return defaults[0] if len(defaults) == 1 and defaults[0] is not sounds[0] else None


def _channels(stream: AudioStream) -> int:
    """0 where nothing can decode it."""
    return 0 if stream.codec_context is None else stream.codec_context.channels


def _track_name(number: int, stream: AudioStream) -> str:
    codec = "unknown" if stream.codec_context is None else stream.codec_context.name
    title = "".join(c for c in stream.metadata.get("title", "")[:40] if c.isprintable())
    return f"{number}: {codec}, {_channels(stream)} channel(s){f', {title!r}' if title else ''}"


def _says_to_be_empty(stream: AudioStream) -> bool:
    """Whether the container itself says that the track has no packet: mkvmerge's and FFmpeg's tags, or MP4's index."""
    tags = stream.metadata
    if tags.get("NUMBER_OF_FRAMES") == "0" or re.fullmatch(r"[0:.]+", tags.get("DURATION", "-")):
        return True
    return (
        stream.codec_context is None
        or stream.codec_context.sample_rate == 0
        or (stream.duration == 0 and stream.frames == 0)
    )


def skipped_samples(packet: "Packet[Stream]") -> tuple[int, int]:
    """How many samples the container says to leave out at the start and at the end of this packet's sound."""
    if not packet.has_sidedata("skip_samples"):
        return 0, 0
    start, end = struct.unpack_from("<II", bytes(packet.get_sidedata("skip_samples")))
    return start, end


def time_s(packet: "Packet[Stream]") -> Fraction:
    """When it is shown or heard, in seconds of the file's own clock."""
    ticks = packet.pts if packet.pts is not None else packet.dts
    return packet.time_base * (ticks or 0)


def packets(container: InputContainer, *streams: Stream | None) -> "Iterator[Packet[Stream]]":
    """The packets of these streams in the order of the file, without the empty ones at the end that flush a decoder.

    Raises:
        av.FFmpegError: the rest cannot be read.
    """
    try:
        for packet in container.demux(*[stream for stream in streams if stream is not None]):
            if packet.size:
                yield packet
    except IndexError:
        # PyAV 18.1, after the last packet, when a transport stream announced a further stream on its way.
        return
