"""How often one packet makes a decoder go over a whole picture, told by a cheap look at its bytes.

A call of a decoder cannot be interrupted. Some of those in use (`container.PICTURE_DECODERS`) go over the picture as often as the
packet says, whatever its size: a JPEG for each of its scans, of which an empty one of 8 megapixels has 22 bytes and costs 1.6 ms,
and for each of its frame headers, which takes the memory of a picture (19 bytes, 5 ms); AV1 for each of its frames; H.264, HEVC,
VC-1 and MPEG-1 and 2 for each of their slices, which may say where they begin: one of H.264 that leaves half of 1080p as it was has
13 bytes and costs 0.26 ms. What the others may take is bounded by the time between two packets only. FFmpeg also decodes while it opens
H.264, up to 2 MiB, before this look: see `decoder_process`.
"""

import re
from collections.abc import Iterator

from av.packet import Packet
from av.stream import Stream

from pipelines.errors import MediaError

JPEG_SCANS_MAX = 64
"""A progressive JPEG has about ten; libjpeg's own scripts for it have at most 16."""
JPEG_FRAMES_MAX = 16
"""Two fields, or one picture; others in its application segments and behind it, as thumbnail, preview or gain map."""
AV1_FRAMES_MAX = 16
"""A temporal unit shows one frame, and holds at most the hidden ones of a mini-GOP of 32 besides (AV1 §7.5)."""
SLICES_MAX = 512
"""Of a packet, which holds a picture or its two fields: one for each row of macroblocks of 4K are 136."""
_NALS_MAX = 4096
_OBUS_MAX = 4096
# What follows a start code: a slice of H.264 (§7.4.1: types 1, 2, 5), any picture data of HEVC (§7.4.2.2: below 32), a slice.
_SLICE_HEADS = {
    "h264": frozenset(head for head in range(256) if head & 31 in {1, 2, 5}),
    "hevc": frozenset(head for head in range(256) if head & 127 < 64),
    "vc1": frozenset({0x0B}),
    **dict.fromkeys(("mpeg1video", "mpeg2video", "mpegvideo"), frozenset(range(0x01, 0xB0))),
}
_START_CODE = re.compile(rb"\0\0\x01(.)", re.DOTALL)
# A frame header (ITU-T T.81 §B.2.2; 0xF7 is JPEG-LS's) of one to four components, which makes a chance hit in a colour profile rare.
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc3\xf7](?=.{7}[\1-\4])", re.DOTALL)
_AV1_FRAME_HEADER, _AV1_FRAME = 3, 6


def check_passes(decoder: str, packet: "bytes | Packet[Stream]", extradata: bytes | None = None) -> None:
    """Refuse a packet that would keep `decoder` (FFmpeg's name) busy for long in one call; `extradata` is the decoder's.

    Raises:
        MediaError: it holds more scans, slices or frames than media has that is meant to be seen.
    """
    if decoder == "mjpeg":
        _check_jpeg(bytes(packet))
    elif "av1" in decoder:  # libdav1d is the other name
        kinds = list(_obu_kinds(bytes(packet)))
        frames = sum(kind in {_AV1_FRAME_HEADER, _AV1_FRAME} for kind in kinds)
        if frames > AV1_FRAMES_MAX or len(kinds) >= _OBUS_MAX:
            raise MediaError(
                f"an AV1 packet of {frames} frames; a temporal unit holds one that is shown: send each in a packet of its own"
            )
    elif decoder in _SLICE_HEADS:
        _check_slices(decoder, packet, extradata or b"")


def _check_jpeg(media: bytes) -> None:
    # Start of scan (ITU-T T.81 §B.1.1.3). Entropy-coded data has no 0xFF without a 0 behind it (§B.1.1.5); an embedded
    # thumbnail counts too.
    scans = media.count(b"\xff\xda")
    if scans > JPEG_SCANS_MAX:
        raise MediaError(f"a JPEG of {scans} scans; at most {JPEG_SCANS_MAX} are decoded: save it as baseline JPEG")
    frames = len(_JPEG_FRAME.findall(media))
    if frames > JPEG_FRAMES_MAX:
        raise MediaError(f"a JPEG of {frames} frame headers; at most {JPEG_FRAMES_MAX} are taken: save it anew")


def _check_slices(decoder: str, packet: "bytes | Packet[Stream]", extradata: bytes) -> None:
    media, heads = bytes(packet), _SLICE_HEADS[decoder]
    found = [sum(code[0] in heads for code in _START_CODE.findall(media))]
    if decoder in {"h264", "hevc"}:
        # FFmpeg looks for start codes between lengths too, and takes a length of 4 bytes for what it is told nothing of.
        lengths = {4, _length_bytes(decoder, extradata)}
        is_record = decoder == "h264" and media[:1] == b"\1" and media[2:3] == b"\0" and media[4:5] > b"\xfb"
        changed = [media] if is_record else []
        if not isinstance(packet, bytes) and packet.has_sidedata("new_extradata"):
            changed.append(bytes(packet.get_sidedata("new_extradata")))
        if any(_length_bytes(decoder, new) not in lengths for new in changed):
            raise MediaError("a packet that changes how its stream is cut into NAL units; re-encode it")
        for length_bytes in lengths:
            nals = list(_nal_heads(media, length_bytes))
            found.append(_NALS_MAX if len(nals) >= _NALS_MAX else sum(head in heads for head in nals))
    if max(found) > SLICES_MAX:
        raise MediaError(f"a packet of {max(found)} slices; at most {SLICES_MAX} are decoded: re-encode it with fewer")


def _length_bytes(decoder: str, extradata: bytes) -> int:
    """How long the length before each NAL unit is, in bytes (ISO/IEC 14496-15 §5.3.3.1, §8.3.3.1); 4 where nothing says so."""
    at = 4 if decoder == "h264" else 21
    is_record = len(extradata) > at and not extradata.startswith((b"\0\0\0", b"\0\0\1"))
    return (extradata[at] & 3) + 1 if is_record else 4


def _nal_heads(packet: bytes, length_bytes: int) -> Iterator[int]:
    """The first byte of each of the first `_NALS_MAX` NAL units, which have their lengths before them; a damaged one ends them."""
    at = 0
    for _ in range(_NALS_MAX):
        begin = at + length_bytes
        if begin >= len(packet):
            return
        yield packet[begin]
        at = begin + int.from_bytes(packet[at:begin])


def _obu_kinds(packet: bytes) -> Iterator[int]:
    """The types of the first `_OBUS_MAX` open bitstream units of a packet (AV1 §5.3.2); a damaged one ends them."""
    at = 0
    for _ in range(_OBUS_MAX):
        if at >= len(packet):
            return
        head = packet[at]
        yield head >> 3 & 15
        at += 2 if head & 4 else 1
        if not head & 2:  # no size: it reaches to the end
            return
        size = shift = 0
        while at < len(packet) and shift < 56:
            size |= (packet[at] & 127) << shift
            shift += 7
            at += 1
            if not packet[at - 1] & 128:
                break
        at += size
