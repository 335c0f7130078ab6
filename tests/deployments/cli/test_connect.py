import socket
from pathlib import Path

import pytest

from deployments.cli.connect import configuration, connect, source_of, with_local_redis
from deployments.cli.console import EXIT_AWAY, EXIT_USAGE, CommandError
from pipelines.errors import CallDeletedError
from pipelines.settings import AppConfig, Settings
from pipelines.tenants import TenantSettings
from pipelines.types import LIVE_RUN, CallRef, MediaFragment, Participant
from tests.pipelines.working import opened

CALL = CallRef("shop", "c")


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


def test_the_redis_of_a_system_that_runs_here_is_found_by_its_socket(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("c")  # short enough for a socket
    monkeypatch.setenv("UNDERTONE_CACHE_DIR", str(cache))
    path = cache / "redis-8000" / "redis.sock"

    def refused() -> None:
        with pytest.raises(CommandError, match=r"^nothing runs here: start `undertone serve`") as nothing:
            with_local_redis(Settings())
        assert nothing.value.exit_code == EXIT_AWAY

    refused()
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert with_local_redis(Settings()).redis.get_secret_value() == f"unix://{path}"
    refused()  # one that was killed leaves its socket


def test_a_redis_that_is_named_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", "redis://elsewhere")

    assert connect(None).settings.redis.get_secret_value() == "redis://elsewhere"


def test_kafka_alone_is_enough_for_who_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_KAFKA", "host:9092")

    assert connect(None, needs_store=False).config.source == "kafka"
    with pytest.raises(CommandError, match="undertone serve"):
        connect(None)


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


def fragment() -> MediaFragment:
    who = (Participant.AGENT, Participant.CUSTOMER)
    return MediaFragment(
        "c", "shop", "main", 0, 0, "audio/L16;rate=8000;channels=2", who, None, final=True, media=b"sound"
    )


def test_who_sends_to_kafka_without_a_store_is_told_that_the_call_lies_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNDERTONE_KAFKA", "host:9092")
    (tmp_path / "redis-8000").mkdir()
    (tmp_path / "redis-8000" / "redis.sock").touch()  # of another system, for all one knows
    with connect(None, needs_store=False).sealing(CALL) as seal_fragment:
        assert seal_fragment(fragment()) == fragment()
    assert "set UNDERTONE_REDIS" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("policy", ["customer=text", "customer=;agent="])
def test_a_fragment_is_sealed_by_the_policy_of_the_service_that_runs(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, policy: str
) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", redis_url)
    system = connect(None)
    live = AppConfig(tenants={"shop": TenantSettings(consent=policy)})
    system.with_store(lambda store: store.service.set_tenants(live.tenants_text()), LIVE_RUN)
    with system.sealing(CALL) as seal_fragment:
        sealed = seal_fragment(fragment())
    if policy == "customer=text":
        assert sealed.seal
        assert opened(redis_url, sealed) == fragment()
    else:
        assert (sealed.media, sealed.withheld, sealed.seal) == (b"", True, None)


def test_nothing_is_sent_of_a_call_that_was_deleted(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", redis_url)
    system = connect(None)
    with system.sealing(CALL):
        pass
    assert system.with_store(lambda store: store.delete_call(CALL), LIVE_RUN)
    with pytest.raises(CallDeletedError), system.sealing(CALL):
        pass
