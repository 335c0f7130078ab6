"""`build(args) -> Application`: the deployments and how they hang together.

The options here fit one laptop. On a cluster, replicas, GPUs and autoscaling stand in the Serve config file
(`deployments/serve.yaml`), which overrides them by deployment name.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from deployments.serve.encoders import NetworkReplica, Role
from deployments.serve.gateway import Gateway
from deployments.serve.ingest import Ingest
from deployments.serve.stages import Handles
from pipelines.settings import AppConfig

APP_NAME = "undertone"

# A batch of 16 needs far more than Serve's default of 5 ongoing requests to fill (docs/architecture.md#ray-serve-and-kafka-measured).
NETWORK_OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": 64,
    "ray_actor_options": {"num_cpus": 0.1},
    "health_check_period_s": 10,
    "health_check_timeout_s": 60,
    "graceful_shutdown_timeout_s": 30,
}
# Serve sees that a process is gone at its next check. A worker that is replaced before the group's session is over (6 s)
# inherits; one that comes later makes the survivors take partitions over and give them up again.
LOOP_OPTIONS: dict[str, Any] = {**NETWORK_OPTIONS, "max_ongoing_requests": 256, "health_check_period_s": 1}
# More than it admits itself (`AppConfig.http`), so that a request over its limit is refused, and health is always told.
GATEWAY_OPTIONS: dict[str, Any] = {**LOOP_OPTIONS, "max_ongoing_requests": 2_000}


def build(args: AppConfig) -> Application:
    """The whole application; Serve validates `args:` against `AppConfig` and refuses unknown keys."""
    handles = _networks(args)
    ingest = _deployment(Ingest, "Ingest", LOOP_OPTIONS).bind(args, handles)
    return _deployment(serve.ingress()(Gateway), "Gateway", GATEWAY_OPTIONS).bind(args, handles, ingest)


def build_shadow(args: AppConfig) -> Application:
    """Networks and workers without HTTP: another bundle that judges a share of the live calls under a name of its own.

    Raises:
        ValueError: `args.run` is `live`.
    """
    if args.is_live:
        raise ValueError("a shadow needs a name for its results: set `run` to another one than live")
    return _deployment(Ingest, "Ingest", LOOP_OPTIONS).bind(args, _networks(args))


def _networks(args: AppConfig) -> Handles:
    def network(name: str, role: Role) -> Any:
        return _deployment(NetworkReplica, name, NETWORK_OPTIONS).bind(role, args)

    return Handles(
        transcriber=network("Transcriber", "transcriber"),
        text=network("TextEncoder", "text"),
        audio=network("AudioEncoder", "audio"),
        video=network("VideoEncoder", "video"),
        fusion=network("Fusion", "fusion"),
    )


def _deployment(replica: type, name: str, options: Mapping[str, Any]) -> Deployment:
    decorated: Any = serve.deployment(replica)
    deployment: Deployment = decorated.options(name=name, **options)
    return deployment
