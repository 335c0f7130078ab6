"""Opens untrusted media with FFmpeg, whether a file, a byte stream or a fragment; nothing else here opens a container.

FFmpeg's own messages stay off (PyAV's default, `av.logging` level None): what matters comes back as an error.
"""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av._core
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from pipelines.errors import MediaError, ParticipantsError
from pipelines.media.owners import NAMED_MAX, owners, track_name
from pipelines.media.raw_audio import ACCEPTED
from pipelines.types import Channels, format_participants

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
ALLOCATION_MAX_BYTES = 256 << 20
"""FFmpeg gets no larger piece of memory at once: a megabyte of QuickTime's packed header would unpack to a gigabyte."""
# PyAV does not expose this setting of libavutil, which holds for the whole process.
ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(ALLOCATION_MAX_BYTES))  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Reach:
    """So far FFmpeg looks for what the tracks are: up to one of both."""

    max_bytes: int
    max_s: float


NEAR = Reach(2 << 20, 2)
FAR = Reach(32 << 20, 3600)


@contextmanager
def open_media(
    file: Any, what: str, picture_max_pixels: int, *, undecoded: bool = False, reach: Reach = NEAR
) -> Iterator[InputContainer]:
    """Opens `file` (a Python file object; seekable or not) with no way to reach any other file or address.

    FFmpeg looks as far as `reach` for what the tracks are. It decodes up to twenty pictures to see in which order they are
    shown, or none where they stay `undecoded`: then decoding times are not told apart from those at which pictures are shown, and the kind of
    H.264's pixels is not known.

    Raises:
        MediaError: FFmpeg cannot open it; `what` names it in the message.
    """
    try:
        container = av.open(
            file,
            "r",
            options={"max_pixels": str(picture_max_pixels)} | ({"skip_frame": "all"} if undecoded else {}),
            container_options={
                "format_whitelist": FORMATS,
                # FFmpeg decodes while it looks at a file.
                "codec_whitelist": f"{SOUND_DECODERS},{PICTURE_DECODERS}",
                "protocol_whitelist": "none",
                "probesize": str(reach.max_bytes),
                "analyzeduration": str(round(reach.max_s * av.time_base)),
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
    taken_for_empty: tuple[AudioStream, ...] = ()
    """What is heard is whose it is only as long as these send nothing."""

    @property
    def streams(self) -> list[Stream]:
        """The picture first."""
        return [stream for stream in (self.picture, *(sound.stream for sound in self.sounds)) if stream is not None]


def tracks_of(
    container: InputContainer, participants: Channels, what: str, silent: frozenset[int] = frozenset()
) -> Tracks:
    """The sound tracks on which `participants` are, and the first moving picture; cover art is none.

    A sound track is somebody's, and none is taken for another's (docs/architecture.md#sound-tracks). The tracks of the indexes `silent` are
    taken for empty.

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
    owned = owners(sounds, participants, what, silent)
    heard = [SoundTrack(stream, who) for stream, who in owned if any(who)]
    chosen = {track.stream.index for track in heard}
    left_out = tuple(track_name(n, s) for n, s in enumerate(sounds[:NAMED_MAX], 1) if s.index not in chosen)
    who = tuple(who for track in heard for who in track.participants) or participants
    empty = tuple(stream for stream, who in owned if not who and stream.codec_context is not None)
    found = Tracks(tuple(heard), picture, who, left_out, empty)
    for stream in found.streams:
        name = "unknown" if stream.codec_context is None else stream.codec_context.name
        if name not in (PICTURE_DECODERS if stream is picture else SOUND_DECODERS).split(","):
            raise MediaError(
                f"{what}: its {stream.type} is in the codec {name}, which is not decoded; re-encode it, say to Opus or H.264"
            )
    if not found.streams:
        raise MediaError(f"{what}: every channel of its sound is left out, and it has no pictures")
    return found


def reads_all(container: InputContainer, tracks: Tracks) -> bool:
    """Whether every stream is read that takes time: covers take none."""
    read = {stream.index for stream in tracks.streams}
    return all(stream.index in read or stream.disposition & Disposition.attached_pic for stream in container.streams)


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


def rounded(time_s: Fraction, rate_hz: int) -> int:
    """`round(time_s * rate_hz)`, an exact half to the even side; in whole numbers, which is ten times as fast."""
    whole, rest = divmod(time_s.numerator * rate_hz, time_s.denominator)
    return whole + (2 * rest + whole % 2 > time_s.denominator)


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
