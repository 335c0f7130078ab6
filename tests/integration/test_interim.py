"""Interim texts of real speech by the real networks, without Ray: the results are the same with them and without."""

import re
from dataclasses import replace
from typing import Any

import pytest

from deployments.sample import ANGRY_TO_CONTENT
from deployments.serve.embedded import local_analyser
from models.types import FloatArray, Transcript
from pipelines.ingest.worker import Worker
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.media.fragment import fragments
from pipelines.settings import AppConfig, InterimSettings
from pipelines.types import MediaFragment, Participant
from tests.eventually import eventually
from tests.pipelines.ingest.test_interim import listening
from tests.pipelines.working import counter, results, send, working

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UNTIL_MS = 24_000


def sample(call_id: str) -> list[MediaFragment]:
    """The first utterances of the sample call."""
    who = (Participant.AGENT, Participant.CUSTOMER)
    cut = fragments(ANGRY_TO_CONTENT, call_id=call_id, tenant="default", stream="main", participants=who, consent=None)
    *begun, last = [one for one in cut if one.start_ms < UNTIL_MS]
    return [*begun, replace(last, final=True)]


async def test_the_words_so_far_are_shown_and_the_results_are_the_same(redis_url: str) -> None:
    analyser = local_analyser(AppConfig())
    under_way = 0

    async def transcribe(samples: FloatArray) -> Transcript:
        nonlocal under_way
        under_way += 1
        try:
            return await analyser.stages.transcribe(samples)
        finally:
            under_way -= 1

    async def taken(worker: Worker, fragments_sent: int) -> None:
        await eventually(lambda: counter(worker.metrics.fragments_analysed) == fragments_sent)
        await eventually(lambda: not under_way)

    async def judged(call_id: str, *, show: bool) -> list[dict[str, Any]]:
        interim = InterimSettings(show=show)
        async with working(redis_url, call_id, analyser, transcribe=transcribe, interim=interim) as worker:
            for number, fragment in enumerate(sample(call_id), 1):
                send(RedisStreamProducer(redis_url), [fragment])
                await taken(worker, number)
            times = {"call_id", "utterance_id", "step_ms", "analysed_at"}
            return [one.model_dump(exclude=times) for one in await results(redis_url, call_id)]

    without = await judged("without", show=False)
    async with listening(redis_url) as texts:
        assert await judged("with", show=True) == without

    said = [re.sub(r"\W+", " ", one["transcript"]["text"]).lower() for one in without]
    assert len(texts) >= 2
    for text in texts:
        begin = re.sub(r"\W+", " ", text.text).lower().split()[:2]
        assert any(words.split()[:2] == begin for words in said), (text.text, said)
