"""Words of utterances that go on, from the workers to whoever watches at that moment: published in Redis, which keeps none.

`PUBLISH` and `SUBSCRIBE` reach all nodes of a Cluster, whichever they are sent to. A user of Redis 7 needs the channels too:
`&ut:interim:*`.
"""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pydantic import ValidationError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pipelines.store.client import redis_errors
from pipelines.store.keys import interim_channel
from pipelines.store.queries import InterimText

logger = logging.getLogger(__name__)

WAIT_S = 3.0
"""After so long without a text the server is asked whether it is there; less than the time-out of the socket."""


class InterimTexts:
    """The interim texts of one run; both methods raise `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any, run: str) -> None:
        """`run` is the name under which results are written."""
        self._redis, self._run = client, run

    async def publish(self, tenant: str, text: InterimText) -> None:
        """Pass it on to all who follow the tenant now."""
        with redis_errors():
            await self._redis.publish(interim_channel(self._run, tenant), text.model_dump_json())

    async def follow(self, tenant: str) -> AsyncGenerator[InterimText, None]:
        """Those of the tenant's calls that are published from now on, without an end; what is none is left out."""
        with redis_errors():
            await self._redis.initialize()  # else a Cluster does not know its slots yet
            async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.subscribe(interim_channel(self._run, tenant))
                async for data in _published(subscription):
                    try:
                        text = InterimText.model_validate_json(data)
                    except ValidationError:
                        logger.warning("what was published for %s is no interim text", tenant)
                    else:
                        yield text


async def _published(subscription: Any) -> AsyncIterator[str]:
    """What comes of it. A connection whose other end is gone is silent like a quiet tenant's, so it is asked after `WAIT_S`.

    Raises:
        RedisError: the connection is torn, or the server answers nothing for twice that long.
    """
    asked = False
    while True:
        begun_s = time.monotonic()
        message = await subscription.get_message(timeout=WAIT_S)
        # The answers to SUBSCRIBE and PING come as None too, but at once.
        silent = message is None and time.monotonic() - begun_s > WAIT_S / 2
        if silent and asked:
            raise RedisTimeoutError("no answer to PING")
        if silent:
            await subscription.ping()
        asked = silent
        if message is not None and message["type"] == "message":
            yield message["data"]
