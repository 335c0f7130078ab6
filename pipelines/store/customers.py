"""Which calls are whose, by a keyed hash of the customer's reference, so that all calls of a customer can be forgotten at once."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

from pipelines.customer import KEY_BYTES, hash_reference, parse_reference
from pipelines.errors import CallDeletedError
from pipelines.store.client import lua, redis_errors
from pipelines.store.deletion import delete_call
from pipelines.store.keys import CallKeys, customer_key, customer_secret_key
from pipelines.types import LIVE_RUN, RETENTION_DAYS, START_MAX_MS, CallRef

_LOGGED_S = (max(RETENTION_DAYS.values()) + 1) * 86_400
"""A day longer than any topic of the log keeps a record of a call."""
_CALL_MAX_S = START_MAX_MS // 1000
"""How long a call may go on, and what is kept of it be kept anew, after it was noted whose it is."""


@dataclass(frozen=True, slots=True)
class CustomerCall:
    """A call of a customer, and how many utterances of it are stored, those of replays and shadows included."""

    call_id: str
    utterances: int


class Customers:
    """The customers' calls, of all runs; every method raises `StoreUnavailableError` as `Store`'s do.

    A reference is used here to hash it, and goes no further. The tenant's key is asked for each time: one that a process
    remembered over the loss of the store would make hashes that nobody else makes.
    """

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._note_script = client.register_script(lua("customer"))

    async def hash(self, tenant: str, reference: str) -> str:
        """The keyed hash of a reference, of this tenant alone; the tenant's key is made where there is none.

        Raises:
            BadFragmentError: it is none (`customer.parse_reference`); the message does not repeat it.
        """
        parsed, fresh = parse_reference(reference), secrets.token_hex(KEY_BYTES)
        with redis_errors():
            kept = await self._redis.set(customer_secret_key(tenant), fresh, nx=True, get=True)
        return hash_reference(bytes.fromhex(kept or fresh), parsed)

    async def note(self, call: CallRef, customer: str, ttl_s: int = 0) -> None:
        """Note whose call it is, before anything of it is kept anywhere; again only prolongs it.

        `customer` is the keyed hash; `ttl_s` is how long results are kept. Who fails in the middle has kept nothing yet, and
        notes it again.

        Raises:
            CallDeletedError: the call was deleted.
        """
        kept_s = max(_LOGGED_S, ttl_s) + _CALL_MAX_S
        keys, index, now_s = CallKeys(call), customer_key(call.tenant, customer), int(time.time())
        with redis_errors():
            # 1. In the call's slot, so that whoever deletes the call finds the index.
            answer = await self._note_script(keys=[keys("deleted"), keys("customers")], args=[customer, kept_s])
            if answer == "deleted":
                raise CallDeletedError(f"{call} was deleted")
            # 2. The index, which has a slot of its own; what nothing is kept of any more leaves it.
            pipe = self._redis.pipeline(transaction=True)
            pipe.zadd(index, {call.call_id: now_s + kept_s}, gt=True)
            pipe.zremrangebyscore(index, "-inf", now_s)
            pipe.expire(index, kept_s, nx=True)
            pipe.expire(index, kept_s, gt=True)
            await pipe.execute()

    async def count(self, tenant: str, customer: str) -> int:
        """How many calls of the customer there are; a call that came to nothing counts until its entry expires."""
        with redis_errors():
            return int(await self._redis.zcount(customer_key(tenant, customer), int(time.time()), "+inf"))

    async def calls(self, tenant: str, customer: str, limit: int) -> list[CustomerCall]:
        """At most `limit` of the customer's calls, those first of which nothing will be kept first."""
        index = customer_key(tenant, customer)
        with redis_errors():
            ids = await self._redis.zrangebyscore(index, int(time.time()), "+inf", start=0, num=limit)
            return [CustomerCall(name, await self.utterances(CallRef(tenant, name))) for name in ids]

    async def forget(self, call: CallRef, customer: str) -> None:
        """Delete a call of the customer, also one that is still to be read from the log; again goes on after an error."""
        with redis_errors():
            await delete_call(self._redis, call, expected=True)
            await self._redis.zrem(customer_key(call.tenant, customer), call.call_id)

    async def utterances(self, call: CallRef) -> int:
        """How many utterances of a call would go with it: those of replays and shadows too."""
        with redis_errors():
            runs = [LIVE_RUN, *await self._redis.smembers(CallKeys(call)("runs"))]
            return sum([int(await self._redis.hlen(CallKeys(call, run)("results"))) for run in runs])
