import pytest
from pydantic import ValidationError

from models.types import Modality
from pipelines.errors import UndertoneError
from pipelines.settings import AppConfig, InterimSettings, RedactSettings, TenantSettings, WorkerSettings
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


def test_interim_texts_are_shown_where_networks_run_on_a_gpu_or_the_configuration_says_so_and_of_live_calls_only() -> (
    None
):
    said = {show: InterimSettings(show=show) for show in (True, False)}

    assert not AppConfig().shows_interim
    assert AppConfig(device="cuda:0").shows_interim
    assert AppConfig(interim=said[True]).shows_interim
    assert not AppConfig(device="cuda", interim=said[False]).shows_interim
    assert not AppConfig(run="shadow", interim=said[True]).shows_interim


def test_every_kind_but_names_is_redacted_unless_a_tenant_says_otherwise() -> None:
    settings = TenantSettings().redact
    assert settings.kinds == ("card", "iban", "email", "phone", "id", "number")
    assert {"US", "GB", "DE", "FR", "ES", "IT", "NL", "PL"} <= set(settings.countries)


@pytest.mark.parametrize("wrong", [{"kinds": ["cat"]}, {"countries": ["XX"]}, {"countries": ["us"]}, {"mark": "*"}])
def test_a_kind_or_a_country_that_nobody_knows_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AppConfig.model_validate({"tenants": {"default": {"redact": wrong}}})


def test_names_without_their_recogniser_are_refused_and_never_left_in_silence() -> None:
    with pytest.raises(UndertoneError, match="names are to be redacted and"):
        _ = RedactSettings(kinds=("name",), names_model="no_such_model").redactor
