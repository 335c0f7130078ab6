"""Make the sample call: `python -m deployments.sample.make_sample`. Needs Debian's `flite`; whoever plays the call does not.

The call is synthetic, so its words, times and speakers are known and no real person is heard. The customer's words
move from angry to content, and the voice with them: loud, fast and high at first, soft and slow at the end.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from deployments.sample import ANGRY_TO_CONTENT
from models.types import SAMPLE_RATE_HZ, FloatArray
from pipelines.types import Participant

AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER
CHANNELS = (AGENT, CUSTOMER)
VOICES = {AGENT: "rms", CUSTOMER: "slt"}
LEAD_S = 1.0
NOISE_DBFS = -88.0
"""The line's own noise; louder noise only makes the file larger."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a turn is spoken: its pace (1 is the voice's own, smaller is faster), pitch and root mean square."""

    stretch: float
    pitch_hz: float
    loudness_dbfs: float


SERVICE = Manner(1.0, 105, -24)
FURIOUS = Manner(0.88, 205, -15)
ANGRY = Manner(0.93, 200, -17)
CALM = Manner(1.0, 170, -24)
CONTENT = Manner(1.02, 185, -23)


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance; `pause_s` of silence goes before it, counted from the end of the other's speech (< 0 interrupts)."""

    participant: Participant
    manner: Manner
    words: str
    pause_s: float = 0.9


TURNS = (
    Turn(AGENT, SERVICE, "good morning, this is the help line, how can i help you today", 0.0),
    Turn(CUSTOMER, ANGRY, "this is the third time i have called, and nobody helps me"),
    Turn(AGENT, SERVICE, "i am glad you called, please tell me what happened"),
    Turn(CUSTOMER, FURIOUS, "the computer does not work, and you people keep lying to me"),
    Turn(AGENT, SERVICE, "okay, give me a minute and i will look at your account"),
    Turn(CUSTOMER, FURIOUS, "no, i am very angry, this is the worst service i have ever had", -0.5),
    Turn(AGENT, SERVICE, "i can see it now, and i know how to make this right", 1.1),
    Turn(CUSTOMER, ANGRY, "i am so disappointed, i hate waiting, and nobody cares"),
    Turn(AGENT, SERVICE, "i care, and i will send you a new computer today"),
    Turn(CUSTOMER, CALM, "okay, and when will i get the new computer"),
    Turn(AGENT, SERVICE, "it will be at your house on friday morning"),
    Turn(CUSTOMER, CALM, "can i keep the old one"),
    Turn(AGENT, SERVICE, "yes you can, and you will get all of your money back"),
    Turn(CUSTOMER, CONTENT, "that is great news, thank you so much for your help"),
    Turn(AGENT, SERVICE, "i am glad to hear that, what else can i do for you"),
    Turn(CUSTOMER, CONTENT, "you have been wonderful, and i am very happy now"),
    Turn(AGENT, SERVICE, "it was good to talk to you, have a nice day"),
)  # fmt: skip


def speak(turn: Turn, flite: str, folder: Path) -> FloatArray:
    """The turn in its participant's voice: (N,) at 16 kHz, silence at both ends taken off."""
    wav = folder / "turn.wav"
    command = [flite, "-voice", VOICES[turn.participant], "-t", turn.words, "-o", str(wav)]
    for name, value in (("duration_stretch", turn.manner.stretch), ("int_f0_target_mean", turn.manner.pitch_hz)):
        command += ["--setf", f"{name}={value}"]
    subprocess.run(command, check=True)  # noqa: S603  # the path is which()'s and the words are those above
    with av.open(str(wav)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]) / np.float32(32768)
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    samples = samples[max(0, loud[0] - 800) : loud[-1] + 1600]
    gain = 10 ** (turn.manner.loudness_dbfs / 20) / np.sqrt(np.mean(samples**2))
    spoken: FloatArray = np.clip(samples * gain, -0.98, 0.98).astype(np.float32)
    return spoken


def mix(turns: tuple[Turn, ...], flite: str) -> tuple[FloatArray, list[str]]:
    """The call (N, 2) in the order of `CHANNELS`, and a line of times and words per turn."""
    placed: list[tuple[int, Turn, FloatArray]] = []
    at = int(LEAD_S * SAMPLE_RATE_HZ)
    with tempfile.TemporaryDirectory() as folder:
        for turn in turns:
            samples = speak(turn, flite, Path(folder))
            at += int(turn.pause_s * SAMPLE_RATE_HZ)
            placed.append((at, turn, samples))
            at += len(samples)
    noise = np.random.default_rng(0).standard_normal((at + SAMPLE_RATE_HZ, len(CHANNELS)))
    call = (10 ** (NOISE_DBFS / 20) * noise).astype(np.float32)
    lines = []
    for start, turn, samples in placed:
        call[start : start + len(samples), CHANNELS.index(turn.participant)] += samples
        start_ms, end_ms = (round(1000 * edge / SAMPLE_RATE_HZ) for edge in (start, start + len(samples)))
        lines.append(f"{start_ms}\t{end_ms}\t{turn.participant}\t{turn.words}")
    return call, lines


def write_flac(path: Path, call: FloatArray) -> None:
    """Write the (N, 2) call as 16-bit FLAC at 16 kHz."""
    pcm = np.round(call * 32767).clip(-32768, 32767).astype(np.int16)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE_HZ, layout="stereo", format="s16")
        stream.options = {"compression_level": "12"}
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = SAMPLE_RATE_HZ
        for part in (frame, None):
            container.mux(stream.encode(part))


def main() -> int:
    """Write the call and its words beside this file."""
    flite = shutil.which("flite")
    if flite is None:
        sys.stderr.write("flite is not installed: apt-get install flite, then run this again.\n")
        return 1
    call, lines = mix(TURNS, flite)
    write_flac(ANGRY_TO_CONTENT, call)
    ANGRY_TO_CONTENT.with_suffix(".txt").write_text("start_ms\tend_ms\tparticipant\twords\n" + "\n".join(lines) + "\n")
    sys.stdout.write(f"{ANGRY_TO_CONTENT}: {len(call) / SAMPLE_RATE_HZ:.1f} s, {len(lines)} turns\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
