import pytest
from pydantic import ValidationError

from models.types import Modality
from pipelines.settings import AppConfig, TenantSettings, WorkerSettings
from pipelines.types import DEFAULT_CONSENT, Participant


def test_a_policy_that_cannot_be_read_is_refused_when_it_is_configured() -> None:
    with pytest.raises(ValidationError, match="write customer="):
        TenantSettings(consent="customer=smell")


def test_results_that_would_expire_before_a_silent_call_is_closed_are_refused() -> None:
    with pytest.raises(ValidationError, match="closed_after_s"):
        AppConfig(tenants={"shop": TenantSettings(results_ttl_s=60)})
    AppConfig(tenants={"shop": TenantSettings(results_ttl_s=60)}, worker=WorkerSettings(closed_after_s=30))


def test_a_tenant_without_settings_has_those_of_default() -> None:
    config = AppConfig(tenants={"default": TenantSettings(consent="customer=text"), "shop": TenantSettings()})

    assert config.tenant("unheard-of").policy == {Participant.CUSTOMER: {Modality.TEXT}}
    assert config.tenant("shop").policy == DEFAULT_CONSENT
    assert AppConfig(tenants={}).tenant("shop").policy == DEFAULT_CONSENT
