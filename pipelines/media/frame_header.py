"""What a frame of AAC in ADTS, or of MPEG audio, says of itself: containers of bare frames know no more, and may be wrong.

FFmpeg takes the length of such a packet from the rate at the beginning of the file, also where the rate has changed since.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from av.packet import Packet
from av.stream import Stream

_ADTS_RATES_HZ: Final = (
    96_000,
    88_200,
    64_000,
    48_000,
    44_100,
    32_000,
    24_000,
    22_050,
    16_000,
    12_000,
    11_025,
    8000,
    7350,
)
_MPEG_RATES_HZ: Final = (44_100, 48_000, 32_000)
_MPEG_HALVINGS: Final = {3: 1, 2: 2, 0: 4}
"""MPEG-1, MPEG-2 and the 2.5 of Fraunhofer, by their bits: each has the rates of the one before, halved."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The core's rate, which a decoder may double (HE-AAC), and samples of each channel in all frames of the packet."""

    rate_hz: int
    channels: int
    samples: int

    @property
    def duration_s(self) -> Fraction:
        """How long the packet's sound lasts."""
        return Fraction(self.samples, self.rate_hz)


def frame_header(packet: "Packet[Stream]") -> FrameHeader | None:
    """Reads it; None where the packet has none, as AAC in MP4 or Matroska."""
    codec = packet.stream.codec_context.name
    head = bytes(memoryview(packet)[:7])
    if codec.startswith("aac"):
        return _adts(head)
    return _mpeg_audio(head) if codec.startswith("mp3") else None


def _adts(head: bytes) -> FrameHeader | None:
    """ISO/IEC 14496-3 §1.A.2.2: adts_fixed_header and adts_variable_header."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    rate, channels = head[2] >> 2 & 15, (head[2] & 1) << 2 | head[3] >> 6
    if rate >= len(_ADTS_RATES_HZ):
        return None
    return FrameHeader(_ADTS_RATES_HZ[rate], channels, 1024 * ((head[6] & 3) + 1))


def _mpeg_audio(head: bytes) -> FrameHeader | None:
    """ISO/IEC 11172-3 §2.4.1.3 and 13818-3 §2.4.2.3, layer III."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    halved, rate = _MPEG_HALVINGS.get(head[1] >> 3 & 3), head[2] >> 2 & 3
    if halved is None or rate == 3:
        return None
    mono = head[3] >> 6 == 3
    return FrameHeader(_MPEG_RATES_HZ[rate] // halved, 1 if mono else 2, 1152 if halved == 1 else 576)
