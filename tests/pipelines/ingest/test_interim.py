"""Interim texts: what is shown of utterances that go on, and that nothing else is other for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from models.types import FloatArray, Modality, Transcript, Word
from pipelines.errors import EncoderUnavailableError
from pipelines.ingest.analyse import Analyser, Stages
from pipelines.ingest.context import WorkerContext
from pipelines.ingest.interim import InterimRequests
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import AppConfig, InterimSettings, WorkerSettings
from pipelines.store.queries import InterimText
from pipelines.store.store import Store
from pipelines.store.trends import SUMS
from pipelines.types import Participant, Utterance
from tests.eventually import eventually
from tests.pipelines.ingest.contexts import context
from tests.pipelines.ingest.networks import NAMES, feels, fuses
from tests.pipelines.working import call, counter, found, published, results, send, working
from tests.servers import OwnRedis

AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER
SHOWN = InterimSettings(show=True, after_s=1.0, every_s=0.5)


def heard(samples: FloatArray) -> Transcript:
    return Transcript(f"{samples.size} samples", "en", (), "test")


async def at_once(samples: FloatArray) -> Transcript:
    return heard(samples)


def utterance(end_ms: int, start_ms: int = 0, participant: Participant = CUSTOMER) -> Utterance:
    samples = np.zeros(16 * (end_ms - start_ms), np.float32)
    return Utterance("c", "default", "phone", participant, start_ms, end_ms, frozenset(Modality), samples)


@dataclass
class Pending:
    """A transcriber that answers when it is told to."""

    asked: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: int = 0
    at_work: int = 0

    async def __call__(self, samples: FloatArray) -> Transcript:
        self.asked.append(samples.size // 16)
        self.at_work += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.at_work -= 1
        return heard(samples)


@asynccontextmanager
async def listening(url: str, tenant: str = "default") -> AsyncIterator[list[InterimText]]:
    store, texts = Store.connect(url), list[InterimText]()

    async def follow() -> None:
        async for text in store.interim.follow(tenant):
            texts.append(text)  # each is looked at before the next one comes

    following = asyncio.create_task(follow())
    await eventually(store.interim._redis.pubsub_channels)
    yield texts
    following.cancel()
    await asyncio.wait([following])
    await store.close()


@asynccontextmanager
async def asking(
    url: str, transcribe: Callable[[FloatArray], Awaitable[Transcript | None]], worker: WorkerSettings | None = None
) -> AsyncIterator[tuple[WorkerContext, InterimRequests]]:
    """What one stream of a worker asks for."""
    own = context(url, transcribe=transcribe, worker=worker)
    yield own, InterimRequests(own)
    await own.store.close()


def kept(raw: Any) -> dict[str, Any]:
    """Everything in Redis but the log and the metrics, without what tells when it was written."""
    read: dict[str, Callable[[str], Any]] = {
        "string": raw.get,
        "hash": raw.hgetall,
        "set": raw.smembers,
        "zset": lambda key: raw.zrange(key, 0, -1),
        "stream": lambda key: [fields for _, fields in raw.xrange(key)],
    }
    found: dict[str, Any] = {}
    for key in raw.scan_iter():
        if key.startswith(("ut:log:", "ut:{metrics}:")) or ":seals:" in key:  # keys are made at random
            continue
        value = read[raw.type(key)](key)
        if "{default/c1}" in key and isinstance(value, dict):
            value = {name: _timeless(text) for name, text in value.items() if name != "started_ms"}
        if key.startswith("ut:trend:"):  # a run may go over the end of a minute
            value.pop(SUMS)
            value = found.get("ut:trend", {}) | value
            key = "ut:trend"  # noqa: PLW2901  # of all minutes together
        found[key] = value
    return found


def _timeless(text: str) -> object:
    if not text.startswith("{"):
        return text
    result = json.loads(text)
    return {name: value for name, value in result.items() if name not in {"step_ms", "analysed_at"}}


async def test_results_and_all_of_redis_are_the_same_with_and_without(
    redis_url: str, raw: Any, sound: FloatArray
) -> None:
    async def left_by_a_call(*, show: bool) -> dict[str, Any]:
        raw.flushall()
        send(RedisStreamProducer(redis_url), call(sound, "c1"))
        interim = SHOWN.model_copy(update={"show": show})
        async with listening(redis_url) as texts, working(redis_url, transcribe=at_once, interim=interim) as worker:
            await results(redis_url, "c1")
            await eventually(lambda: worker.idle)
            assert bool(texts) is show
            assert counter(worker.metrics.interim_texts.labels("published")) == len(texts)
            return kept(raw)

    without, with_texts = await left_by_a_call(show=False), await left_by_a_call(show=True)

    assert with_texts == without
    assert sum(key.endswith(":results") for key in without) == 1


async def test_a_text_has_the_words_so_far_of_an_utterance_that_is_stored_later(
    redis_url: str, sound: FloatArray
) -> None:
    async with listening(redis_url) as texts, working(redis_url, transcribe=at_once, interim=SHOWN):
        for fragment in call(sound, "c1"):
            send(RedisStreamProducer(redis_url), [fragment])
        stored = await results(redis_url, "c1")

    ends = {(one.participant, one.start_ms): one.end_ms for one in stored}
    assert texts
    for text in texts:
        assert (text.call_id, text.stream, text.engine, text.language) == ("c1", "phone", "test", "en")
        assert text.text == f"{16 * (text.end_ms - text.start_ms)} samples"
        assert text.end_ms - text.start_ms >= 1000
        # The silence behind the last word belongs to the words so far, until it is long enough to end them.
        assert text.end_ms <= ends[text.participant, text.start_ms] + 600
    assert {text.participant for text in texts} == {AGENT, CUSTOMER}


async def test_a_transcriber_that_never_answers_holds_no_result_up(redis_url: str, sound: FloatArray) -> None:
    silent = Pending()
    send(RedisStreamProducer(redis_url), call(sound, "calm"))
    async with working(redis_url):
        undisturbed = found(await results(redis_url, "calm"))
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, transcribe=silent, interim=SHOWN) as worker:
        assert found(await results(redis_url, "c1")) == undisturbed
        await eventually(lambda: worker.idle)
        # Long before the time-out of a transcription: what was asked for ends with its utterance.
        await eventually(lambda: silent.dropped == len(silent.asked) > 0, 5)
        assert silent.at_work == 0


async def test_words_that_may_not_be_analysed_are_not_asked_for(redis_url: str, sound: FloatArray) -> None:
    asked: list[int] = []

    async def note(samples: FloatArray) -> Transcript:
        asked.append(samples.size)
        return heard(samples)

    consent = {CUSTOMER: frozenset({Modality.AUDIO}), AGENT: frozenset[Modality]()}
    send(RedisStreamProducer(redis_url), [replace(one, consent=consent) for one in call(sound, "c1")])
    async with working(redis_url, transcribe=note, interim=SHOWN):
        assert await results(redis_url, "c1")
    assert asked == []


async def test_a_shadow_and_a_system_that_does_not_want_them_ask_for_none(redis_url: str, sound: FloatArray) -> None:
    silent = Pending()
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, transcribe=silent):
        await results(redis_url, "c1")
    async with working(redis_url, transcribe=silent, interim=SHOWN, run="shadow", group="shadow") as worker:
        await eventually(lambda: counter(worker.metrics.fragments_analysed) == 20)
    assert silent.asked == []


def everything(raw: Any) -> str:
    """Every key and value of Redis but the log, where all is sealed."""
    read: dict[str, Callable[[str], Any]] = {
        "string": raw.get,
        "hash": raw.hgetall,
        "set": raw.smembers,
        "zset": lambda key: raw.zrange(key, 0, -1, withscores=True),
        "stream": raw.xrange,
        "list": lambda key: raw.lrange(key, 0, -1),
    }
    return "".join(f"{key} {read[raw.type(key)](key)}" for key in raw.scan_iter() if not key.startswith("ut:log:"))


async def test_a_card_that_is_read_out_is_neither_stored_nor_sent_nor_shown_nor_logged(
    redis_url: str, raw: Any, sound: FloatArray, caplog: pytest.LogCaptureFixture
) -> None:
    said = "my card is 4012 8888 8888 1881 okay"

    async def dictated(samples: FloatArray) -> Transcript:
        """As many of the words as there is sound, at 400 ms each."""
        words = said.split()[: samples.size // 6400]
        return Transcript(" ".join(words), "en", tuple(Word(w, 0, 400, 1.0) for w in words), "test")

    parts = Stages(dictated, dict.fromkeys(Modality, feels), fuses, NAMES)
    caplog.set_level("DEBUG")
    with raw.monitor() as seen:
        send(RedisStreamProducer(redis_url), call(sound, "c1"))
        analyse = Analyser(parts, AppConfig().tenant)
        async with (
            listening(redis_url) as texts,
            working(redis_url, analyse=analyse, transcribe=dictated, interim=SHOWN),
        ):
            stored = await results(redis_url, "c1")
        raw.set("the-end", 1)
        commands = []
        while "the-end" not in (command := seen.next_command()["command"]):
            commands.append(command)

    assert {one.transcript.text for one in stored if one.transcript} >= {"my card is [CARD] okay"}
    assert texts
    assert all("my card is".startswith(text.text[:10]) for text in texts)
    for secret in ("4012", "8888", "1881"):
        assert secret not in everything(raw)
        assert secret not in str(published(redis_url))
        assert not any(secret in command for command in commands if "call-media" not in command)
        assert secret not in caplog.text
        assert not any(secret in text.text for text in texts)


async def test_what_is_begun_at_the_end_is_held_back_and_counted(redis_url: str) -> None:
    async def number(_samples: FloatArray) -> Transcript:
        return Transcript("four oh one two", "en", (), "test")

    async with asking(redis_url, number) as (own, requests), listening(redis_url) as texts:
        requests.show([utterance(4_000)])
        await asyncio.gather(*requests.under_way)
        assert counter(own.metrics.interim_texts.labels("held_back")) == 1
        assert counter(own.metrics.interim_texts.labels("published")) == 0
    assert texts == []


# ---- the requests of one stream


async def test_words_are_asked_for_after_three_seconds_and_again_every_two_and_of_each_utterance_anew(
    redis_url: str,
) -> None:
    asked = Pending()
    asked.gate.set()
    async with asking(redis_url, asked) as (_, requests):
        for start_ms in (0, 20_000):
            for end_ms in range(start_ms + 500, start_ms + 8_001, 500):
                requests.show([utterance(end_ms, start_ms)])
                await asyncio.gather(*requests.under_way)
            requests.show([])
    assert asked.asked == 2 * [3_000, 5_000, 7_000]


async def test_in_a_pause_none_is_asked_for_but_when_the_utterance_goes_on(redis_url: str) -> None:
    silent = Pending()
    async with asking(redis_url, silent) as (_, requests):
        requests.show([utterance(2_900)])
        for end_ms in (3_100, 3_400):
            requests.show([replace(utterance(end_ms), samples=np.zeros(0, np.float32))])
        requests.show([utterance(3_700)])
        await eventually(lambda: silent.at_work == 1)
        requests.show([])
        await eventually(lambda: silent.dropped == 1)
    assert silent.asked == [3_700]


async def test_one_is_asked_for_at_a_time_for_each_participant_and_the_others_are_dropped(redis_url: str) -> None:
    silent = Pending()
    async with asking(redis_url, silent) as (own, requests):
        for end_ms in (3_000, 5_000, 7_000):
            requests.show([utterance(end_ms, participant=CUSTOMER), utterance(end_ms, participant=AGENT)])
            await eventually(lambda: silent.at_work == 2)
        assert silent.asked == [3_000, 3_000]
        assert counter(own.metrics.interim_texts.labels("busy")) == 4

        requests.show([utterance(7_500, participant=AGENT)])
        await eventually(lambda: silent.dropped == 1)  # the customer's has ended
        requests.show([utterance(9_000, 7_600, participant=AGENT)])
        await eventually(lambda: silent.dropped == 2)  # it is another one


async def test_a_worker_that_has_as_much_in_flight_as_it_may_and_a_transcriber_at_work_drop_them(
    redis_url: str,
) -> None:
    async def busy(samples: FloatArray) -> Transcript | None:
        del samples
        return None

    async with asking(redis_url, busy, WorkerSettings(utterances_in_flight=2)) as (own, requests):
        dropped = own.metrics.interim_texts.labels("busy")
        requests.show([utterance(3_000)])
        await eventually(lambda: counter(dropped) == 1)
        own.in_flight.count = 2
        requests.show([utterance(5_000)])
        assert counter(dropped) == 2


async def refusing(samples: FloatArray) -> Transcript:
    del samples
    raise EncoderUnavailableError("away")


async def failing(samples: FloatArray) -> Transcript:
    del samples
    raise KeyError("a fault of ours")


async def doubting(samples: FloatArray) -> Transcript:
    return replace(heard(samples), unreliable="repetition")


async def wordless(samples: FloatArray) -> Transcript:
    return replace(heard(samples), text=" ")


@pytest.mark.parametrize(
    ("transcribe", "outcome"),
    [(refusing, "failed"), (failing, "failed"), (doubting, "unreliable"), (wordless, "unreliable")],
)
async def test_what_gives_no_words_costs_the_text_and_the_next_one_is_tried(
    redis_url: str, transcribe: Callable[[FloatArray], Awaitable[Transcript]], outcome: str
) -> None:
    async with asking(redis_url, transcribe) as (own, requests), listening(redis_url) as texts:
        counted = own.metrics.interim_texts.labels(outcome)
        requests.show([utterance(3_000)])
        await eventually(lambda: counter(counted) == 1)
        requests.show([utterance(5_000)])
        await eventually(lambda: counter(counted) == 2)
    assert texts == []


async def test_a_store_that_is_away_costs_the_text(own_redis: OwnRedis) -> None:
    async with asking(own_redis.url, at_once) as (own, requests):
        own_redis.kill()
        requests.show([utterance(3_000)])
        await eventually(lambda: counter(own.metrics.interim_texts.labels("failed")) == 1)
