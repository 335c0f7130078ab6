"""What looking at pictures costs: processor seconds per second of media, `make bench PART=pictures`.

Three ways in one run, over the clips of `UNDERTONE_DATA` and over a call of ten minutes made of them, of which a third is speech:
`after`, as Undertone does it; `before`, with every picture decoded, and sampled as it is now; and `other`, what one writes with
MoviePy, librosa and OpenCV in an environment of their own. `sound` is the share of both that has nothing to do with pictures, and `needed`
what the decoder alone takes for those that are looked at and those that they refer to: with every picture as it is now, no code takes less.
"""

import io
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from models.types import SAMPLE_RATE_HZ, Modality
from pipelines.media.container import open_media, packets
from pipelines.media.demux import Demuxer
from pipelines.media.fragment import fragments
from pipelines.media.pictures import fit_within
from pipelines.media.utterances import utterances_of
from pipelines.settings import Settings, StreamSettings
from pipelines.types import Consent, MediaFragment, Participant

CALL_S = 600
SIZE = (1280, 720)
PICTURES_PER_S = 30
KEY_EVERY_S = {"call": 2.0, "call_rare_key_frames": 250 / 30}
"""Key frames every 2 s, as what is cut into pieces on its way has them, and as x264 sets them by itself."""
SPEAKING = ("mead_m030_sad", "ravdess_01_neutral", "talk_2", "talk_hdtf", "talk_may")
ALL: Consent = {Participant.CUSTOMER: frozenset(Modality)}
HEARD: Consent = {Participant.CUSTOMER: frozenset({Modality.AUDIO, Modality.TEXT})}
REQUIREMENTS = ("librosa==0.11.0", "moviepy==2.2.1", "opencv-python-headless==4.12.0.88")
INSTALL_S = 600

OTHER_WAY = """
import resource, sys, cv2, librosa, numpy as np
from moviepy import VideoFileClip

def used():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)

for path in sys.argv[1:]:
    if path == sys.argv[2]:
        began = used()  # what came before loads and compiles
    clip = VideoFileClip(path)
    if clip.audio is not None:
        sound = clip.audio.to_soundarray(fps=16000).mean(axis=1).astype(np.float32)
        librosa.effects.split(sound, top_db=30)
    clip.close()
    film = cv2.VideoCapture(path)
    rate, number, slot = film.get(cv2.CAP_PROP_FPS) or 25, 0, -1
    while True:
        there, picture = film.read()
        if not there:
            break
        if int(number / rate * 5) > slot:
            slot = int(number / rate * 5)
            scale = min(1, 480 / max(picture.shape[:2]))
            small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        number += 1
print(used() - began)
"""


def measure(data: Path) -> dict[str, Any]:
    """Processor seconds per second of media of each way, and how many times less the present one takes."""
    python = _other_python(Settings().cache_dir / "bench-other-way")
    with tempfile.TemporaryDirectory() as folder:
        films = {"clips": sorted((data / "clips").glob("*.mp4"))}
        films |= {name: [_call(data, Path(folder, f"{name}.mkv"), key_s)] for name, key_s in KEY_EVERY_S.items()}
        first = films["clips"][-1]
        return {f"pictures_{name}": _measured(paths, first, python) for name, paths in films.items()}


def _measured(paths: list[Path], first: Path, python: Path | None) -> dict[str, float]:
    media_s = sum(_length_s(path) for path in paths)
    _after(first, ALL)  # the first use of a decoder loads what it needs
    after = sum(_after(path, ALL) for path in paths) / media_s
    before = sum(_after(path, HEARD) + _every_picture(path) for path in paths) / media_s
    sound = sum(_after(path, HEARD) for path in paths) / media_s
    needed = sum(_needed(path) for path in paths) / media_s
    found = {"media_s": media_s, "before_s_per_s": before, "after_s_per_s": after, "before_over_after": before / after}
    found |= {
        "sound_s_per_s": sound,
        "needed_s_per_s": needed,
        "before_over_after_at_most": before / (sound + needed),
    }
    if python is not None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        told = subprocess.run(
            [python, "-c", OTHER_WAY, first, *paths], check=True, capture_output=True, text=True, env=environment
        )
        found["other_s_per_s"] = float(told.stdout.split()[-1]) / media_s
        found["other_over_after"] = found["other_s_per_s"] / after
    return found


def _after(path: Path, consent: Consent) -> float:
    """Processor seconds from a file to its utterances, faces and all where `consent` says so."""
    began_s = time.process_time()
    for _ in utterances_of(_cut(path, consent), StreamSettings(), policy=consent):
        pass
    return time.process_time() - began_s


def _every_picture(path: Path) -> float:
    """Processor seconds for what was done before: every picture of every fragment decoded, five a second scaled down."""
    cuts = list(_cut(path, ALL))
    began_s = time.process_time()
    codec: Any = None
    slot = -1
    for one in cuts:
        with open_media(io.BytesIO(one.media), "a fragment", SIZE[0] * SIZE[1] * 9) as container:
            if not container.streams.video:
                return 0.0
            stream = container.streams.video[0]
            if codec is None:
                codec = stream.codec_context
                codec.thread_count = 1
            for packet in packets(container, stream):
                shown_ms = one.start_ms + round((packet.pts or 0) * packet.time_base * 1000)
                packet.pts = packet.dts = shown_ms
                with suppress(av.FFmpegError):
                    for frame in codec.decode(packet):
                        if frame.pts * 5 // 1000 > slot:
                            slot = frame.pts * 5 // 1000
                            _scaled(frame)
    return time.process_time() - began_s


def _needed(path: Path) -> float:
    """Processor seconds of the decoder for the pictures that are looked at and what they refer to, and for nothing else."""
    spoken = utterances_of(_cut(path, ALL), StreamSettings(), policy=ALL)
    wanted = {frame.time_ms for utterance in spoken for frame in utterance.frames}
    demuxer = Demuxer(StreamSettings())
    pictures = [picture for one in _cut(path, ALL) for picture in demuxer.feed(one).pictures]
    keys = [n for n, picture in enumerate(pictures) if picture.is_key]
    began_s = time.process_time()
    for begin, end in pairwise([*keys, len(pictures)]):
        last = max((n for n in range(begin, end) if pictures[n].time_ms in wanted), default=begin - 1)
        for picture in pictures[begin : last + 1]:
            picture.codec.skip_frame = "DEFAULT" if picture.time_ms in wanted else "NONREF"
            with suppress(av.FFmpegError):
                picture.codec.decode(picture.packet)
    return time.process_time() - began_s


def _scaled(frame: av.VideoFrame) -> None:
    width, height = fit_within(frame.width, frame.height, StreamSettings().video.side_max_px)
    frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()


def _cut(path: Path, consent: Consent) -> Iterator[MediaFragment]:
    return fragments(
        path,
        call_id="bench",
        tenant="default",
        stream="main",
        participants=(Participant.CUSTOMER,),
        consent=consent,
        warn=lambda _: None,
    )


def _length_s(path: Path) -> float:
    with av.open(str(path)) as container:
        return (container.duration or 0) / av.time_base


def _call(data: Path, path: Path, key_s: float) -> Path:
    """Each speaking clip, then twice its length of somebody who listens: the clips again without their sound; again and again."""
    cycle = path.with_name("cycle.mp4")  # which holds decoding times
    _encode([data / "clips" / f"{name}.mp4" for name in SPEAKING], cycle, key_s)
    length_s = Fraction(_length_s(cycle)).limit_denominator(1000) + Fraction(1, 10)  # decoding begins before zero
    with av.open(str(path), "w", format="matroska") as output:
        for turn in range(round(CALL_S / length_s)):
            with av.open(str(cycle)) as container:
                for stream in container.streams if not turn else ():
                    output.add_stream_from_template(stream)
                for packet in container.demux():
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        later = round(turn * length_s / packet.time_base)
                        packet.pts, packet.dts = packet.pts + later, packet.dts + later
                        packet.stream = output.streams[packet.stream.index]
                        output.mux_one(packet)
    return path


def _encode(clips: list[Path], path: Path, key_s: float) -> None:
    with av.open(str(path), "w", format="mp4") as output:
        film: Any = output.add_stream("libx264", rate=PICTURES_PER_S)
        film.width, film.height, film.pix_fmt = *SIZE, "yuv420p"
        keys = f"keyint={round(key_s * PICTURES_PER_S)}"
        film.options = {"preset": "veryfast", "x264-params": keys}
        voice: Any = output.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        count = 0
        for n, clip in enumerate(clips):
            listening = clips[(n + 1) % len(clips)], clips[(n + 2) % len(clips)]
            pictures = list(_pictures(clip))
            sound = np.zeros((1, 3 * len(pictures) * SAMPLE_RATE_HZ // PICTURES_PER_S), np.float32)
            spoken = _sound(clip)[:, : sound.shape[1] // 3]
            sound[:, : spoken.shape[1]] = spoken
            others = [*_pictures(listening[0]), *_pictures(listening[1])]
            for at, picture in enumerate(pictures + (others * 3)[: 2 * len(pictures)]):
                if at % PICTURES_PER_S == 0:
                    begin = at * SAMPLE_RATE_HZ // PICTURES_PER_S
                    heard = av.AudioFrame.from_ndarray(sound[:, begin : begin + SAMPLE_RATE_HZ], "fltp", "mono")
                    heard.sample_rate, heard.pts = (
                        SAMPLE_RATE_HZ,
                        (count - at) * SAMPLE_RATE_HZ // PICTURES_PER_S + begin,
                    )
                    output.mux(voice.encode(heard))
                picture.pts, picture.time_base = count, Fraction(1, PICTURES_PER_S)
                output.mux(film.encode(picture))
                count += 1
        output.mux(film.encode(None))
        output.mux(voice.encode(None))


def _pictures(clip: Path) -> Iterator[Any]:
    """Its pictures at the call's size, one for each of the call's times."""
    with av.open(str(clip)) as container:
        count = 0
        for frame in container.decode(video=0):
            scaled = frame.reformat(*SIZE, "yuv420p")
            while frame.time is not None and count <= frame.time * PICTURES_PER_S:
                yield scaled
                count += 1


def _sound(clip: Path) -> Any:
    with av.open(str(clip)) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE_HZ)
        frames = [one for frame in container.decode(audio=0) for one in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)


def _other_python(folder: Path) -> Path | None:
    """The other way's environment, made where it is not there; None, with a sentence, where it cannot be made."""
    python = folder / "bin" / "python"
    try:
        if not (folder / "ready").exists():
            for command in (
                ["venv", "--clear", folder],
                ["pip", "install", "--quiet", "--python", python, *REQUIREMENTS],
            ):
                subprocess.run(["uv", *map(str, command)], check=True, capture_output=True, timeout=INSTALL_S)
            (folder / "ready").touch()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"librosa, OpenCV and MoviePy cannot be installed here ({error}): they are left out")  # noqa: T201
        return None
    return python
