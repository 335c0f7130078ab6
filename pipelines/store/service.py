"""What a running service tells of itself: the metrics of its workers, and the settings of its tenants."""

import time
from typing import Any

from pipelines.store.client import redis_errors
from pipelines.store.keys import TENANTS, worker_key, workers_key


class ServiceNotes:
    """The notes of one run; every method raises `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any, run: str) -> None:
        """`run` is the name under which results are written."""
        self._redis, self._run = client, run

    async def set_tenants(self, text: str) -> None:
        """Leave the settings of the live service's tenants (`AppConfig.tenants_text`): replays and shadows go by them."""
        with redis_errors():
            await self._redis.set(TENANTS, text)

    async def tenants(self) -> str | None:
        """What the live service has left with `set_tenants`; None before it has."""
        with redis_errors():
            found: str | None = await self._redis.get(TENANTS)
        return found

    async def publish_metrics(self, worker_id: str, text: str, ttl_s: int) -> None:
        """Leave a worker's metrics, Prometheus text, for `ttl_s`."""
        now_ms = time.time() * 1000
        with redis_errors():
            pipe = self._redis.pipeline(transaction=True)
            pipe.set(worker_key(self._run, worker_id), text, ex=ttl_s)
            pipe.zadd(workers_key(self._run), {worker_id: now_ms + ttl_s * 1000})
            pipe.zremrangebyscore(workers_key(self._run), "-inf", now_ms)
            await pipe.execute()

    async def metrics(self) -> dict[str, str]:
        """What each living worker left last."""
        with redis_errors():
            workers = await self._redis.zrange(workers_key(self._run), 0, -1)
            texts = await self._redis.mget([worker_key(self._run, worker) for worker in workers]) if workers else []
        return {worker: text for worker, text in zip(workers, texts, strict=True) if text is not None}
