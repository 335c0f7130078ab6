"""The seals of calls: the keys to what the log holds of them, which go when a call is forgotten (`pipelines/seal.py`).

They live as long as the log keeps what they open, and a day longer: after that nobody can read it, even where the log, which
deletes whole segments, still has it.
"""

import time
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisClusterException, ResponseError

from pipelines.errors import CallDeletedError
from pipelines.seal import Seal
from pipelines.store.client import lua, redis_errors
from pipelines.store.keys import CallKeys
from pipelines.types import RETENTION_DAYS, CallRef

TRUSTED_S = 600.0
"""How long a seal is used without asking for it again. Of a call that is forgotten meanwhile, it seals what nobody opens."""
_TRUSTED_MAX = 10_000
_DURABLE_MS = 2_000


class Seals:
    """The seals of one run's calls, which are those of all runs; every method raises `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._keep = client.register_script(lua("seal"))
        self._trusted: dict[tuple[CallRef, str], tuple[Seal, float]] = {}

    async def of_call(self, call: CallRef, topic: str) -> Seal:
        """The seal for what is written of a call into a topic, made where there is none.

        Raises:
            CallDeletedError: the call was deleted.
        """
        seal, until_s = self._trusted.get((call, topic), (None, 0.0))
        if seal is None or time.monotonic() > until_s:
            seal = self._trust(await self._kept(Seal.new(call, topic), anew=False))
        return seal

    async def keep(self, seal: Seal) -> None:
        """Keep a seal that was used, and wait, a second or two at most, until the server's file has it.

        A server that loses its latest writes would else take with it what the log, which is another server, still holds.

        Raises:
            CallDeletedError: the call was deleted.
        """
        await self._kept(seal, anew=True)
        with redis_errors(), suppress(ResponseError, RedisClusterException):  # it has no such file, or is a Cluster
            await self._redis.waitaof(1, 0, _DURABLE_MS)

    async def find(self, call: CallRef, topic: str, seal_id: str) -> Seal | None:
        """The seal of that id; None where it has gone, or never was."""
        trusted, until_s = self._trusted.get((call, topic), (None, 0.0))
        if trusted is not None and trusted.id == seal_id and time.monotonic() < until_s:
            return trusted
        with redis_errors():
            key = await self._redis.hget(_seals(call, topic), seal_id)
        return None if key is None else self._trust(Seal(call, topic, seal_id, bytes.fromhex(key)))

    def _trust(self, seal: Seal) -> Seal:
        if len(self._trusted) >= _TRUSTED_MAX:
            self._trusted.clear()
        self._trusted[seal.call, seal.topic] = (seal, time.monotonic() + TRUSTED_S)
        return seal

    async def _kept(self, seal: Seal, *, anew: bool) -> Seal:
        with redis_errors():
            answer = await self._keep(
                keys=[_seals(seal.call, seal.topic), CallKeys(seal.call)("deleted")],
                args=[seal.id, seal.key.hex(), (RETENTION_DAYS[seal.topic] + 1) * 86_400, int(anew)],
            )
        if answer == ["deleted"]:
            raise CallDeletedError(f"{seal.call} was deleted")
        seal_id, key = answer
        return Seal(seal.call, seal.topic, seal_id, bytes.fromhex(key))


def _seals(call: CallRef, topic: str) -> str:
    return CallKeys(call)(f"seals:{topic}")
