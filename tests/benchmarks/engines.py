"""How far the two engines of Whisper agree, and how fast each is: `UNDERTONE_DATA=DATA make bench PART=engines`.

The same weights are read by openai-whisper, the reference, and by CTranslate2. What they hear: the read speech of the data
folder, RAVDESS's actors 19-21, and the utterances of its real telephone call, cut as a live call is.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from models.data import librivox, ravdess
from models.encoders.speech import Engine, load_transcriber
from models.encoders.whisper_weights import PACKED
from models.evaluate_speech import normalised
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcriber, Transcript
from pipelines.media.fragment import fragments
from pipelines.media.utterances import utterances_of
from pipelines.settings import StreamSettings
from pipelines.types import Participant

BATCHES = {"cpu": (1,), "cuda": (1, 8, 32)}
SPEED_UTTERANCES = 64
WITHIN_S = 0.2
PARTIES = {"agent": Participant.AGENT, "caller": Participant.CUSTOMER}


def measure(data: Path, seconds: float = 3.0) -> dict[str, dict[str, float]]:
    """Per packed model the agreement of its engines over all utterances; and per engine, device and batch its speed.

    Args:
        data: The data folder.
        seconds: At least so long each speed is measured, once the engine is warm.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sets = {name: list(clips(data)) for name, clips in (("librivox", _read), ("ravdess", _acted), ("call", real_call))}
    figures: dict[str, dict[str, float]] = {}
    for model in PACKED:
        heard: dict[str, dict[str, list[Transcript]]] = {}
        for engine in get_args(Engine):
            transcriber = load_transcriber(model, device=device, engine=engine)
            heard[engine] = {name: transcriber.transcribe(clips) for name, clips in sets.items()}
            some = [clip for clips in sets.values() for clip in clips][-SPEED_UTTERANCES:]
            for batch in BATCHES[device]:
                figures[f"{model} {engine} {device} batch {batch}"] = speed(transcriber, some, batch, seconds)
        for name in sets:
            figures[f"{model} {name}"] = agreement(*(transcripts[name] for transcripts in heard.values()))
        figures[f"{model} all"] = agreement(
            *([one for name in sets for one in found[name]] for found in heard.values())
        )
    return figures


def agreement(first: Sequence[Transcript], second: Sequence[Transcript]) -> dict[str, float]:
    """How far two engines' transcripts of the same utterances agree.

    Returns:
        `same_text`: share of the utterances with the same normalised words; `same_gate`: share on which the gates say the same;
        of the words of the same texts, how far starts and ends lie apart in s (`times_p95_s`, `times_max_s`) and the share of
        them `within_0.2_s`.
    """
    pairs = list(zip(first, second, strict=True))
    same = [(one, other) for one, other in pairs if normalised(one.text) == normalised(other.text)]
    apart_ms = [
        abs(here - there)
        for one, other in same
        if len(one.words) == len(other.words)
        for word, its in zip(one.words, other.words, strict=True)
        for here, there in ((word.start_ms, its.start_ms), (word.end_ms, its.end_ms))
    ]
    apart_s = np.array(apart_ms or [0]) / 1000
    return {
        "utterances": len(pairs),
        "same_text": len(same) / len(pairs),
        "same_gate": sum(one.unreliable == other.unreliable for one, other in pairs) / len(pairs),
        "times_p95_s": float(np.quantile(apart_s, 0.95)),
        "times_max_s": float(apart_s.max()),
        f"within_{WITHIN_S}_s": float((apart_s <= WITHIN_S).mean()),
    }


def speed(transcriber: Transcriber, clips: Sequence[FloatArray], batch: int, seconds: float) -> dict[str, float]:
    """Utterances a second, and time to transcribe over the sound's own time (`real_time_factor`), so many at a time."""
    edges = [*range(0, len(clips), batch), len(clips)]
    transcriber.transcribe(clips[:batch])
    count, heard_s, started = 0, 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for first, last in pairwise(edges):
            transcriber.transcribe(clips[first:last])
            count += last - first
            heard_s += sum(map(len, clips[first:last])) / SAMPLE_RATE_HZ
    elapsed_s = time.perf_counter() - started
    return {"utterances_per_s": count / elapsed_s, "real_time_factor": elapsed_s / heard_s}


def real_call(data: Path) -> Iterator[FloatArray]:
    """The utterances of both parties of the real call."""
    for party, participant in PARTIES.items():
        call: Any = fragments(
            data / "calls" / f"auto_repairs_40_{party}.flac",
            call_id="engines",
            tenant="default",
            stream="main",
            participants=(participant,),
            consent=None,
        )
        yield from (utterance.samples for utterance in utterances_of(list(call), StreamSettings()))


def _read(data: Path) -> list[FloatArray]:
    return librivox.read(data, "all").clips


def _acted(data: Path) -> list[FloatArray]:
    return ravdess.read_words(data, "validation").clips
