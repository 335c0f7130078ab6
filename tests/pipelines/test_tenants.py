import pytest
from pydantic import ValidationError

from pipelines.errors import UndertoneError
from pipelines.settings import AppConfig
from pipelines.tenants import RedactSettings, TenantSettings


def test_a_policy_that_cannot_be_read_is_refused_when_it_is_configured() -> None:
    with pytest.raises(ValidationError, match="write customer="):
        TenantSettings(consent="customer=smell")


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
