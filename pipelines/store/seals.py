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

_TRUSTED_S = 600.0
_TRUSTED_MAX = 10_000
_DURABLE_MS = 2_000


class Seals:
    """The seals of one run's calls, which are those of all runs; every method raises `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._keep = client.register_script(lua("seal"))
        self._known: dict[tuple[CallRef, str], tuple[Seal, float]] = {}
        """Seals, and until when they are trusted to be in the store, by the monotonic clock."""

    async def of_call(self, call: CallRef, topic: str, *, trusting: bool = False) -> Seal:
        """The seal for what is written of a call into a topic, made where there is none.

        One that was there some minutes ago is there where a `trusting` caller asks: whoever does must `distrust` once the store
        may have lost it. Of a call that was deleted meanwhile, it seals what nobody opens.

        Raises:
            CallDeletedError: the call was deleted.
        """
        seal = self._trusted(call, topic) if trusting else None
        return seal or self._note(await self._kept(Seal.new(call, topic), anew=False))

    def distrust(self) -> None:
        """The store may be another, or have lost what it had: ask it."""
        self._known.clear()

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
        known = self._trusted(call, topic)
        if known is not None and known.id == seal_id:
            return known
        with redis_errors():
            key = await self._redis.hget(_seals(call, topic), seal_id)
        return None if key is None else self._note(Seal(call, topic, seal_id, bytes.fromhex(key)))

    def _trusted(self, call: CallRef, topic: str) -> Seal | None:
        seal, until_s = self._known.get((call, topic), (None, 0.0))
        return seal if time.monotonic() < until_s else None

    def _note(self, seal: Seal) -> Seal:
        if len(self._known) >= _TRUSTED_MAX:
            self._known.clear()
        self._known[seal.call, seal.topic] = (seal, time.monotonic() + _TRUSTED_S)
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
