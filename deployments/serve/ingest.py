"""The ingest replica: a group member that reads fragments and asks the networks."""

import asyncio
import logging
import os

from deployments.serve.autoscaling import LAG_RECORDS, OLDEST_AGE_S, PARTITIONS
from deployments.serve.stages import Handles, idle_transcriber, served_analyser
from pipelines.ingest.worker import Worker, owner_name
from pipelines.log.choose import open_producer, open_source
from pipelines.log.producer import Producer
from pipelines.log.source import Source, oldest_age_s
from pipelines.settings import AppConfig, Settings, with_live_tenants
from pipelines.store.store import Store

logger = logging.getLogger(__name__)


class Ingest:
    """One worker in a Serve replica. Replicas are members of one consumer group, so partitions spread over them."""

    async def __init__(self, config: AppConfig, handles: Handles) -> None:  # type: ignore[misc]  # Serve awaits it
        settings = Settings()
        store = Store.connect(settings.redis.get_secret_value(), config.run)
        if not config.is_live:  # a shadow asks no tenant for more than the live service did when it began
            config = with_live_tenants(config, await store.service.tenants())
        loop = asyncio.get_running_loop()
        source: Source = await loop.run_in_executor(None, open_source, config, settings)
        producer: Producer = await loop.run_in_executor(None, open_producer, config, settings)
        owner = owner_name()
        self._worker = Worker(
            source=source,
            producer=producer,
            store=store,
            analyse=served_analyser(config, handles),
            transcribe=idle_transcriber(handles),
            config=config,
            owner=owner,
        )
        self._running = loop.create_task(self._worker.run())
        logger.info("ingest worker %s reads from %s into %s", owner, config.source, config.run)

    async def check_health(self) -> None:
        """Unhealthy when the loop has ended or stands still; Serve then replaces the replica."""
        self._worker.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `LagPolicy` scales on."""
        backlog = self._worker.backlog
        return {
            LAG_RECORDS: float(sum(waiting.lag_records for waiting in backlog.values())),
            OLDEST_AGE_S: oldest_age_s(backlog),
            PARTITIONS: float(len(backlog)),
        }

    async def pid(self) -> int:
        """The replica's process, for tests that kill it."""
        return os.getpid()

    async def __del__(self) -> None:
        """End the loop and leave the group, so that a successor starts at once."""
        self._worker.stop()
        await asyncio.wait([self._running], timeout=10)
