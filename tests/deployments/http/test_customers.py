import hashlib
import json
import logging
import tempfile
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import websockets

from deployments.http.api import create_api
from deployments.http.customers import BODY_MAX_BYTES, CALLS_AT_ONCE_MAX
from deployments.http.receipts import Receipt
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.deployments.gateway_process import gateway_process
from tests.deployments.http.site import Everyone, LosingProducer, Site, judge, never_healthy, problem, result, wav
from tests.eventually import wait_until
from tests.pipelines.media_files import sound
from tests.pipelines.searching import keys_with
from tests.pipelines.working import results, working

REFERENCE = "Zo\u00eb /47?1108%15&#.."
AWKWARD = ["4711", REFERENCE, "a/b", "/", "zo\u00eb@example.org", "%41", "forget", "a b", "+49 30 1234"]


async def upload(site: Site, call_id: str, customer: str, *, tenant: str = "default") -> httpx.Response:
    return await site.client.post(
        f"/v1/calls?tenant={tenant}",
        data={"participants": "customer", "call_id": call_id, "customer": customer},
        files={"file": ("a.wav", wav(sound(1.5, 8000)))},
    )


async def forget(site: Site, customer: str, *, dry_run: bool = False, tenant: str = "default") -> Receipt:
    body = {"customer": customer, "dry_run": dry_run}
    answer = await site.client.post("/v1/forget", json=body, params={"tenant": tenant})
    assert answer.status_code == 200, answer.text
    receipt = Receipt.model_validate(answer.json())
    assert (receipt.tenant, receipt.dry_run) == (tenant, dry_run)
    return receipt


def ids(receipt: Receipt) -> set[str]:
    return {call.call_id for call in receipt.calls}


async def test_an_upload_is_its_customers_and_the_reference_is_nowhere(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await upload(site, "a", f" {REFERENCE}")
    by_query = {"participants": "customer", "call_id": "b", "customer": REFERENCE}
    other = await site.client.post("/v1/calls", params=by_query, content=wav(sound(0.5, 8000)))

    assert (answer.status_code, other.status_code) == (202, 202)
    assert keys_with(site.redis_url, REFERENCE) == keys_with(site.redis_url, "1108%15") == set()
    (named,) = {piece.customer for piece in site.fragments()}
    assert named == await site.store.customers.hash("default", REFERENCE)
    async with working(site.redis_url):
        await results(site.redis_url, "a")
    assert keys_with(site.redis_url, "1108%15") == set()
    assert ids(await forget(site, REFERENCE, dry_run=True)) == {"a", "b"}
    assert "1108" not in "".join(record.getMessage() for record in caplog.records if record.name != "httpx")


async def test_live_media_is_its_customers(site: Site, address: str) -> None:
    async with websockets.connect(f"ws://{address}/v1/calls/live/media") as socket:
        await socket.send(json.dumps({"participants": "customer", "content_type": "audio/PCMU", "customer": REFERENCE}))
        await socket.recv()
        assert ids(await forget(site, REFERENCE, dry_run=True)) == {"live"}  # before any media
        await socket.send(bytes(8_000))
        await socket.send('{"end": true}')
        await socket.recv()
    assert keys_with(site.redis_url, "1108%15") == set()
    assert all(piece.customer for piece in site.fragments())


async def test_who_is_forgotten_between_upload_and_analysis_is_forgotten(site: Site) -> None:
    await upload(site, "a", REFERENCE)
    await upload(site, "b", "another")

    assert ids(await forget(site, REFERENCE)) == {"a"}
    async with working(site.redis_url):
        await results(site.redis_url, "b")

    problem(await site.client.get("/v1/calls/a"), 410, "call_deleted")
    problem(await upload(site, "a", REFERENCE), 410, "call_deleted")
    assert (await upload(site, "later", REFERENCE)).status_code == 202
    assert ids(await forget(site, REFERENCE, dry_run=True)) == {"later"}


@pytest.mark.parametrize("reference", AWKWARD)
@pytest.mark.parametrize("by_path", [True, False])
async def test_a_dry_run_says_what_goes_and_the_receipt_what_went(site: Site, reference: str, *, by_path: bool) -> None:
    customer = await site.store.customers.hash("default", reference)
    for call_id, count in (("a", 3), ("b", 1)):
        await site.call(*(result(at * 1000, call_id=call_id) for at in range(count)), call_id=call_id, final=True)
        await site.store.customers.note(CallRef("default", call_id), customer)
    await site.call(result(0, call_id="c"), call_id="c")

    async def ask(*, dry_run: bool) -> Receipt:
        if not by_path:
            return await forget(site, reference, dry_run=dry_run)
        path = f"/v1/customers/{quote(reference, safe='')}"
        answer = await site.client.delete(path, params={"dry_run": str(dry_run).lower()})
        assert answer.status_code == 200, answer.text
        return Receipt.model_validate(answer.json())

    for _ in range(2):
        plan = await ask(dry_run=True)
        assert {call.call_id: call.utterances for call in plan.calls} == {"a": 3, "b": 1}
        assert (plan.dry_run, plan.utterances, plan.remaining) == (True, 4, 0)
    receipt = await ask(dry_run=False)
    assert receipt.calls == plan.calls
    assert (receipt.dry_run, receipt.utterances, receipt.remaining) == (False, 4, 0)
    again = await ask(dry_run=False)
    assert (again.calls, again.utterances, again.remaining) == ([], 0, 0)
    page = (await site.client.get("/v1/calls")).json()
    assert [call["call_id"] for call in page["calls"]] == ["c"]


async def test_each_forgotten_call_stands_in_the_trail_and_a_dry_run_does_not(site: Site) -> None:
    for call_id in ("a", "b"):
        await upload(site, call_id, REFERENCE)
    await forget(site, REFERENCE, dry_run=True)
    assert (await site.store.accesses.page("default")).items == ()
    await forget(site, REFERENCE)
    noted = (await site.store.accesses.page("default")).items
    assert {(one.action, one.call_id) for one in noted} == {("forget", "a"), ("forget", "b")}
    assert REFERENCE not in str(noted)


async def test_a_receipt_names_nobody_and_its_digest_is_of_all_it_says(site: Site) -> None:
    await upload(site, "a", "47110815")
    answer = await site.client.request("DELETE", "/v1/customers/47110815?dry_run=false")

    assert "47110815" not in answer.text
    said = answer.json()
    digest = said.pop("digest")
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    assert await site.store.customers.hash("default", "47110815") not in answer.text


async def test_one_request_forgets_so_many_calls_and_says_that_more_remain(site: Site) -> None:
    customer = await site.store.customers.hash("default", "4711")
    for number in range(CALLS_AT_ONCE_MAX + 3):
        await site.store.customers.note(CallRef("default", f"c{number}"), customer)

    plan = await forget(site, "4711", dry_run=True)
    first, second = await forget(site, "4711"), await forget(site, "4711")

    assert (len(plan.calls), plan.remaining) == (CALLS_AT_ONCE_MAX, 3)
    assert (len(first.calls), first.remaining) == (CALLS_AT_ONCE_MAX, 3)
    assert (len(second.calls), second.remaining) == (3, 0)
    assert not ids(first) & ids(second)


async def test_another_tenants_customer_of_the_same_reference_stays(site: Site) -> None:
    await upload(site, "a", "4711")
    await upload(site, "a", "4711", tenant="acme")

    assert ids(await forget(site, "4711", tenant="acme")) == {"a"}
    assert ids(await forget(site, "4711", tenant="rival")) == set()
    assert ids(await forget(site, "4711", dry_run=True)) == {"a"}


@pytest.mark.parametrize("bad", ["", " ", "47110815\n47110815", "47110815\u200b", "47110815" * 33])
async def test_what_is_no_reference_is_refused_and_not_repeated(site: Site, bad: str) -> None:
    order = {"customer": bad, "dry_run": True}
    answers = [await upload(site, "a", bad), await site.client.post("/v1/forget", json=order)]
    by_path = await site.client.delete(f"/v1/customers/{quote(bad, safe='')}?dry_run=true")

    for answer in answers:
        assert answer.status_code == 422
        assert "256 bytes" in answer.json()["detail"]
    assert by_path.status_code in {404, 422}  # a line feed is in no path
    for answer in (*answers, by_path):
        assert "47110815" not in answer.text
    assert site.fragments() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"47110815", 422),
        (b'"47110815', 422),
        (b"\xff47110815", 422),
        (b'{"customer": "47110815"}', 422),
        (b'{"customer": 47110815, "dry_run": true}', 422),
        (b'{"customer": "47110815", "dry_run": "47110815"}', 422),
        (b'{"customer": "47110815", "dry_run": true, "47110815": 1}', 422),
        (b"[" * 8_000, 422),
        (b" " * (BODY_MAX_BYTES + 1), 413),
    ],
)
async def test_a_bad_order_is_refused(site: Site, body: bytes, status: int) -> None:
    await upload(site, "a", "47110815")
    answer = await site.client.post("/v1/forget", content=body)

    assert answer.status_code == status
    assert ids(await forget(site, "47110815", dry_run=True)) == {"a"}


@pytest.mark.parametrize("query", ["", "?dry_run=maybe", "?dry_run=1"])
async def test_nobody_is_forgotten_unless_that_is_said(site: Site, query: str) -> None:
    await upload(site, "a", "47110815")
    answer = await site.client.delete(f"/v1/customers/47110815{query}")

    assert answer.status_code == 422
    assert "47110815" not in answer.text
    assert ids(await forget(site, "47110815", dry_run=True)) == {"a"}


async def test_errors_and_logs_hold_no_reference(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = Store.connect("unix:///nowhere/s")
    api = create_api(
        store=store,
        producer=LosingProducer(),
        analyse=judge,
        health=never_healthy,
        config=AppConfig(),
        access=Everyone(),
        hosts=frozenset({"t"}),
    )
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        answers = [
            await client.delete("/v1/customers/47110815?dry_run=false"),  # the store is away
            await client.get("/v1/customers/47110815"),  # another method
            await client.post("/v1/customers/47110815/x", headers={"Origin": "http://elsewhere"}),
            await client.delete("/v1/customers/47110815", headers={"Host": "elsewhere"}),
        ]
    await store.close()

    assert [answer.status_code for answer in answers] == [503, 405, 403, 421]
    for answer in answers:
        assert answer.json()["instance"] == "/v1/customers"
        assert "47110815" not in answer.text
    said = [record.getMessage() for record in caplog.records if record.name != "httpx"]
    assert any("DELETE /v1/customers: " in line for line in said)
    assert not [line for line in said if "47110815" in line]


@pytest.mark.slow  # starts Ray
@pytest.mark.ray
def test_no_file_of_ray_serve_holds_a_reference(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="ut-", dir="/tmp") as folder:  # sockets lie in it: a short name
        monkeypatch.setenv("RAY_TMPDIR", folder)
        with gateway_process(redis_url, tmp_path, how="serve") as gateway, httpx.Client(base_url=gateway.url) as client:
            media = {"participants": "customer", "call_id": "a", "customer": "47110815"}
            assert client.post("/v1/calls", params=media, content=wav(sound(0.5, 8000))).status_code == 202
            for path in ("/v1/customers/47110815?dry_run=true", "/v1/customers/47110815"):
                client.delete(path)
            assert client.get("/v1/customers/47110815/no/route").status_code == 405
            assert client.get("/47110815").status_code == 404
            client.post("/v1/forget", json={"customer": "47110815", "dry_run": False})

            def logged() -> list[Path]:
                return [
                    file
                    for file in Path(folder).rglob("*")
                    if file.is_file() and b"DELETE /v1/customers" in file.read_bytes()
                ]

            assert wait_until(logged)  # requests are logged, by their routes
            holding = [
                file
                for file in (*Path(folder).rglob("*"), gateway.log)
                if file.is_file() and b"47110815" in file.read_bytes()
            ]
            assert holding == []
