"""The seals of calls: the keys to what the log holds of them, which go when a call is forgotten (`pipelines/seal.py`).

They live as long as the log keeps what they open, and a day longer: after that nobody can read it, even where the log, which
deletes whole segments, still has it.
"""

import logging
import time
from contextlib import suppress
from itertools import islice
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from pipelines.errors import CallDeletedError, StoreUnavailableError
from pipelines.seal import Seal
from pipelines.store.client import lua, redis_errors
from pipelines.store.keys import CallKeys
from pipelines.types import RETENTION_DAYS, CallRef

logger = logging.getLogger(__name__)

_TRUSTED_S = 600.0
_TRUSTED_MAX = 10_000
_DURABLE_MS = 2_000


class Seals:
    """The seals of calls, the same for every run; every method raises `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._keep = client.register_script(lua("seal"))
        self._known: dict[tuple[CallRef, str], tuple[Seal, float]] = {}
        """Seals, and until when they are trusted to be in the store, by the monotonic clock."""

    async def of_call(self, call: CallRef, topic: str, *, trusting: bool = False) -> Seal:
        """The seal for what is written of a call into a topic, made where there is none.

        One that was there some minutes ago is there for a `trusting` caller, who must `keep_again` once the store may have lost
        it. Of a call that was deleted meanwhile, it seals what nobody opens.

        Raises:
            CallDeletedError: the call was deleted.
        """
        seal = self._trusted(call, topic) if trusting else None
        return seal or self._note(await self._kept(Seal.new(call, topic), anew=False))

    async def keep_again(self) -> None:
        """Keep every seal that is trusted: the store was started again or replaced, and may have lost what was sealed with them."""
        for seal, _ in list(self._known.values()):
            with suppress(CallDeletedError):
                await self._kept(seal, anew=True)

    async def keep(self, seal: Seal) -> None:
        """Keep a seal that was used, and wait, a second or two at most, until the server's file has it.

        A server that loses its latest writes would else take with it what the log, which is another server, still holds.

        Raises:
            CallDeletedError: the call was deleted.
        """
        if isinstance(self._redis, redis.asyncio.RedisCluster):
            await self._kept(seal, anew=True)
            return
        # WAITAOF waits for what its own connection has written.
        async with self._redis.client() as connection:
            await self._kept(seal, anew=True, connection=connection)
            with redis_errors(), suppress(ResponseError):  # it has no such file
                in_file, _ = await connection.waitaof(1, 0, _DURABLE_MS)
                if not in_file:
                    logger.warning(
                        "the store has not written the seal of %s to its file in %d ms", seal.call, _DURABLE_MS
                    )

    async def find(self, call: CallRef, topic: str, seal_id: str) -> Seal | None:
        """The seal of that id; None where it has gone, or never was."""
        known = self._trusted(call, topic)
        if known is not None and known.id == seal_id:
            return known
        with redis_errors():
            key = await self._redis.hget(_seals(call, topic), seal_id)
        return None if key is None else self._note(_read(call, topic, seal_id, key))

    def _trusted(self, call: CallRef, topic: str) -> Seal | None:
        seal, until_s = self._known.get((call, topic), (None, 0.0))
        return seal if time.monotonic() < until_s else None

    def _note(self, seal: Seal) -> Seal:
        now_s, place = time.monotonic(), (seal.call, seal.topic)
        self._known.pop(place, None)
        self._known[place] = (seal, now_s + _TRUSTED_S)
        for oldest, (_, until_s) in list(
            islice(self._known.items(), 2)
        ):  # in order of time: what is over goes, two for one
            if until_s < now_s or len(self._known) > _TRUSTED_MAX:
                del self._known[oldest]
        return seal

    async def _kept(self, seal: Seal, *, anew: bool, connection: Any = None) -> Seal:
        with redis_errors():
            answer = await self._keep(
                client=connection,
                keys=[_seals(seal.call, seal.topic), CallKeys(seal.call)("deleted")],
                args=[seal.id, seal.key.hex(), (RETENTION_DAYS[seal.topic] + 1) * 86_400, int(anew)],
            )
        if answer == ["deleted"]:
            raise CallDeletedError(f"{seal.call} was deleted")
        return _read(seal.call, seal.topic, *answer)


def _read(call: CallRef, topic: str, seal_id: str, key: str) -> Seal:
    try:
        return Seal(call, topic, seal_id, bytes.fromhex(key))
    except ValueError:
        raise StoreUnavailableError(f"the store holds no key for seal {seal_id!r} of {call}", "refused") from None


def _seals(call: CallRef, topic: str) -> str:
    return CallKeys(call)(f"seals:{topic}")
