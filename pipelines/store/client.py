"""What all Redis code here shares: connecting to a server or a Cluster, scripts, chunks, one error."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from pipelines.errors import StoreTrouble, StoreUnavailableError

T = TypeVar("T")

CHUNK = 100
"""How many keys, calls or events one command takes at most: Redis serves nothing else during a long one."""
CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_SOCKET_TIMEOUT_S = 5.0
_PROBES = 200
"""Enough names that each primary of a Cluster of a few dozen owns some."""
_CONNECTIONS_MAX = 10_000  # one for each watcher of a live call


def connect(url: str) -> Any:  # redis-py types each reply as a union of all protocols
    """An asyncio client of `redis://…`, `rediss://…`, `unix://…`, or a Cluster; it connects at the first use.

    `redis+cluster://host:port` names any node of a Cluster (`rediss+cluster://` with TLS); the others are asked for.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",
        "socket_timeout": _SOCKET_TIMEOUT_S,
        "socket_connect_timeout": _SOCKET_TIMEOUT_S,
        "max_connections": _CONNECTIONS_MAX,
    }
    parts = urlsplit(url)
    if parts.scheme in CLUSTER_SCHEMES:
        plain = urlunsplit(parts._replace(scheme=CLUSTER_SCHEMES[parts.scheme]))
        return redis.asyncio.RedisCluster.from_url(plain, **options)
    return redis.asyncio.Redis.from_url(url, **options)


async def ping(client: Any) -> None:
    """Return if the server behind `client` answers who comes anew; in a Cluster, who is connected already.

    A connection that is open says nothing of the next: its server may have lost its socket, or its place to another one.
    """
    if isinstance(client, redis.asyncio.RedisCluster):
        await client.ping()
        return
    pool = client.connection_pool
    connection = pool.connection_class(**(pool.connection_kwargs | {"retry": Retry(NoBackoff(), 0)}))
    try:
        await connection.connect()
        await connection.send_command("PING")
        await connection.read_response()
    finally:
        await connection.disconnect()


async def epoch(client: Any) -> str:
    """The run ids of the servers behind `client`; each changes when its server restarts.

    Raises:
        ReadOnlyError: one of them is a replica, so that what it answers may be old.
    """
    told = await servers(client)
    if any(server["role"] != "master" for server in told):
        raise ReadOnlyError("it has become a replica")
    return run_ids(told)


async def servers(client: Any) -> list[dict[str, Any]]:
    """What each server behind `client` that takes writes tells of itself (`INFO`)."""
    if not isinstance(client, redis.asyncio.RedisCluster):
        return [await client.info()]
    told = await client.info(target_nodes=redis.asyncio.RedisCluster.PRIMARIES)
    return [told] if "run_id" in told else list(told.values())  # one primary answers for itself


def run_ids(told: Sequence[Mapping[str, Any]]) -> str:
    """The run ids of servers, by what they tell of themselves."""
    return " ".join(sorted(server["run_id"] for server in told))


async def clock_ms(client: Any) -> int:
    """What time it is behind `client`, ms since 1970: of a Cluster's servers, the clock that is furthest behind."""
    if isinstance(client, redis.asyncio.RedisCluster):
        told = await client.time(target_nodes=redis.asyncio.RedisCluster.PRIMARIES)
        times = list(told.values()) if isinstance(told, dict) else [told]
    else:
        times = [await client.time()]
    return min(seconds * 1000 + microseconds // 1000 for seconds, microseconds in times)


async def probe(client: Any, key: str) -> None:
    """Write something to every server behind `client` that takes writes; it is gone after a minute."""
    names = {key}
    if isinstance(client, redis.asyncio.RedisCluster):
        await client.initialize()
        owners = {client.get_node_from_key(name): name for name in (f"{key}:{number}" for number in range(_PROBES))}
        names = set(owners.values())
    for name in names:
        await client.set(name, "1", ex=60)


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turns redis-py's errors into `StoreUnavailableError`, whose `cause` says whether to wait, to repair or to make room."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        cause, remedy = _trouble(error)
        raise StoreUnavailableError(f"Redis: {error}; {remedy}", cause) from error


def _trouble(error: Exception) -> tuple[StoreTrouble, str]:
    # An error within a script comes as a plain ResponseError with the original in its text.
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
        return "out_of_memory", "raise maxmemory, or lower results_ttl_s"
    if isinstance(error, ReadOnlyError) or "READONLY" in str(error):
        return "read_only", "point UNDERTONE_REDIS at the primary"
    if isinstance(error, ResponseError) and not isinstance(error, ClusterError | AskError):
        return "refused", "see the server's log: a full disk, say, or too few replicas"
    return "away", "check UNDERTONE_REDIS and the server"


@cache
def lua(name: str, *, before: str = "") -> str:
    """The script of that name in `lua/`, with another one's functions before it."""
    return "".join((files("pipelines.store") / "lua" / f"{one}.lua").read_text() for one in (before, name) if one)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in order, at most `CHUNK` at a time."""
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
