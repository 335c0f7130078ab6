"""Spoils valid media: blindly, by bytes, and knowingly, in the fields that a format's reader believes."""

import struct
from collections.abc import Callable, Iterator
from random import Random

Mutation = Callable[[Random, bytearray], None]
_EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 62,
    (1 << 64) - 1,
)
_FLOATS = (0.0, -1.0, 1e-300, 1.0, 768_000.0, 1e18, 1e300, float("inf"), float("-inf"), float("nan"))
_MP4_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"dinf", b"udta"}
_MATROSKA_PARENTS = {
    0x18538067,
    0x1549A966,
    0x1654AE6B,
    0xAE,
    0xE0,
    0xE1,
    0x1F43B675,
    0xA0,
    0x1C53BB6B,
    0xBB,
    0x1254C367,
    0x7373,
    0x67C8,
}
_MATROSKA_FLOATS = {0x4489, 0xB5, 0x78B5}
_MATROSKA_TAG = 0x4487
_TAGS = (b"-9999/1", b"99999/1", b"-1/1", b"1/0", b"0/99999", b"-99/999", b"/", b"\xff\xfe")
_MATROSKA_TEXT = {0x86, 0x4282}
_CODEC_IDS = (
    b"A_AAC", b"A_AC3", b"A_ALAC", b"A_DTS", b"A_EAC3", b"A_FLAC", b"A_MPEG/L3", b"A_OPUS", b"A_PCM/INT/LIT",
    b"A_REAL/COOK", b"A_TTA1", b"A_VORBIS", b"A_WAVPACK4", b"A_MS/ACM", b"V_AV1", b"V_FFV1", b"V_MJPEG",
    b"V_MPEG1", b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/ASP", b"V_MPEGH/ISO/HEVC", b"V_MS/VFW/FOURCC", b"V_PRORES",
    b"V_QUICKTIME", b"V_REAL/RV40", b"V_SNOW", b"V_THEORA", b"V_UNCOMPRESSED", b"V_VP8", b"V_VP9", b"S_TEXT/UTF8",
    b"D_WEBVTT/SUBTITLES",
)  # fmt: skip
_FOURCCS = (
    b"avc1", b"hvc1", b"av01", b"vp09", b"mp4v", b"mp4a", b"mjpa", b"png ", b"tiff", b"rle ", b"SVQ3", b"cvid", b"alac",
    b"fLaC", b"Opus", b"sowt", b"ima4", b"ulaw", b"lpcm", b"mjp2", b"icod", b"ap4h", b"raw ", b"text", b"tmcd", b"QDM2",
)  # fmt: skip


def flip_bits(rng: Random, media: bytearray) -> None:
    """Single bits, from one to one in a hundred bytes."""
    for _ in range(rng.randint(1, max(len(media) // 100, 1))):
        media[rng.randrange(len(media))] ^= 1 << rng.randrange(8)


def overwrite_runs(rng: Random, media: bytearray) -> None:
    """Runs of zeros, ones or noise."""
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(media)), rng.randint(1, 200)
        filler = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
        media[at : at + length] = filler[: len(media) - at]


def cut(rng: Random, media: bytearray) -> None:
    """The end, the beginning or something between goes."""
    first, last = sorted((rng.randrange(len(media)), rng.randrange(len(media))))
    del media[rng.choice([slice(last, None), slice(0, first), slice(first, last)])]


def swap_chunks(rng: Random, media: bytearray) -> None:
    """Two chunks change places."""
    length = rng.randint(1, max(len(media) // 4, 1))
    one, two = rng.randrange(len(media)), rng.randrange(len(media))
    first, second = bytes(media[one : one + length]), bytes(media[two : two + length])
    media[one : one + length], media[two : two + length] = second, first


def repeat_chunk(rng: Random, media: bytearray) -> None:
    """A chunk stands there up to sixty times."""
    at, length = rng.randrange(len(media)), rng.randint(1, max(len(media) // 3, 1))
    media[at:at] = bytes(media[at : at + length]) * rng.choice([1, 2, 10, 60])


def absurd_wav(rng: Random, media: bytearray) -> None:
    form, data = max(media.find(b"fmt "), 0), max(media.find(b"data"), 0)
    fields = [(4, 4), (form + 4, 4), (form + 8, 2), (form + 10, 2), (form + 12, 4), (form + 16, 4), (form + 20, 2),
              (form + 22, 2), (data + 4, 4)]  # fmt: skip
    for at, width in rng.sample(fields, rng.randint(1, 4)):
        _set_extreme(rng, media, at, width, "little")


def absurd_flac(rng: Random, media: bytearray) -> None:
    """Bits of STREAMINFO (RFC 9639 §8.2), or of a frame's header, whose checksum is mended."""
    if rng.random() < 0.6:
        at = 8 + rng.randrange(18)
        media[at : at + 4] = rng.choice([bytes(4), b"\xff" * 4, rng.randbytes(4)])
        return
    frames = [at for at in _places(media, b"\xff\xf8") if at + 16 < len(media)]
    for at in rng.sample(frames, min(len(frames), 3)):
        media[at + 2], media[at + 3] = rng.randrange(256), rng.randrange(256) & 0xFE
        media[at + 5] = crc8(bytes(media[at : at + 5]))


def absurd_mpeg_frames(rng: Random, media: bytearray) -> None:
    """Headers of MP3 and ADTS frames: version, layer, rate, channels, length."""
    frames = [at for at in _places(media, b"\xff") if at + 8 < len(media) and media[at + 1] & 0xE0 == 0xE0]
    for at in rng.sample(frames, min(len(frames), rng.randint(1, 5))):
        media[at + rng.randint(1, 6)] = rng.randrange(256)
    if rng.random() < 0.3:
        media[0:0] = (
            b"ID3\x04\x00" + bytes([rng.randrange(256)]) + rng.choice([b"\x7f" * 4, b"\x00\x00\x02\x01", b"\xff" * 4])
        )


def absurd_ogg(rng: Random, media: bytearray) -> None:
    """Fields of pages (RFC 3533 §6) and of the Opus header, with checksums mended, so that a reader believes them."""
    pages = list(_places(media, b"OggS"))
    for at in rng.sample(pages, min(len(pages), rng.randint(1, 4))):
        _set_extreme(rng, media, at + rng.choice([6, 14, 18]), rng.choice([1, 4, 8]), "little")
    if (head := media.find(b"OpusHead")) >= 0 and rng.random() < 0.6:
        _set_extreme(rng, media, head + rng.choice([8, 9, 10, 12, 16, 18]), rng.choice([1, 2, 4]), "little")
    mend_ogg(media)


def absurd_matroska(rng: Random, media: bytearray) -> None:
    """Sizes and values of EBML elements (RFC 8794), in place."""
    elements = list(_ebml(media, 0, len(media)))
    for kind, size_at, at, size in rng.sample(elements, min(len(elements), rng.randint(1, 4))):
        if kind == _MATROSKA_TAG:
            media[at : at + size] = rng.choice(_TAGS)[:size].ljust(size, b"\0")
        elif kind in _MATROSKA_TEXT:
            media[at : at + size] = rng.choice(_CODEC_IDS)[:size].ljust(size, b"\0")
        elif kind in _MATROSKA_FLOATS and size in {4, 8}:
            with_width = ">f" if size == 4 else ">d"
            value = rng.choice(_FLOATS)
            media[at : at + size] = struct.pack(with_width, value if size == 8 or abs(value) < 1e38 else float("inf"))
        elif rng.random() < 0.4:
            length = at - size_at
            media[size_at:at] = rng.choice([
                bytes([0x100 >> length & 0xFF]) + b"\0" * (length - 1),
                bytes([(0x200 >> length) - 1 & 0xFF]) + b"\xff" * (length - 1),
                bytes([(0x200 >> length) - 1 & 0xFF]) + b"\xff" * (length - 2) + b"\xfe" if length > 1 else b"\xfe",
            ])  # fmt: skip
        else:
            length = min(size, 8)
            media[at : at + length] = rng.choice([bytes(length), b"\xff" * length, b"\x7f" + b"\xff" * (length - 1),
                                                  rng.randbytes(length)])[:length]  # fmt: skip


def absurd_mp4(rng: Random, media: bytearray) -> None:
    """Sizes, counts, times and codecs of boxes (ISO/IEC 14496-12), in place."""
    boxes = list(_boxes(media, 0, len(media)))
    for at, size, kind in rng.sample(boxes, min(len(boxes), rng.randint(1, 4))):
        choice = rng.random()
        if choice < 0.3:
            _set_extreme(rng, media, at, 4, "big")
        elif choice < 0.4 and kind == b"stsd":
            media[at + 20 : at + 24] = rng.choice(_FOURCCS)
        elif size > 16:
            for _ in range(rng.randint(1, 3)):
                _set_extreme(
                    rng, media, at + 8 + rng.randrange(max((size - 8) // 4, 1)) * 4, rng.choice([4, 4, 8]), "big"
                )


def absurd_mpegts(rng: Random, media: bytearray) -> None:
    """Packet headers, times of PES packets, and program tables (ISO/IEC 13818-1) with checksums mended."""
    count = len(media) // 188
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(max(count, 1)) * 188
        media[at + rng.randint(1, 5)] = rng.randrange(256)
    for at in _places(media, b"\x00\x00\x01"):
        if rng.random() < 0.1 and at + 19 < len(media):
            media[at + 6 : at + 19] = (
                b"\x80\xc0\x0a" + rng.choice([b"\x3f\xff\xff\xff\xff", b"\x31\0\1\0\1", rng.randbytes(5)]) * 2
            )
    for at in range(0, count * 188, 188):
        if media[at + 4 : at + 6] == b"\0\2" and rng.random() < 0.3:
            length = (media[at + 6] & 15) << 8 | media[at + 7]
            end = at + 8 + length - 4
            if at + 20 < end < at + 184:
                media[rng.randrange(at + 8, end)] = rng.randrange(256)
                media[end : end + 4] = struct.pack(">I", crc32_mpeg(bytes(media[at + 5 : end])))


ABSURD: dict[str, Mutation] = {
    "wav": absurd_wav,
    "flac": absurd_flac,
    "mp3": absurd_mpeg_frames,
    "adts": absurd_mpeg_frames,
    "ogg": absurd_ogg,
    "matroska": absurd_matroska,
    "film": absurd_matroska,
    "fragment": absurd_matroska,
    "webm": absurd_matroska,
    "mp4": absurd_mp4,
    "fmp4": absurd_mp4,
    "mpegts": absurd_mpegts,
}
BLIND: tuple[Mutation, ...] = (flip_bits, overwrite_runs, cut, swap_chunks, repeat_chunk)


def splice(rng: Random, media: bytearray, other: bytes) -> None:
    """The front of one file and the back of another, or one in the middle of the other."""
    at, start = rng.randrange(len(media)), rng.randrange(len(other))
    if rng.random() < 0.5:
        media[at:] = other[start:]
    else:
        media[at:at] = other[start : start + rng.randint(1, len(other))]


def crc8(data: bytes) -> int:
    """Of a FLAC frame's header (RFC 9639 §9.1.8)."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 7) & 0xFF if crc & 0x80 else crc << 1
    return crc


def _table(polynomial: int, bits: int) -> list[int]:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    table = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = (crc << 1 ^ polynomial) & mask if crc & top else crc << 1 & mask
        table.append(crc)
    return table


_CRC32, _CRC16 = _table(0x04C11DB7, 32), _table(0x8005, 16)


def _crc32(data: bytes, crc: int) -> int:
    for byte in data:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC32[crc >> 24 ^ byte]
    return crc


def crc16(data: bytes) -> int:
    """Of a whole FLAC frame (RFC 9639 §9.3)."""
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def crc32_mpeg(data: bytes) -> int:
    """Of a program table (ISO/IEC 13818-1, annex A)."""
    return _crc32(data, 0xFFFFFFFF)


def crc32_ogg(data: bytes) -> int:
    """Of a page, whose checksum is zero meanwhile."""
    return _crc32(data, 0)


def mend_ogg(media: bytearray) -> None:
    """Makes every page's checksum right again."""
    for at in list(_places(media, b"OggS")):
        if at + 27 > len(media):
            continue
        end = at + 27 + media[at + 26] + sum(media[at + 27 : at + 27 + media[at + 26]])
        media[at + 22 : at + 26] = bytes(4)
        media[at + 22 : at + 26] = struct.pack("<I", crc32_ogg(bytes(media[at:end])))


def _set_extreme(rng: Random, media: bytearray, at: int, width: int, order: str) -> None:
    if 0 <= at <= len(media) - width:
        value = rng.choice(_EXTREMES) if rng.random() < 0.8 else rng.getrandbits(64)
        raw = (value & (1 << 8 * width) - 1).to_bytes(width, "big")
        media[at : at + width] = raw if order == "big" else raw[::-1]


def _places(media: bytearray, word: bytes) -> Iterator[int]:
    at = media.find(word)
    while at >= 0:
        yield at
        at = media.find(word, at + 1)


def _ebml(media: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Every element as (id, place of its size, place of its value, length of its value)."""
    while at + 2 <= end:
        id_length = 9 - media[at].bit_length()
        size_at = at + id_length
        if id_length > 4 or size_at >= end:
            return
        kind = int.from_bytes(media[at:size_at], "big")
        size_length = 9 - media[size_at].bit_length()
        value_at = size_at + size_length
        size = int.from_bytes(media[size_at:value_at], "big") & (1 << 7 * size_length) - 1
        size = min(size, max(end - value_at, 0))
        yield kind, size_at, value_at, size
        if kind in _MATROSKA_PARENTS:
            yield from _ebml(media, value_at, value_at + size)
        at = value_at + size


def _boxes(media: bytearray, at: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Every box as (place, size, kind)."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", media, at)
        size = min(size, end - at)
        if size < 8:
            return
        yield at, size, kind
        if kind in _MP4_PARENTS:
            yield from _boxes(media, at + 8, at + size)
        at += size
