"""How often one packet makes a decoder go over a whole picture, told by a cheap look at its bytes.

A call of a decoder cannot be interrupted. Some of those in use (`container.PICTURE_DECODERS`) go over the picture as often as the
packet says, whatever its size: a JPEG for each of its scans, of which an empty one of 8 megapixels has 22 bytes and costs 1.6 ms,
and for each of its frame headers, which takes the memory of a picture (19 bytes, 5 ms); AV1 for each of its frames; H.264, HEVC,
VC-1 and MPEG-1 and 2 for each of their slices, which may say where they begin: one of H.264 that leaves half of 1080p as it was has
13 bytes and costs 0.26 ms. What the others may take is bounded by the time between two packets only.
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
_OBUS_MAX = 4096
# A frame header (ITU-T T.81 §B.2.2; 0xF7 is JPEG-LS's) of one to four components, which makes a chance hit in a colour profile rare.
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc3\xf7](?=.{7}[\1-\4])", re.DOTALL)
_AV1_FRAME_HEADER, _AV1_FRAME = 3, 6


def check_passes(decoder: str, packet: "bytes | Packet[Stream]") -> None:
    """Refuse a packet that would keep `decoder` (FFmpeg's name) busy for long in one call.

    Raises:
        MediaError: it holds more scans, slices or frames than media has that is meant to be seen.
    """
    if decoder == "mjpeg":
        # Start of scan (ITU-T T.81 §B.1.1.3). Entropy-coded data has no 0xFF without a 0 behind it (§B.1.1.5); an embedded
        # thumbnail counts too.
        scans = bytes(packet).count(b"\xff\xda")
        if scans > JPEG_SCANS_MAX:
            raise MediaError(f"a JPEG of {scans} scans; at most {JPEG_SCANS_MAX} are decoded: save it as baseline JPEG")
        frames = len(_JPEG_FRAME.findall(bytes(packet)))
        if frames > JPEG_FRAMES_MAX:
            raise MediaError(f"a JPEG of {frames} frame headers; at most {JPEG_FRAMES_MAX} are taken: save it anew")
    elif "av1" in decoder:  # libdav1d is the other name
        kinds = list(_obu_kinds(bytes(packet)))
        frames = sum(kind in {_AV1_FRAME_HEADER, _AV1_FRAME} for kind in kinds)
        if frames > AV1_FRAMES_MAX or len(kinds) >= _OBUS_MAX:
            raise MediaError(
                f"an AV1 packet of {frames} frames; a temporal unit holds one that is shown: send each in a packet of its own"
            )


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
