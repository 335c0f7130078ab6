"""Small files that unpack to something huge, name thousands of streams, or never end."""

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from typing import Any

import av
import numpy as np

from tests.fuzz.mutate import crc8, crc16, crc32_mpeg, mend_ogg
from tests.fuzz.seeds import seeds
from tests.pipelines.media_files import film

FRAGMENT_BYTES = 1 << 20
STREAMS = 10_000
_UNKNOWN_SIZE = b"\x01" + b"\xff" * 7


def ebml(kind: int, value: bytes | int, size: bytes | None = None) -> bytes:
    """An element of Matroska; `size` overrules its length."""
    payload = value if isinstance(value, bytes) else value.to_bytes(max((value.bit_length() + 7) // 8, 1), "big")
    length = struct.pack(">I", len(payload) | 1 << 28) if size is None else size
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + length + payload


def matroska(tracks: bytes, clusters: bytes, scale_ns: int = 1_000_000) -> bytes:
    """A live Matroska stream."""
    head = ebml(0x1A45DFA3, ebml(0x4282, b"matroska"))
    info = ebml(0x1549A966, ebml(0x2AD7B1, scale_ns))
    return head + ebml(0x18538067, info + ebml(0x1654AE6B, tracks) + clusters, _UNKNOWN_SIZE)


def track(
    number: int, codec: bytes = b"A_PCM/INT/LIT", rate_hz: float = 8000.0, channels: int = 1, more: bytes = b""
) -> bytes:
    """A track of sound, 16 bits a sample."""
    audio = ebml(0xB5, struct.pack(">d", rate_hz)) + ebml(0x9F, channels) + ebml(0x6264, 16)
    return ebml(
        0xAE, ebml(0xD7, number) + ebml(0x73C5, number) + ebml(0x83, 2) + ebml(0x86, codec) + more + ebml(0xE1, audio)
    )


def block(payload: bytes, number: int = 1, time: int = 0, flags: int = 0x80) -> bytes:
    """A simple block."""
    return ebml(0xA3, bytes([0x80 | number]) + struct.pack(">hB", time, flags) + payload)


def cluster(blocks: bytes, time: int = 0) -> bytes:
    """Blocks counted from a time."""
    return ebml(0x1F43B675, ebml(0xE7, time) + blocks)


def flac_silence(rate_hz: int, channels: int, frames_max: int = 28_000) -> bytes:
    """A fragment full of FLAC frames that hold 65,535 equal samples each."""
    info = struct.pack(">HH6xQ16x", 65_535, 65_535, rate_hz << 44 | (channels - 1) << 41 | 15 << 36)
    frames = [b"fLaC\x80\x00\x00\x22" + info]
    for number in range(frames_max):
        coded = bytes([number]) if number < 0x80 else number_utf8(number)
        head = b"\xff\xf8\x70" + bytes([channels - 1 << 4 | 8]) + coded + b"\xff\xfe"
        frame = head + bytes([crc8(head)]) + b"\0\x12\x34" * channels
        frames.append(frame + struct.pack(">H", crc16(frame)))
        if number * (len(frame) + 2) > FRAGMENT_BYTES * 0.9:
            break
    return b"".join(frames)


def number_utf8(number: int) -> bytes:
    """A frame's number as FLAC writes it."""
    return chr(number).encode("utf-8", "surrogatepass")


def pictures(
    codec: str,
    pixel_format: str,
    size: tuple[int, int],
    count: int,
    container: str,
    *,
    repeated: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """Black pictures, as large as they get; `repeated` encodes one and takes it for all."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, container_options={"fflags": "+bitexact"}) as output:
        stream: Any = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.thread_count = 1
        black = av.VideoFrame(size[0], size[1], pixel_format)
        for plane in black.planes:
            plane.update(bytes(plane.buffer_size))
        encoded = 1 if repeated else count
        for number in range(encoded):
            black.pts = number
            output.mux(packets := stream.encode(black))
        output.mux(stream.encode(None))
        for number in range(encoded, count):
            again = av.Packet(bytes(packets[0]))
            again.stream, again.time_base, again.is_keyframe = stream, Fraction(1, 25), True
            again.pts = again.dts = number
            again.duration = 1
            output.mux_one(again)
    return file.getvalue()


def mp4_index(tracks: int, samples: int) -> bytes:
    """A few kB of MP4, each of whose tracks says to have so many samples of two bytes: FFmpeg makes an entry of its index for each."""

    def box(name: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I4s", 8 + len(body), name) + body

    def numbers(*values: int) -> bytes:
        return struct.pack(f">{1 + len(values)}I", 0, *values)  # version and flags first

    matrix = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    sound = bytes(6) + struct.pack(">H8xHHHHI", 1, 1, 16, 0, 0, 8000 << 16)
    table = box(
        b"stbl",
        box(b"stsd", numbers(1), box(b"sowt", sound)),
        box(b"stts", numbers(2, samples - 1, 1, 1, 2)),
        box(b"stsc", numbers(1, 1, samples, 1)),
        box(b"stsz", numbers(2, samples)),
        box(b"stco", numbers(1, 4096)),
    )
    about = box(b"hdlr", numbers(0), b"soun", bytes(13)), box(b"minf", box(b"smhd", numbers(0)), table)
    media = box(b"mdia", box(b"mdhd", numbers(0, 0, 8000, samples, 0x55C4 << 16)), *about)
    each = [
        box(b"trak", box(b"tkhd", numbers(0, 0, n, 0, 8000, 0, 0, 0, 1 << 24, *matrix, 0, 0)), media)
        for n in range(1, tracks + 1)
    ]
    head = box(b"mvhd", numbers(0, 0, 1000, 8000, 1 << 16, 1 << 24, 0, 0, *matrix, *bytes(24), tracks + 1))
    return box(b"ftyp", b"isom", bytes(4), b"isom") + box(b"moov", head, *each) + box(b"mdat", bytes(80_000))


def huge_png(width: int, height: int) -> bytes:
    """Pictures of a few pixels whose header tells of many."""
    small = bytearray(pictures("png", "rgb24", (16, 16), 2, "mov"))
    at = small.find(b"IHDR")
    while at >= 0:
        small[at + 4 : at + 12] = struct.pack(">II", width, height)
        small[at + 17 : at + 21] = struct.pack(">I", zlib.crc32(small[at : at + 17]))
        at = small.find(b"IHDR", at + 1)
    return bytes(small)


def vp8_told(width: int, height: int) -> bytes:
    """VP8 (RFC 6386 §9.1) whose key frames tell of larger pictures than they are."""
    media = bytearray(seeds()["webm"].media)
    at = media.find(b"\x9d\x01\x2a")
    while at >= 0:
        media[at + 3 : at + 7] = struct.pack("<HH", width, height)
        at = media.find(b"\x9d\x01\x2a", at + 1)
    return bytes(media)


def alternating_mp3() -> bytes:
    """MP3 whose rate changes with every frame."""
    frames = []
    for rate_hz in (16_000, 24_000):
        media = film("mp3", sound_codec="libmp3lame", samples=np.zeros((1, rate_hz), np.float32), rate_hz=rate_hz)
        first = media.rindex(b"\xff\xf3")
        frames.append(media[first:])
    return b"".join(frames) * (900_000 // len(b"".join(frames)))


def packed_zeros(size_mb: int) -> bytes:
    """So many MB of zeros, a thousandth of that by zlib (RFC 1950)."""
    packer = zlib.compressobj(9)
    one_mb = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH))[2:]
    return b"\x78\xda" + one_mb * size_mb + b"\x03\0" + struct.pack(">HH", (size_mb << 20) % 65_521, 1)


def packed_packets(size_bytes: int) -> bytes:
    """Packets that Matroska holds compressed."""
    encoding = ebml(0x6D80, ebml(0x6240, ebml(0x5034, ebml(0x4254, 0))))
    packed = block(packed_zeros(size_bytes >> 20))
    return matroska(track(1, more=encoding), cluster(packed * (900_000 // len(packed))))


def tiny_packets(samples: int) -> bytes:
    """As many packets as a fragment holds: 255 to a block, all of one size."""
    laced = block(b"\xfe" + bytes(2 * samples * 255), flags=0x84)
    return matroska(track(1), cluster(laced * (1_000_000 // len(laced))))


def many_tracks() -> bytes:
    """A Matroska of 10,000 tracks of sound."""
    return matroska(b"".join(track(number) for number in range(1, STREAMS + 1)), cluster(block(bytes(800))))


def many_ogg_streams() -> bytes:
    """10,000 Opus streams begin at once."""
    head = b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0"
    page = b"".join(
        b"OggS\0\2" + bytes(8) + struct.pack("<II4xBB", serial, 0, 1, len(head)) + head for serial in range(STREAMS)
    )
    made = bytearray(page)
    mend_ogg(made)
    return bytes(made) + seeds()["ogg"].media


def many_ts_streams() -> bytes:
    """As many streams as a transport stream has numbers for."""
    per_program, programs = 160, 50
    made = _section(
        0, b"\0\xb0", b"\0\1\xc1\0\0" + b"".join(struct.pack(">HH", n + 1, 0xE000 | 32 + n) for n in range(programs))
    )
    for program in range(programs):
        first = 100 + program * per_program
        body = struct.pack(">H", program + 1) + b"\xc1\0\0" + struct.pack(">HH", 0xE000 | first, 0xF000)
        body += b"".join(
            b"\x0f" + struct.pack(">HH", 0xE000 | pid, 0xF000) for pid in range(first, first + per_program)
        )
        made += _section(32 + program, b"\2\xb0", body)
    for pid in range(100, 100 + programs * per_program, 2):
        pes = b"\0\0\1\xc0\0\0\x80\x80\5\x21\0\1\0\1" + bytes(170)
        made += struct.pack(">BHB", 0x47, 0x4000 | pid, 0x10) + pes
    return made


def _section(pid: int, head: bytes, body: bytes) -> bytes:
    """A program table as packets of a transport stream."""
    section = head[:1] + struct.pack(">H", head[1] << 8 | len(body) + 4) + body
    data = b"\0" + section + struct.pack(">I", crc32_mpeg(section))
    made = b""
    for number, at in enumerate(range(0, len(data), 184)):
        start = 0x4000 if number == 0 else 0
        made += struct.pack(">BHB", 0x47, start | pid, 0x10 | number & 15) + data[at : at + 184].ljust(184, b"\xff")
    return made


def many_mp4_tracks(count: int) -> bytes:
    """The sound track of an MP4, again and again."""
    whole = seeds()["mp4"].media
    moov = whole.index(b"moov") - 4
    size = struct.unpack_from(">I", whole, moov)[0]
    trak = whole.rindex(b"trak") - 4
    one = whole[trak : trak + struct.unpack_from(">I", whole, trak)[0]]
    grown = whole[moov : moov + size] + one * count
    return whole[:moov] + struct.pack(">I", len(grown)) + grown[4:] + whole[moov + size :]


def many_mp4_samples(count: int, size_bytes: int) -> bytes:
    """An MP4 whose tables name more samples than it holds."""
    whole = bytearray(seeds()["mp4"].media)
    at = whole.find(b"stsz")
    while at >= 0:
        whole[at + 8 : at + 16] = struct.pack(">II", size_bytes, count)
        at = whole.find(b"stsz", at + 1)
    for kind, field in ((b"stts", 12), (b"stsc", 16)):
        at = whole.find(kind)
        while at >= 0:
            whole[at + field : at + field + 4] = struct.pack(">I", count)
            at = whole.find(kind, at + 1)
    return bytes(whole)


def many_fragment_samples(count: int) -> bytes:
    """A run of a movie fragment that names samples without describing any."""
    whole = bytearray(seeds()["fmp4"].media)
    at = whole.find(b"trun")
    while at >= 0:
        whole[at + 4 : at + 12] = struct.pack(">II", 0x000001, count)
        at = whole.find(b"trun", at + 1)
    return bytes(whole)


def packed_mp4_header(size_bytes: int) -> bytes:
    """QuickTime's compressed header."""
    packed = packed_zeros(size_bytes >> 20)
    cmvd = struct.pack(">I4sI", 12 + len(packed), b"cmvd", size_bytes) + packed
    cmov = struct.pack(">I4sI4s4s", 20 + len(cmvd), b"cmov", 12, b"dcom", b"zlib") + cmvd
    return seeds()["mp4"].media[:32] + struct.pack(">I4s", 8 + len(cmov), b"moov") + cmov


def nested(depth: int) -> bytes:
    """Tags within tags."""
    inner = b""
    for _ in range(depth):
        inner = ebml(0x67C8, inner)
    return matroska(track(1) + ebml(0x1254C367, ebml(0x7373, inner)), cluster(block(bytes(800))))


def endless(scale_ns: int, time: int, duration: int) -> bytes:
    """Sound that starts, or lasts, for ever."""
    group = ebml(0xA0, ebml(0xA1, b"\x81\0\0\0" + bytes(800)) + ebml(0x9B, duration))
    flac = seeds()["matroska"].media
    private = flac[flac.index(b"fLaC") : flac.index(b"fLaC") + 42]
    return matroska(
        track(1) + track(2, b"A_FLAC", more=ebml(0x63A2, private)),
        cluster(block(bytes(800)) + group.replace(b"\x81\0\0\0", b"\x82\0\0\0"), 0) + cluster(group, time),
        scale_ns,
    )


def damaged_for_ever(duration: int) -> bytes:
    """A FLAC packet that cannot be decoded and says how long it is."""
    flac = seeds()["matroska"].media
    private = flac[flac.index(b"fLaC") : flac.index(b"fLaC") + 42]
    group = ebml(0xA0, ebml(0xA1, b"\x81\0\0\0" + b"\xff\xf8" + bytes(90)) + ebml(0x9B, duration))
    return matroska(track(1, b"A_FLAC", 16_000.0, more=ebml(0x63A2, private)), cluster(group * 3))


def silent_frames(name: str) -> bytes:
    """One frame of a seed until the fragment is full."""
    media = seeds()[name].media
    at = media.index(b"\xff", len(media) // 2)
    return (media + media[at:] * (FRAGMENT_BYTES // len(media[at:])))[: FRAGMENT_BYTES - 10]


def wav(rate_hz: int, channels: int, bits: int, form: int = 1, size_bytes: int = 900_000) -> bytes:
    """A WAV of those numbers whose length is not told."""
    step = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate_hz, rate_hz * step & 0xFFFFFFFF, step & 0xFFFF, bits)
    noise = np.random.default_rng(0).integers(0, 256, size_bytes, np.uint8).tobytes()
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + head + b"data\xff\xff\xff\xff" + noise


_ULTRAFAST = {"preset": "ultrafast"}
_BLACK_4K = partial(pictures, pixel_format="yuv444p", size=(3840, 2160), count=12)
_ALL: dict[str, tuple[str, Callable[[], bytes]]] = {
    "flac 192 kHz 8 channels": ("flac", partial(flac_silence, 192_000, 8)),
    "flac 59 s 192 kHz 8 channels": ("flac", partial(flac_silence, 192_000, 8, 172)),
    "flac 8 kHz 8 channels": ("flac", partial(flac_silence, 8000, 8)),
    "flac 1 Hz": ("flac", partial(flac_silence, 1, 1)),
    "flac 655350 Hz": ("flac", partial(flac_silence, 655_350, 2)),
    "png 4K": ("mp4", partial(_BLACK_4K, "png", pixel_format="rgb48be", container="mov", repeated=True)),
    "png told 30000x30000": ("mp4", partial(huge_png, 30_000, 30_000)),
    "png told 65535x1": ("mp4", partial(huge_png, 65_535, 126)),
    "ffv1 16 bits": ("matroska", partial(pictures, "ffv1", "yuv444p16le", (1920, 1080), 20, "matroska")),
    "h264 4K 16 references": (
        "film",
        partial(
            _BLACK_4K,
            "libx264",
            pixel_format="yuv444p10le",
            count=20,
            container="matroska",
            options=_ULTRAFAST | {"x264-params": "ref=16"},
        ),
    ),
    "h264 4K 120 pictures": (
        "mp4",
        partial(_BLACK_4K, "libx264", pixel_format="yuv420p", count=120, container="mp4", options=_ULTRAFAST),
    ),
    "h264 16x8192": (
        "mpegts",
        partial(pictures, "libx264", "yuv420p", (16, 8192), 50, "mpegts", options=_ULTRAFAST),
    ),
    "vp9 4K": (
        "webm",
        partial(_BLACK_4K, "libvpx-vp9", container="webm", options={"deadline": "realtime", "cpu-used": "8"}),
    ),
    "vp8 told 8191x8191": ("webm", partial(vp8_told, 8191, 8191)),
    "vp8 told 3840x2160": ("webm", partial(vp8_told, 3840, 2160)),
    "jpeg2000 4K": ("mp4", partial(_BLACK_4K, "jpeg2000", count=60, container="mov", repeated=True)),
    "packed packets 8 MB": ("matroska", partial(packed_packets, 8 << 20)),
    "packed packets 1 GB": ("matroska", partial(packed_packets, 900 << 20)),
    "500,000 packets": ("matroska", partial(tiny_packets, 1)),
    "10,000 tracks": ("webm", many_tracks),
    "10,000 ogg streams": ("ogg", many_ogg_streams),
    "8,000 ts streams": ("mpegts", many_ts_streams),
    "1,200 mp4 tracks": ("mp4", partial(many_mp4_tracks, 1200)),
    "10,000 mp4 tracks": ("mp4", partial(many_mp4_tracks, 10_000)),
    "100 million samples": ("mp4", partial(many_mp4_samples, 100_000_000, 1)),
    "2 billion samples": ("mp4", partial(many_mp4_samples, 0x7FFFFFFF, 1)),
    "100 million samples of nothing": ("mp4", partial(many_mp4_samples, 100_000_000, 0)),
    "100 million fragment samples": ("fmp4", partial(many_fragment_samples, 100_000_000)),
    "2 billion fragment samples": ("fmp4", partial(many_fragment_samples, 0x7FFFFFFF)),
    "packed header": ("mp4", partial(packed_mp4_header, 900 << 20)),
    "nested tags": ("matroska", partial(nested, 8000)),
    "endless: for ever": ("matroska", partial(endless, 1_000_000, 1 << 62, 1 << 62)),
    "endless: years": ("film", partial(endless, 1_000_000_000, 1 << 31, 1 << 31)),
    "endless: hours": ("webm", partial(endless, 1_000_000, 40_000_000, 40_000_000)),
    "endless: damaged hours": ("matroska", partial(damaged_for_ever, 40_000_000)),
    "endless: damaged for ever": ("film", partial(damaged_for_ever, 1 << 62)),
    "long mp3": ("mp3", partial(silent_frames, "mp3")),
    "long aac": ("adts", partial(silent_frames, "adts")),
    "alternating rates": ("mp3", alternating_mp3),
    "wav 1 Hz": ("wav", partial(wav, 1, 1, 8)),
    "wav 4 GHz": ("wav", partial(wav, 0xFFFFFFFF, 1, 16)),
    "wav 65535 channels": ("wav", partial(wav, 8000, 65_535, 16)),
    "wav 64 channels": ("wav", partial(wav, 8000, 64, 8)),
    "wav 191999 Hz": ("wav", partial(wav, 191_999, 8, 24)),
    "wav 64-bit floats": ("wav", partial(wav, 48_000, 1, 64, 3)),
    "wav ADPCM": ("wav", partial(wav, 8000, 1, 4, 0x11)),
}


@cache
def bomb(name: str) -> bytes:
    """The bytes of one of `bomb_names`."""
    return _ALL[name][1]()


def bomb_names(format_name: str) -> list[str]:
    """The bombs of a format, most of all formats none."""
    return [name for name, (of, _) in _ALL.items() if of == format_name]
