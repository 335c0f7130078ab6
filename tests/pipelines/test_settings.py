from pathlib import Path

import pytest
from pydantic import ValidationError

from models.types import Modality
from pipelines.errors import PoliciesUnknownError
from pipelines.settings import AppConfig, InterimSettings, Settings, WorkerSettings, with_live_tenants
from pipelines.tenants import TenantSettings, TimeoutSettings
from pipelines.types import DEFAULT_CONSENT, Participant


def test_results_that_would_expire_before_a_silent_call_is_closed_are_refused() -> None:
    with pytest.raises(ValidationError, match="closed_after_s"):
        AppConfig(tenants={"shop": TenantSettings(results_ttl_s=60)})
    AppConfig(tenants={"shop": TenantSettings(results_ttl_s=60)}, worker=WorkerSettings(closed_after_s=30))


def test_a_tenant_that_nobody_configured_gets_customers_words_and_no_more_than_default() -> None:
    config = AppConfig(tenants={"default": TenantSettings(results_ttl_s=9_999), "shop": TenantSettings()})
    words = {Participant.CUSTOMER: {Modality.TEXT}}

    assert config.tenant("shop").policy == config.tenant("default").policy == DEFAULT_CONSENT
    assert config.tenant("unheard-of").policy == words
    assert config.tenant("unheard-of").results_ttl_s == 9_999
    assert AppConfig(tenants={}).tenant("default").policy == words
    strict = AppConfig(tenants={"default": TenantSettings(consent="agent=text")})
    assert strict.tenant("unheard-of").policy == {}


def test_a_replay_goes_by_the_policies_of_the_live_service() -> None:
    live = AppConfig(tenants={"shop": TenantSettings(consent="customer=text", timeouts=TimeoutSettings(encode_s=3))})

    assert with_live_tenants(AppConfig(run="mine"), live.tenants_text()) == live.model_copy(update={"run": "mine"})
    with pytest.raises(PoliciesUnknownError, match="start it first"):
        with_live_tenants(AppConfig(run="mine"), None)


def test_interim_texts_are_shown_where_networks_run_on_a_gpu_or_the_configuration_says_so_and_of_live_calls_only() -> (
    None
):
    said = {show: InterimSettings(show=show) for show in (True, False)}

    assert not AppConfig().shows_interim
    assert AppConfig(device="cuda:0").shows_interim
    assert AppConfig(interim=said[True]).shows_interim
    assert not AppConfig(device="cuda", interim=said[False]).shows_interim
    assert not AppConfig(run="shadow", interim=said[True]).shows_interim


def test_a_relative_path_is_one_of_the_folder_in_which_the_settings_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TOKENS", "KAFKA_CA_FILE", "CACHE_DIR"):
        monkeypatch.setenv(f"UNDERTONE_{name}", f"sub/{name}")
    found = Settings()
    assert found.tokens == tmp_path / "sub/TOKENS"
    assert found.kafka_ca_file == tmp_path / "sub/KAFKA_CA_FILE"
    assert found.cache_dir == tmp_path / "sub/CACHE_DIR"
