"""How many ingest replicas the backlog asks for. Imports nothing heavy: Serve's controller runs this."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

LAG_RECORDS, OLDEST_AGE_S, PARTITIONS = "lag_records", "oldest_age_s", "partitions"


class LagPolicy:
    """Scale on Kafka lag and on the age of the oldest fragment.

    A bounded consumer holds its backlog back in the log, where request-based autoscaling cannot see it (docs/architecture.md#ray-serve-and-kafka-measured).
    Fragments older than `age_max_s` ask for one replica more at a time, whatever the lag; more replicas than
    partitions would be idle.
    """

    def __init__(self, records_per_replica: int = 200, age_max_s: float = 5.0) -> None:
        if records_per_replica < 1 or age_max_s <= 0:
            raise ValueError("records_per_replica must be at least 1 and age_max_s above 0")
        self._records_per_replica = records_per_replica
        self._age_max_s = age_max_s

    def __call__(self, context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        """The number of replicas wanted, and no state."""
        measured = context.aggregated_metrics or {}
        lag_records = sum(measured.get(LAG_RECORDS, {}).values())
        oldest_age_s = max(measured.get(OLDEST_AGE_S, {}).values(), default=0.0)
        partitions = int(sum(measured.get(PARTITIONS, {}).values()))
        wanted = math.ceil(lag_records / self._records_per_replica)
        if oldest_age_s > self._age_max_s:
            wanted = max(wanted, context.current_num_replicas + 1)
        if partitions:
            wanted = min(wanted, partitions)
        lowest, highest = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(lowest, min(highest, wanted)), {}
