"""What all Redis code shares: one error, with its cause; scripts; chunks. Connecting is in test_store and test_store_cluster."""

from typing import get_args

import pytest
import redis.asyncio
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from pipelines.errors import StoreTrouble, StoreUnavailableError
from pipelines.store.client import CHUNK, chunks, connect, lua, redis_errors


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RedisConnectionError("refused"), "away"),
        (RedisTimeoutError("slow"), "away"),
        (ConnectionResetError("reset"), "away"),
        (ClusterDownError("down"), "away"),
        (BusyLoadingError("loading"), "away"),
        (OutOfMemoryError("OOM"), "out_of_memory"),
        (ResponseError("script: OOM command not allowed when used memory > 'maxmemory'"), "out_of_memory"),
        (ReadOnlyError("replica"), "read_only"),
        (ResponseError("script: READONLY You can't write against a read only replica."), "read_only"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "refused"),
        (NoPermissionError("no permissions"), "refused"),
    ],
)
def test_every_error_of_redis_says_whether_to_wait_to_repair_or_to_make_room(error: Exception, cause: str) -> None:
    with pytest.raises(StoreUnavailableError) as unavailable, redis_errors():
        raise error
    assert unavailable.value.cause == cause
    assert cause in get_args(StoreTrouble)


def test_an_error_of_the_code_stays_itself() -> None:
    with pytest.raises(KeyError), redis_errors():
        raise KeyError("ours")


def test_a_url_names_a_server_or_any_node_of_a_cluster() -> None:
    assert isinstance(connect("redis://127.0.0.1:1"), redis.asyncio.Redis)
    assert isinstance(connect("redis+cluster://127.0.0.1:1"), redis.asyncio.RedisCluster)
    assert connect("rediss+cluster://127.0.0.1:1").connection_kwargs["connection_class"].__name__ == "SSLConnection"


def test_a_script_comes_with_the_functions_it_calls() -> None:
    assert "local function set_state" in lua("set_state", before="call_state")
    assert "local function" not in lua("attempt")


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_hold_everything_in_order(count: int) -> None:
    parts = list(chunks(range(count)))
    assert [item for part in parts for item in part] == list(range(count))
    assert all(1 <= len(part) <= CHUNK for part in parts)
