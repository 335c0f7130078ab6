import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from pipelines.errors import CallDeletedError, StoreUnavailableError
from pipelines.store.keys import CallKeys
from pipelines.store.ledger import StreamId
from pipelines.store.queries import Digest
from pipelines.store.store import Store
from pipelines.store.trends import fill_trend
from pipelines.types import TOPIC_MEDIA, Coordinates, TranscriptOut
from tests.eventually import eventually
from tests.pipelines.stored import MINUTE_MS, STARTED_MS, acme, advance, result, stored_call
from tests.servers import OwnCluster, OwnRedis

CALL = acme("c")


def every_key(raw: Any) -> list[str]:
    return sorted(raw.scan_iter("*"))


def naming(raw: Any, word: str) -> list[str]:
    """The keys that have a word in their name or in what `DUMP` gives of them."""
    with_bytes = raw.connection_pool.connection_class(
        **raw.connection_pool.connection_kwargs | {"decode_responses": False}
    )
    try:
        with_bytes.connect()
        found = []
        for key in every_key(raw):
            with_bytes.send_command("DUMP", key)
            dumped = with_bytes.read_response()
            if word in key or word.encode() in (dumped or b""):
                found.append(key)
        return found
    finally:
        with_bytes.disconnect()


async def test_nothing_names_a_deleted_call_but_its_tombstone(store: Store, raw: Any) -> None:
    call = acme("call-to-forget")
    await stored_call(store, "another", STARTED_MS, 1.0)
    await store.seals.of_call(call, TOPIC_MEDIA)
    await store.ledger.reserve_stream(call, "main", "word", first=True)
    await store.ledger.reserve_stream(call, "never-opened", "word", first=True)
    await stored_call(store, call.call_id, STARTED_MS, -1.0)
    await store.ledger.note_open(0, StreamId(call, "main"))
    await store.ledger.note_dead_letter(call, Coordinates(0, 7), "killed")
    replayed = store.of_run("again")
    await stored_call(replayed, call.call_id, STARTED_MS, -1.0)
    await replayed.ledger.note_open(0, StreamId(call, "main"))
    # A worker died after it had filled the bucket, before it stored the result.
    unstored = result(2 * MINUTE_MS, call.call_id)
    await fill_trend(store._redis, CallKeys(call), unstored, Digest.of(unstored).write(), 1000)
    others = set(naming(raw, "another"))
    assert len(naming(raw, call.call_id)) > 10

    assert await store.delete_call(call)

    assert naming(raw, call.call_id) == ["ut:{acme/call-to-forget}:deleted"]
    assert set(naming(raw, "another")) == others
    assert not await store.delete_call(acme("never-was"))


async def test_a_deletion_that_broke_off_is_ended_by_the_next(store: Store, raw: Any) -> None:
    await stored_call(store, "c", STARTED_MS, 1.0)
    await store.seals.of_call(CALL, TOPIC_MEDIA)
    raw.set("ut:{acme/c}:deleted", "1")
    raw.delete("ut:{acme/c}:seals:call-media")
    assert await store.delete_call(CALL)
    assert naming(raw, "acme/c") == ["ut:{acme/c}:deleted"]


def text_in(folder: Path, word: str) -> bool:
    return any(word.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


async def said(store: Store, words: str) -> None:
    """A call in which these words are stored."""
    await store.open_stream(CALL, "main", "w1", STARTED_MS)
    transcript = TranscriptOut(text=words, language="en", engine="test", reliable=True)
    await advance(store, result(0).model_copy(update={"transcript": transcript}), 0, 16_000)


async def test_the_servers_file_is_written_anew_after_a_deletion(folder: Path) -> None:
    server = OwnRedis(folder, "--appendonly", "yes")
    store = Store.connect(server.url)
    await said(store, "confidential words")
    seal = await store.seals.of_call(CALL, TOPIC_MEDIA)
    await eventually(lambda: text_in(folder, "confidential words") and text_in(folder, seal.key.hex()))
    await store.rewrite_file()
    assert text_in(folder, "confidential words")

    assert await store.delete_call(CALL)
    assert text_in(folder, "confidential words")

    async def rewritten() -> bool:
        await store.rewrite_file()
        return not text_in(folder, "confidential words") and not text_in(folder, seal.key.hex())

    await eventually(rewritten)
    await eventually(lambda: _settled(store))
    await store.close()
    server.kill()


async def _settled(store: Store) -> bool:
    try:
        await store.rewrite_file()
    except StoreUnavailableError:  # it was just started again
        return False
    return await store._redis.get("ut:rewrite") is None


async def test_what_is_deleted_while_the_file_is_written_anew_has_it_written_once_more(folder: Path) -> None:
    server = OwnRedis(folder, "--appendonly", "yes")
    store, other = Store.connect(server.url), Store.connect(server.url)
    await said(store, "confidential words")
    await stored_call(store, "first", STARTED_MS, 1.0)
    await store.delete_call(acme("first"))
    await asyncio.gather(store.rewrite_file(), other.rewrite_file())  # begun, by one of two
    await store.delete_call(CALL)

    async def settled() -> bool:
        return any(await asyncio.gather(_settled(store), _settled(other)))

    await eventually(settled)
    await eventually(lambda: not text_in(folder, "confidential words"))
    for one in (store, other):
        await one.close()
    server.kill()


async def test_a_server_that_dies_while_it_writes_its_file_begins_again(folder: Path) -> None:
    server = OwnRedis(folder, "--appendonly", "yes")
    store = Store.connect(server.url)
    await said(store, "confidential words")
    with redis.Redis.from_url(server.url) as client:
        for number in range(100):
            client.set(f"filler:{number}", "x")
        client.config_set("rdb-key-save-delay", 1_000_000)  # a second a key
        await store.delete_call(CALL)
        await store.rewrite_file()
        await eventually(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 1)
    server.restart()
    assert text_in(folder, "confidential words")
    await eventually(lambda: _settled(store))
    assert not text_in(folder, "confidential words")
    await store.close()
    server.kill()


async def test_every_primary_of_a_cluster_writes_its_file_anew(shared_cluster: OwnCluster, redis_cluster: str) -> None:
    store = Store.connect(redis_cluster)
    for port in shared_cluster.ports:
        with redis.Redis(port=port) as primary:
            primary.config_set("appendonly", "yes")
    try:
        await said(store, "confidential words")
        await store.delete_call(CALL)
        await eventually(lambda: _settled(store))
        for port in shared_cluster.ports:
            with redis.Redis(port=port, decode_responses=True) as primary:
                folder = Path(primary.config_get("dir")["dir"]) / primary.config_get("appenddirname")["appenddirname"]
            assert not text_in(folder, "confidential words")
    finally:
        for port in shared_cluster.ports:
            with redis.Redis(port=port) as primary:
                primary.config_set("appendonly", "no")
        await store.close()


async def test_a_deletion_that_broke_off_before_its_end_has_the_file_written_anew_by_the_next(
    store: Store, raw: Any
) -> None:
    raw.set("ut:{acme/c}:deleted", "erasing")  # all is erased, and the mark was not set
    assert await store.holds(CALL)
    assert await store.delete_call(CALL)
    assert raw.get("ut:rewrite")
    assert raw.get("ut:{acme/c}:deleted") == "erased"
    assert not await store.holds(CALL)
    assert not await store.delete_call(CALL)


async def test_what_comes_after_a_deletion_leaves_nothing(store: Store, raw: Any) -> None:
    await stored_call(store, "c", STARTED_MS, 1.0)
    await store.delete_call(CALL)
    with pytest.raises(CallDeletedError):
        await store.ledger.note_dead_letter(CALL, Coordinates(0, 7), "killed")
    with pytest.raises(CallDeletedError):
        await store.ledger.reserve_stream(CALL, "main", "word", first=True)
    assert naming(raw, "acme/c") == ["ut:{acme/c}:deleted"]


async def test_a_server_without_a_file_or_that_may_not_is_left_as_it_is(
    store: Store, raw: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await said(store, "words")
    await store.delete_call(CALL)
    await store.rewrite_file()
    assert raw.get("ut:rewrite") is None
    assert not caplog.records

    server = OwnRedis(folder, "--appendonly", "yes")
    guarded = Store.connect(server.url)
    await said(guarded, "words")
    await guarded.delete_call(CALL)
    await guarded._redis.execute_command("ACL", "SETUSER", "default", "-bgrewriteaof")
    await guarded.rewrite_file()
    assert "BGREWRITEAOF" in caplog.text
    assert await guarded._redis.get("ut:rewrite") is None
    await guarded.close()
    server.kill()
