from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingContext

from deployments.serve.autoscaling import LAG_RECORDS, OLDEST_AGE_S, PARTITIONS, LagPolicy


def context(replicas: int, lag: list[float], age: float = 0, partitions: int = 12) -> AutoscalingContext:
    measured = {
        LAG_RECORDS: {str(index): value for index, value in enumerate(lag)},
        OLDEST_AGE_S: {"0": age},
        PARTITIONS: {"0": float(partitions)},
    }
    given: dict[str, Any] = {
        "deployment_id": None,
        "deployment_name": "Ingest",
        "app_name": "undertone",
        "current_num_replicas": replicas,
        "target_num_replicas": replicas,
        "running_replicas": [],
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": measured,
        "raw_metrics": {},
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 8,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 0.0,
        "config": SimpleNamespace(),
    }
    return AutoscalingContext(**given)


@pytest.mark.parametrize(
    ("asked", "replicas"),
    [
        (context(1, [0.0]), 1),
        (context(2, [300.0, 301.0]), 4),
        (context(1, [10_000.0]), 8),
        (context(3, [10_000.0], partitions=5), 5),
        (context(2, [10.0], age=9), 3),
        (context(8, [10.0], age=9), 8),
    ],
)
def test_replicas_follow_the_lag_and_the_age_within_bounds(asked: AutoscalingContext, replicas: int) -> None:
    assert LagPolicy(records_per_replica=200, age_max_s=5)(asked) == (replicas, {})


def test_without_figures_the_minimum_serves() -> None:
    asked = context(4, [])
    asked._aggregated_metrics_value = None
    assert LagPolicy()(asked)[0] == 1


def test_nonsense_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="records_per_replica"):
        LagPolicy(records_per_replica=0)
