from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with Ray; its stubs would be one more dependency
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.serve import app
from pipelines.log import kafka_source as source
from pipelines.settings import AppConfig, HttpSettings

CONFIG = Path(app.__file__).parents[1] / "serve.yaml"
DEPLOYMENTS = {"Transcriber", "TextEncoder", "AudioEncoder", "VideoEncoder", "Fusion", "Ingest", "Gateway"}


@pytest.fixture
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return found


def test_the_serve_config_file_is_one_that_serve_takes(config: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(config)
    assert {deployment.name for deployment in schema.applications[0].deployments} == DEPLOYMENTS


def test_its_args_are_a_configuration(config: dict[str, Any]) -> None:
    assert AppConfig.model_validate(config["applications"][0]["args"]).source == "kafka"


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="sourse"):
        AppConfig.model_validate({"sourse": "kafka"})


def test_every_deployment_is_built_by_the_name_that_the_file_overrides() -> None:
    gateway: Any = app.build(AppConfig())
    names = {gateway._bound_deployment.name}
    _, handles, ingest = gateway._bound_deployment.init_args
    bound = [handles.transcriber, handles.text, handles.audio, handles.video, handles.fusion, ingest]
    assert names | {one._bound_deployment.name for one in bound} == DEPLOYMENTS


def test_a_dead_worker_is_seen_well_before_its_session_in_the_group_is_over() -> None:
    gateway: Any = app.build(AppConfig())
    ingest = gateway._bound_deployment.init_args[2]._bound_deployment
    # What is left is for its replacement to start.
    assert ingest._deployment_config.health_check_period_s * 4_000 <= source._GROUP_OPTIONS["session_timeout_ms"]


def test_serve_gives_the_gateway_more_requests_than_it_admits_so_that_it_can_refuse(config: dict[str, Any]) -> None:
    (on_a_cluster,) = [one for one in config["applications"][0]["deployments"] if one["name"] == "Gateway"]
    most = next(limit.le for limit in HttpSettings.model_fields["requests_max"].metadata if hasattr(limit, "le"))
    assert app.GATEWAY_OPTIONS["max_ongoing_requests"] > most
    assert on_a_cluster["max_ongoing_requests"] > most


def test_a_shadow_has_networks_and_workers_and_no_http() -> None:
    ingest: Any = app.build_shadow(AppConfig(run="next", share=0.1, bundle="other"))
    assert ingest._bound_deployment.name == "Ingest"
    config, handles = ingest._bound_deployment.init_args
    assert (config.run, config.share) == ("next", 0.1)
    assert handles.fusion._bound_deployment.name == "Fusion"


def test_a_shadow_cannot_write_among_the_live_results() -> None:
    with pytest.raises(ValueError, match="another one than live"):
        app.build_shadow(AppConfig())
    with pytest.raises(ValidationError, match="share is for shadows"):
        AppConfig(share=0.5)
