import re
from datetime import UTC, datetime

import numpy as np
import pytest
import redis

from deployments.http.bodies import CallOut, CallPage, CallWithSummary, Trends, UtterancePage
from deployments.http.receipts import Receipt
from pipelines.errors import CallDeletedError
from pipelines.store.keys import CallKeys, calls_key
from pipelines.store.store import OPEN_TTL_S
from pipelines.types import CALL_ID_PATTERN, NAME_PATTERN
from tests.deployments.http.site import Site, problem, result, wav
from tests.pipelines.stored import AGENT, STARTED_MS, default, store_call
from tests.pipelines.working import kinds, until, working

SILENCE = wav(np.zeros((1, 16_000), np.float32))


async def test_a_call_comes_with_its_summary(site: Site) -> None:
    await site.call(result(0, -2.0), result(3_000, -1.0, participant=AGENT))

    call = CallWithSummary.model_validate((await site.client.get("/v1/calls/a-17")).json())

    assert call.status == "live"
    assert call.started_at == datetime.fromtimestamp(STARTED_MS / 1000, UTC)
    assert call.utterances == 2
    assert call.summary.headline.startswith("The customer was unhappy.")
    assert not call.summary.final


async def test_utterances_come_in_pages(site: Site) -> None:
    stored = [result(at * 1000) for at in range(5)]
    await site.call(*stored)

    first = UtterancePage.model_validate((await site.client.get("/v1/calls/a-17/utterances?limit=3")).json())
    rest = await site.client.get("/v1/calls/a-17/utterances", params={"cursor": first.next_cursor or ""})

    assert first.utterances + UtterancePage.model_validate(rest.json()).utterances == stored


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["glad", "angry"]),
        ({"polarity": "negative"}, ["angry"]),
        ({"emotion": "joy"}, ["glad"]),
        ({"min_score": "1"}, ["glad"]),
        ({"max_score": "-1", "participant": "customer"}, ["angry"]),
        ({"participant": "agent"}, []),
        ({"tenant": "acme"}, []),
        ({"since": "2025-10-09T08:53:20Z"}, ["glad", "angry"]),
        ({"since": "2025-10-09T08:53:21+00:00"}, []),
        ({"until": "2025-10-09T10:53:20+02:00"}, []),
    ],
)
async def test_calls_are_filtered(site: Site, query: dict[str, str], found: list[str]) -> None:
    await site.call(result(0, -2.0, call_id="angry"), call_id="angry")
    await site.call(result(0, 2.0, call_id="glad"), call_id="glad")

    page = CallPage.model_validate((await site.client.get("/v1/calls", params=query)).json())

    assert [call.call_id for call in page.calls] == found


async def test_calls_that_an_older_version_stored_as_of_no_date_are_listed_with_the_others(site: Site) -> None:
    said = {"now": STARTED_MS, "10000": 253_402_300_800_000, "twice": 1 << 54, "most": (1 << 63) - 1}
    with redis.Redis.from_url(site.redis_url) as client:
        for call_id, started_ms in said.items():
            await site.call(result(0, call_id=call_id), call_id=call_id)
            client.hset(CallKeys(default(call_id))("call"), "started_ms", started_ms)
            client.zadd(calls_key("live", "default"), {call_id: started_ms})
    found: list[CallOut] = []
    cursor = ""
    while len(found) <= len(said):
        query = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = CallPage.model_validate((await site.client.get("/v1/calls", params=query)).json())
        found += page.calls
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert [call.call_id for call in found] == ["most", "twice", "10000", "now"]
    assert [call.started_at.year for call in found] == [9999, 9999, 9999, 2025]
    assert (await site.client.get("/v1/calls/most")).is_success


async def test_calls_come_in_pages(site: Site) -> None:
    for name in "abc":
        await site.call(call_id=name)

    first = CallPage.model_validate((await site.client.get("/v1/calls?limit=2")).json())
    rest = await site.client.get("/v1/calls", params={"cursor": first.next_cursor or "", "limit": 2})

    assert [call.call_id for call in first.calls] == ["c", "b"]
    assert [call.call_id for call in CallPage.model_validate(rest.json()).calls] == ["a"]


async def test_trends_are_by_minute_and_at_most_a_week(site: Site) -> None:
    await site.call(result(0, -2.0), result(1_000, 1.0), result(200_000, 3.0))
    since = {"since": "2025-10-09T00:00:00Z", "until": "2025-10-10T00:00:00Z"}

    trends = Trends.model_validate((await site.client.get("/v1/trends", params=since)).json())
    now = Trends.model_validate((await site.client.get("/v1/trends")).json())
    long = await site.client.get("/v1/trends", params={**since, "until": "2025-11-09T00:00:00Z"})

    assert [(minute.utterances, minute.score_mean) for minute in trends.minutes] == [(2, -0.5), (1, 3.0)]
    assert now.minutes == []
    problem(long, 422, "range_too_long")


async def test_a_deleted_call_is_gone(site: Site) -> None:
    await site.call(result(0))

    assert (await site.client.delete("/v1/calls/a-17?tenant=acme")).status_code == 404
    answer = await site.client.delete("/v1/calls/a-17")

    receipt = Receipt.model_validate(answer.json())
    assert answer.status_code == 200
    assert (receipt.dry_run, receipt.utterances, receipt.remaining) == (False, 1, 0)
    assert receipt.digest == receipt.expected_digest()
    for path in ("", "/utterances", "/events", "/deletion"):
        assert "was deleted" in problem(await site.client.get(f"/v1/calls/a-17{path}"), 410, "call_deleted")["detail"]
    problem(await site.client.delete("/v1/calls/a-17"), 410, "call_deleted")
    problem(await site.client.get("/v1/calls/a-17?tenant=acme"), 404, "unknown_call")


async def test_what_goes_with_a_call_is_counted_in_every_run_as_for_a_customer(site: Site) -> None:
    await site.call(result(0), result(1000))
    await store_call(site.store.of_run("mine"), "a-17", [result(0)])

    plan = Receipt.model_validate((await site.client.get("/v1/calls/a-17/deletion")).json())
    receipt = Receipt.model_validate((await site.client.delete("/v1/calls/a-17")).json())

    assert [(one.call_id, one.utterances) for one in plan.calls] == [("a-17", 3)]
    assert (receipt.calls, receipt.utterances) == (plan.calls, 3)


async def test_a_list_with_summaries_says_what_each_call_was_like_and_is_noted(site: Site) -> None:
    await site.call(result(0, -2.0), result(70_000, -1.0), call_id="bad")
    await site.call(call_id="silent")

    plain = CallPage.model_validate((await site.client.get("/v1/calls")).json())
    assert [call.summary for call in plain.calls] == [None, None]
    assert (await site.store.accesses.page("default")).items == ()
    told = CallPage.model_validate((await site.client.get("/v1/calls?summary=true")).json())
    one = CallWithSummary.model_validate((await site.client.get("/v1/calls/bad")).json())

    assert [call.call_id for call in told.calls] == ["silent", "bad"]
    assert told.calls[1].summary == one.summary
    noted = [(entry.action, entry.call_id, entry.detail) for entry in (await site.store.accesses.page("default")).items]
    assert noted == [("read", "bad", "summary"), ("read", "*", "list with summaries")]


async def test_a_page_of_summaries_ends_before_it_reads_too_much_and_the_next_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.http.calls.SUMMARISED_MAX", 3)
    for name in "abcd":
        await site.call(result(0), result(1000), call_id=name)
    pages: list[list[str]] = []
    cursor: str | None = None
    while cursor or not pages:
        query = {"summary": "true", "limit": "4"} | ({"cursor": cursor} if cursor else {})
        page = CallPage.model_validate((await site.client.get("/v1/calls", params=query)).json())
        pages.append([call.call_id for call in page.calls])
        cursor = page.next_cursor
    assert pages == [["d"], ["c"], ["b"], ["a"]]


async def test_what_deleting_a_call_would_remove_is_told_and_neither_removed_nor_noted(site: Site) -> None:
    await site.call(result(0), result(1000))
    await site.client.post(
        "/v1/calls?participants=customer&call_id=unread", content=wav(np.zeros((1, 8_000), np.float32))
    )
    for call_id, utterances in (("a-17", 2), ("unread", 0)):
        for _ in range(2):
            answer = await site.client.get(f"/v1/calls/{call_id}/deletion")
            plan = Receipt.model_validate(answer.json())
            assert (plan.dry_run, plan.remaining, plan.tenant) == (True, 0, "default")
            assert [(one.call_id, one.utterances) for one in plan.calls] == [(call_id, utterances)]
    problem(await site.client.get("/v1/calls/a-17/deletion?tenant=acme"), 404, "unknown_call")
    assert (await site.store.accesses.page("default")).items == ()
    assert (await site.client.delete("/v1/calls/a-17")).is_success
    problem(await site.client.get("/v1/calls/a-17/deletion"), 410, "call_deleted")


async def test_a_call_that_no_worker_has_opened_is_deleted_and_what_was_sent_cannot_be_read(site: Site) -> None:
    sound = np.zeros((1, 16_000), np.float32)
    sent = await site.client.post("/v1/calls?participants=customer&call_id=c", content=wav(sound))
    assert sent.status_code == 202
    (*_, last) = site.fragments()
    assert last.media
    assert (await site.client.delete("/v1/calls/c")).is_success
    with redis.Redis.from_url(site.redis_url) as client:
        assert list(client.scan_iter("*{default/c}*")) == [b"ut:{default/c}:deleted"]
    refused = await site.client.post("/v1/calls?participants=customer&call_id=c", content=wav(sound))
    problem(refused, 410, "call_deleted")
    problem(await site.client.delete("/v1/calls/c"), 410, "call_deleted")


async def test_an_upload_is_a_call_from_its_answer_on_before_a_worker_opens_it(site: Site) -> None:
    await site.call(result(0), call_id="before")
    sent = await site.client.post("/v1/calls?participants=customer&call_id=c", content=SILENCE)
    assert sent.status_code == 202

    links = sent.json()["links"]
    waiting = CallWithSummary.model_validate((await site.client.get(links["call"])).json())
    assert (waiting.status, waiting.streams, waiting.utterances, waiting.summary.final) == ("waiting", {}, 0, False)
    assert (await site.client.get(links["utterances"])).json()["utterances"] == []
    listed = CallPage.model_validate((await site.client.get("/v1/calls")).json())
    assert [(one.call_id, one.status) for one in listed.calls] == [("c", "waiting"), ("before", "live")]
    assert (
        CallPage.model_validate((await site.client.get("/v1/calls?polarity=negative")).json()).calls[0].call_id != "c"
    )

    async with working(site.redis_url):
        await until("final", site.redis_url, "c")
    over = CallWithSummary.model_validate((await site.client.get(links["call"])).json())
    assert (over.streams, over.started_at) == ({"main": "final"}, waiting.started_at)
    assert await kinds(site.redis_url, "c") == ["call-final"]  # it did not come back to life: it had not begun


async def test_a_call_that_waits_and_is_deleted_stays_deleted_when_a_worker_comes_to_it(site: Site) -> None:
    for call_id in ("gone", "kept"):
        await site.client.post(f"/v1/calls?participants=customer&call_id={call_id}", content=SILENCE)
    assert (await site.client.delete("/v1/calls/gone")).status_code == 200
    problem(await site.client.get("/v1/calls/gone"), 410, "call_deleted")

    async with working(site.redis_url):
        await until("final", site.redis_url, "kept")

    problem(await site.client.get("/v1/calls/gone"), 410, "call_deleted")
    listed = CallPage.model_validate((await site.client.get("/v1/calls")).json())
    assert [one.call_id for one in listed.calls] == ["kept"]


async def test_a_call_that_a_worker_has_opened_is_not_made_to_wait(site: Site) -> None:
    await site.call(result(0), final=True)
    await site.store.ledger.await_worker(default("a-17"))
    assert (await site.client.get("/v1/calls/a-17")).json()["status"] == "final"
    await site.store.ledger.await_worker(default("c"))
    await site.store.open_stream(default("c"), "main", "w", 0)
    with redis.Redis.from_url(site.redis_url) as client:
        assert 0 < client.ttl("ut:{default/c}:call") <= OPEN_TTL_S  # as of any call of which nothing was ever stored
    await site.store.delete_call(default("a-17"))
    with pytest.raises(CallDeletedError):
        await site.store.ledger.await_worker(default("a-17"))
    problem(await site.client.get("/v1/calls/a-17"), 410, "call_deleted")


@pytest.mark.parametrize("name", [".", ".."])
async def test_a_name_of_dots_is_refused_wherever_one_is_taken(site: Site, name: str) -> None:
    upload = {"participants": "customer", "call_id": "a", "tenant": "t", "stream": "s"}
    for field in ("call_id", "tenant", "stream"):
        answer = await site.client.post("/v1/calls", params={**upload, field: name}, content=b"x")
        assert problem(answer, 422, "invalid_input")["errors"][0]["at"] == f"query.{field}"
    for path in ("/v1/calls", "/v1/events", "/v1/trends"):
        problem(await site.client.get(path, params={"tenant": name}), 422, "invalid_input")
    problem(await site.client.get("/v1/calls/a/utterances", params={"run": name}), 422, "invalid_input")
    answer = await site.client.get(f"/v1/calls/{name.replace('.', '%2e')}")
    assert answer.status_code in {404, 422}


@pytest.mark.parametrize("pattern", [CALL_ID_PATTERN, NAME_PATTERN])
def test_dots_within_a_name_and_its_length_are_as_before(pattern: str) -> None:
    longest = 128 if pattern == CALL_ID_PATTERN else 64
    for good in (
        "a",
        "a.b",
        ".a",
        "..a",
        "...",
        "a..",
        "-",
        "_",
        "x" * longest,
        "." + "x" * (longest - 1),
        "." * longest,
    ):
        assert re.fullmatch(pattern, good)
    for bad in ("", ".", "..", "x" * (longest + 1), "." * (longest + 1), ".." + "x" * (longest - 1), "a\n", "a/b", "é"):
        assert not re.fullmatch(pattern, bad)
