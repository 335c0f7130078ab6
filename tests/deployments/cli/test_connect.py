from pathlib import Path

import pytest

from deployments.cli.connect import configuration, reaching, source_of, system
from deployments.cli.console import EXIT_USAGE, CommandError
from pipelines.settings import Settings


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("UNDERTONE_KAFKA", raising=False)
    monkeypatch.delenv("UNDERTONE_REDIS", raising=False)
    monkeypatch.delenv("UNDERTONE_URL", raising=False)


def test_the_log_is_kafka_where_kafka_is_named_unless_another_is_asked_for() -> None:
    named = Settings(kafka="host:9092")

    assert [source_of(named, None), source_of(named, "redis"), source_of(Settings(), None)] == [
        "kafka",
        "redis",
        "redis",
    ]
    with pytest.raises(CommandError, match="UNDERTONE_KAFKA"):
        source_of(Settings(), "kafka")


def test_the_redis_of_a_system_that_runs_here_is_found_by_its_socket(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="undertone serve"):
        reaching(Settings())
    (tmp_path / "redis-8000").mkdir()
    (tmp_path / "redis-8000" / "redis.sock").touch()

    assert reaching(Settings()).redis.get_secret_value() == f"unix://{tmp_path}/redis-8000/redis.sock"


def test_a_redis_that_is_named_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", "redis://elsewhere")

    assert system(None).where.redis.get_secret_value() == "redis://elsewhere"


def test_kafka_alone_is_enough_for_who_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_KAFKA", "host:9092")

    assert system(None, needs_store=False).config.source == "kafka"
    with pytest.raises(CommandError, match="undertone serve"):
        system(None)


def test_the_configuration_is_that_of_the_file_with_changes(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("applications:\n- args: {bundle: mine, tenants: {shop: {consent: agent=text}}}\n")

    found = configuration(path, {"run": "again"})

    assert (found.bundle, found.run, found.tenant("shop").consent) == ("mine", "again", "agent=text")


@pytest.mark.parametrize("text", ["", "applications: []", "applications: [{args: {colour: red}}]", "\x00", ": :"])
def test_a_file_that_holds_no_configuration_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text)

    with pytest.raises(CommandError, match=r"serve\.yaml gives no configuration") as refused:
        configuration(path, {})
    assert refused.value.exit_code == EXIT_USAGE
