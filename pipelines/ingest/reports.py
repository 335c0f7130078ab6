"""What a worker does for the whole service every few seconds, besides its records: metrics, tenants' settings, the store's file."""

import logging
from collections.abc import Mapping

from prometheus_client import generate_latest

from pipelines.errors import StoreUnavailableError
from pipelines.ingest.context import WorkerContext
from pipelines.log.source import Backlog, oldest_age_s

logger = logging.getLogger(__name__)

METRICS_INTERVAL_S = 2.0
METRICS_TTL_S = 15


async def report(context: WorkerContext, backlog: Mapping[int, Backlog]) -> None:
    """Leave this worker's metrics in the store, by partition how far it is behind.

    The live service's workers also leave the settings of its tenants, so that a store that was replaced has them again, and
    have the store's file written anew where calls were deleted. What fails is tried again the next time.
    """
    context.metrics.lag_records.clear()
    for partition, waiting in backlog.items():
        context.metrics.lag_records.labels(str(partition)).set(waiting.lag_records)
    context.metrics.oldest_fragment_age_seconds.set(oldest_age_s(backlog))
    text = generate_latest(context.metrics.registry).decode()
    try:
        await context.store.service.publish_metrics(context.owner, text, METRICS_TTL_S)
        if context.config.is_live:
            await context.store.service.set_tenants(context.config.tenants_text())
            await context.store.rewrite_file()
    except StoreUnavailableError as error:
        logger.warning("metrics could not be published: %s", error)
