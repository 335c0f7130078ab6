"""`make bench PART=interim`: what interim texts cost the transcriber, on one thread of this process.

Nothing is dropped here, so the cost is the most that it can be: in the whole system a text is left out while the transcriber
has anything else to do.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from deployments.sample import ANGRY_TO_CONTENT
from deployments.serve.embedded import local_analyser
from deployments.serve.embedded_redis import embedded_redis
from models.types import FloatArray, Transcript
from pipelines.checkpoints import NEW_STREAM
from pipelines.ingest.interim import InterimRequests
from pipelines.media.call_stream import CallStream
from pipelines.media.fragment import fragments
from pipelines.settings import AppConfig
from pipelines.types import MediaFragment, Participant, Utterance
from tests.pipelines.ingest.contexts import context
from tests.pipelines.working import counter

CALL_MAX_MS = 120_000
Call = tuple[Path, tuple[Participant, ...]]


def calls() -> dict[str, Call]:
    """The sample call; and each side of the real call of the data folder, where there is one, of which two minutes are taken."""
    found: dict[str, Call] = {"sample": (ANGRY_TO_CONTENT, (Participant.AGENT, Participant.CUSTOMER))}
    folder = Path(os.environ.get("UNDERTONE_DATA", ""), "calls")
    for side, participant in (("agent", Participant.AGENT), ("caller", Participant.CUSTOMER)):
        path = folder / f"auto_repairs_40_{side}.flac"
        if path.is_file():
            found[path.stem] = (path, (participant,))
    return found


class TimedTranscriber:
    """The words of samples, and how long each took, in s."""

    def __init__(self, config: AppConfig) -> None:
        self._transcribe = local_analyser(config).stages.transcribe
        self.took_s: list[float] = []

    async def __call__(self, samples: FloatArray) -> Transcript:
        begun_s = time.perf_counter()
        try:
            return await self._transcribe(samples)
        finally:
            self.took_s.append(time.perf_counter() - begun_s)


async def cost(url: str, config: AppConfig, call: list[MediaFragment]) -> dict[str, float]:
    """Seconds of the transcriber per second of the call, for the utterances and for their interim texts."""
    stream, whole, so_far = CallStream(config.stream, NEW_STREAM), TimedTranscriber(config), TimedTranscriber(config)
    own = context(url, transcribe=so_far)
    requests = InterimRequests(own)
    await whole(np.zeros(16_000, np.float32))  # the first is slower
    await so_far(np.zeros(16_000, np.float32))
    utterances: list[Utterance] = []
    for fragment in call:
        ended = [event.utterance for event in stream.feed(fragment).events]
        requests.show(stream.open_speech())
        await asyncio.gather(*requests.under_way)
        utterances += [one for one in ended if one is not None]
    utterances += [event.utterance for event in stream.finish() if event.utterance is not None]
    for one in utterances:
        await whole(one.samples)
    await own.store.close()
    call_s, final_s, interim_s = call[-1].start_ms / 1000, sum(whole.took_s[1:]), sum(so_far.took_s[1:])
    return {
        "call_s": call_s,
        "utterances": len(utterances),
        "busy_share_without": final_s / call_s,
        "interim_texts": len(so_far.took_s) - 1,
        "published": counter(own.metrics.interim_texts.labels("published")),
        "busy_share_with": (final_s + interim_s) / call_s,
        "with_over_without": (final_s + interim_s) / final_s,
        "interim_p50_s": float(np.quantile(so_far.took_s[1:], 0.5)),
        "interim_p95_s": float(np.quantile(so_far.took_s[1:], 0.95)),
    }


async def measure() -> dict[str, Any]:
    """Of each call."""
    config = AppConfig(transcriber=os.environ.get("UNDERTONE_BENCH_TRANSCRIBER", AppConfig().transcriber))
    figures: dict[str, Any] = {"transcriber": config.transcriber}
    with tempfile.TemporaryDirectory(prefix="ut") as folder, embedded_redis(Path(folder)) as url:
        for name, (path, participants) in calls().items():
            cut = fragments(
                path, call_id=name, tenant="default", stream="main", participants=participants, consent=None
            )
            begin = [fragment for fragment in cut if fragment.start_ms < CALL_MAX_MS]
            figures[f"interim_{name}"] = await cost(url, config, begin)
    return figures
