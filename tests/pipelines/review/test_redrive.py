from dataclasses import replace

import pytest

from pipelines.checkpoints import Checkpoint
from pipelines.errors import MediaError
from pipelines.log.dead_letter import Letter
from pipelines.log.records import fragment_headers
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.review.redrive import begun, redrives
from pipelines.settings import MediaLimits
from pipelines.store.store import Store
from pipelines.types import TOPIC_MEDIA, Coordinates, MediaFragment, Record
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import Voice, call, found, results, send, speech, working

KNOWN = {default("c1"): {"phone": Checkpoint({}, None, None, None, final=True)}}


@pytest.fixture(scope="module")
def fragments(vowels: Voice) -> list[MediaFragment]:
    return call(speech(vowels), "c1")


def letter(fragment: MediaFragment, offset: int, *, whole: bool = True) -> Letter:
    record = Record(Coordinates(0, offset), b"c1", fragment.media, fragment_headers(fragment), 0)
    return Letter(Coordinates(0, 0), record, MediaError.reason, "", 1, whole)


def test_a_stream_that_nobody_knows_gets_its_own_fragments(fragments: list[MediaFragment]) -> None:
    plan = list(redrives([letter(fragments[1], 1), letter(fragments[0], 0)], {}, MediaLimits()))
    assert [(one.fragment.stream, one.fragment.seq) for one in plan if one.fragment] == [("phone", 0), ("phone", 1)]


def test_a_stream_that_went_on_gets_one_beside_it_for_each_run(fragments: list[MediaFragment]) -> None:
    letters = [letter(fragments[seq], 10 + seq) for seq in (9, 5, 6, 19)]
    plan = [one.fragment for one in redrives(letters, KNOWN, MediaLimits()) if one.fragment]
    assert [(one.stream, one.seq, one.start_ms, one.final) for one in plan] == [
        ("phone.r15", 0, 5000, False),
        ("phone.r15", 1, 6000, True),
        ("phone.r19", 0, 9000, True),
        ("phone.r29", 0, 19_000, True),
    ]


def test_a_fragment_that_was_sent_twice_is_redriven_once(fragments: list[MediaFragment]) -> None:
    plan = list(redrives([letter(fragments[5], 10), letter(fragments[5], 11)], KNOWN, MediaLimits()))
    assert [(one.letter.record.at.offset, one.obstacle) for one in plan] == [(11, "duplicate"), (10, None)]


def test_a_redrive_that_broke_off_sends_the_same_again(fragments: list[MediaFragment]) -> None:
    letters = [letter(fragments[seq], seq) for seq in (0, 1)]
    first = [one.fragment for one in redrives(letters, {}, MediaLimits()) if one.fragment]
    states = {one.letter.record.at: begun(one.fragment) for one in redrives(letters, {}, MediaLimits()) if one.fragment}
    again = [one.fragment for one in redrives(letters, KNOWN, MediaLimits(), states) if one.fragment]
    assert again == first


def test_what_is_cut_or_still_breaks_the_contract_stays_where_it_is(fragments: list[MediaFragment]) -> None:
    broken = letter(fragments[1], 1)
    broken = replace(broken, record=replace(broken.record, headers=(("v", b"9"),)))
    plan = list(redrives([letter(fragments[0], 0, whole=False), broken], KNOWN, MediaLimits()))
    assert [(one.fragment, one.obstacle) for one in plan] == [(None, "cut"), (None, "still_refused")]
    assert "understood is '1'" in plan[1].detail


def test_nothing_is_sent_of_a_call_that_was_deleted(fragments: list[MediaFragment]) -> None:
    plan = list(redrives([letter(fragments[0], 0)], {}, MediaLimits(), deleted=[default("c1")]))
    assert [(one.fragment, one.obstacle) for one in plan] == [(None, "call_deleted")]


async def test_redriven_fragments_land_where_they_were_spoken(redis_url: str, fragments: list[MediaFragment]) -> None:
    """Seconds 10 to 13, in which only the customer speaks, were refused and come when the call is over."""
    producer = RedisStreamProducer(redis_url)
    refused = range(9, 12)
    async with working(redis_url):
        send(producer, [one for one in fragments if one.seq not in refused])
        before = await results(redis_url, "c1")
        store = Store.connect(redis_url)
        known = {default("c1"): await store.checkpoints(default("c1"))}
        for _ in range(2):
            for one in redrives([letter(fragments[seq], seq) for seq in refused], known, MediaLimits()):
                assert one.fragment is not None
                producer.send(TOPIC_MEDIA, "c1", one.fragment.media, fragment_headers(one.fragment))

        async def redriven() -> bool:
            known = await store.archive.call(default("c1"))
            return known is not None and known.streams.get("phone.r9") == "final"

        await eventually(redriven)
        after = list((await store.archive.utterances(default("c1"))).items)
        await store.close()
    assert set(found(before)) < set(found(after))
    starts = [one.start_ms for one in after]
    assert starts == sorted(starts)
    new = [one for one in after if one.stream == "phone.r9"]
    assert all(9_000 <= one.start_ms < one.end_ms <= 12_000 for one in new)
    assert new
