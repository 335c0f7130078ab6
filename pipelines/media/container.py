"""Opens untrusted media with FFmpeg, whether a file, a byte stream or a fragment; nothing else here opens a container.

FFmpeg's own messages stay off (PyAV's default, `av.logging` level None): what matters comes back as an error.
"""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import av._core
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.raw_audio import ACCEPTED

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


@contextmanager
def open_media(file: Any, what: str, picture_max_pixels: int) -> Iterator[InputContainer]:
    """Opens `file` (a Python file object; seekable or not) with no way to reach any other file or address.

    Raises:
        MediaError: FFmpeg cannot open it; `what` names it in the message.
    """
    try:
        container = av.open(
            file,
            "r",
            options={"max_pixels": str(picture_max_pixels)},
            container_options={
                "format_whitelist": FORMATS,
                # FFmpeg decodes while it looks at a file.
                "codec_whitelist": f"{SOUND_DECODERS},{PICTURE_DECODERS}",
                "protocol_whitelist": "none",
                "probesize": str(2 << 20),
                "analyzeduration": "2000000",
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


def sound_and_picture(container: InputContainer, what: str) -> tuple[AudioStream | None, VideoStream | None]:
    """The first sound and the first moving picture; cover art is neither.

    Raises:
        MediaError: there is neither, or nothing may or can decode it.
    """
    sound = next(iter(container.streams.audio), None)
    picture = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if sound is None and picture is None:
        raise MediaError(f"{what} holds neither sound nor moving pictures")
    for stream in (sound, picture):
        if stream is None:
            continue
        name = "unknown" if stream.codec_context is None else stream.codec_context.name
        if name not in (SOUND_DECODERS if stream is sound else PICTURE_DECODERS).split(","):
            raise MediaError(
                f"{what}: its {stream.type} is in the codec {name}, which is not decoded; re-encode it, say to Opus or H.264"
            )
    return sound, picture


def skipped_samples(packet: "Packet[Stream]") -> tuple[int, int]:
    """How many samples the container says to leave out at the start and at the end of this packet's sound."""
    if not packet.has_sidedata("skip_samples"):
        return 0, 0
    start, end = struct.unpack_from("<II", bytes(packet.get_sidedata("skip_samples")))
    return start, end


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
