"""What the embedded system is for whom: its user, a stranger on the same network or machine, a second one on its port."""

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from ray.exceptions import GetTimeoutError

from deployments.serve import WORKER_SETUP, pandas_kept_out
from deployments.serve.embedded import delete_embedded_store, embedded, in_one_sentence, require_free
from deployments.serve.embedded_redis import InUseError, embedded_redis
from deployments.serve.local_ray import RAY_DEFAULTS, START_S, patient_serve, private_folder
from models.bundles import EMBEDDED
from models.errors import CheckpointError
from pipelines.errors import StoreUnavailableError
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import AppConfig, Settings
from tests.deployments import stranger
from tests.eventually import wait_until
from tests.pipelines.working import call, send
from tests.servers import free_port

SERVE = [sys.executable, "-P", "-c", "from deployments.cli.main import app; app()", "serve", "--json"]
PLANTED = "import pathlib; pathlib.Path(__file__).with_name('loaded').touch(); raise ImportError"
OF_THE_USER = "the-token-of-the-users-own-cluster"


@dataclass(frozen=True)
class Serving:
    """A running `undertone serve`."""

    process: "subprocess.Popen[bytes]"
    port: int
    cache_dir: Path
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.cache_dir / f"redis-{self.port}"

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    @property
    def command(self) -> list[str]:
        return [*SERVE, "--port", str(self.port), "--bundle", "own"]

    @property
    def ray_folder(self) -> Path:
        """Ray names a session after the process that started it."""
        sessions = Path("/tmp").glob(f"undertone-ray-*/r/session_*_{self.process.pid}")  # noqa: S108  # a sticky folder's own
        return next(sessions).parents[1]

    @property
    def token(self) -> str:
        environment = Path(f"/proc/{self.one_of('raylet')}/environ").read_text().split("\0")
        return next(one for one in environment if one.startswith("RAY_AUTH_TOKEN=")).partition("=")[2]

    def one_of(self, name: str) -> int:
        """A process whose command has the name."""
        return next(pid for pid in stranger.tree_of(self.process.pid) if name in stranger.command_of(pid))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One in an environment that speaks of a cluster of the user's own, which is not there, and in a folder of somebody else's."""
    port, cache_dir = free_port(), tmp_path_factory.mktemp("c")  # short enough for a socket
    for name in ("redis", "json", "ray", "deployments"):
        (cache_dir.parent / f"{name}.py").write_text(PLANTED)
    (cache_dir.parent / "own").symlink_to(EMBEDDED)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERTONE_", "RAY_"))}
    environment |= {"UNDERTONE_CACHE_DIR": cache_dir.name, "RAY_ADDRESS": "127.0.0.1:1"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": OF_THE_USER}
    with subprocess.Popen(
        [*SERVE, "--port", str(port), "--bundle", "own"], cwd=cache_dir.parent, env=environment, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield Serving(process, port, cache_dir, environment)
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
class TestServing:
    def test_every_port_is_on_the_loopback_and_refuses_who_has_no_token(self, serving: Serving) -> None:
        open_ports = stranger.listeners(stranger.tree_of(serving.process.pid))
        assert len(open_ports) > 20
        assert [one.command for one in open_ports if not one.is_local] == []

        ports = sorted({one.port for one in open_ports} - {serving.port})
        gcs_pid = serving.one_of("gcs_server")
        gcs_port = next(one.port for one in open_ports if one.pid == gcs_pid)
        outside = stranger.address_in_the_network()
        if outside is not None and not outside.startswith("127."):
            found = stranger.as_stranger(outside, [*ports, serving.port], gcs_port)
            assert "rewritten" not in found.pop("actor classes")
            assert [port for port, answer in found.items() if not answer["refused"]] == []

        found = stranger.as_stranger("127.0.0.1", ports, gcs_port)
        assert "rewritten" not in found["actor classes"]
        assert "AuthenticationError" in found.pop("actor classes")
        speaking = {port: answer["grpc"] for port, answer in found.items() if set(answer["grpc"]) != {"UNAVAILABLE"}}
        assert len(speaking) > 15
        for port, codes in speaking.items():
            assert set(codes) <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}, (port, codes)
            assert "UNAUTHENTICATED" in codes, (port, codes)
        # Ray's metrics have no lock: figures of its processes, on the loopback.
        (pages,) = (port for port, answer in found.items() if 200 in answer["http"].values())
        metrics = httpx.get(f"http://127.0.0.1:{pages}/metrics").text
        assert "ray_node_cpu_count" in metrics
        assert serving.token not in metrics
        others = [answer["http"].values() for port, answer in found.items() if port not in {*speaking, pages}]
        assert {status for statuses in others for status in statuses} == {401}

    def test_the_token_is_fresh_and_in_no_file_and_no_argument(self, serving: Serving) -> None:
        pids = stranger.tree_of(serving.process.pid)
        token = serving.token
        assert len(token) >= 32
        assert token != OF_THE_USER
        assert not [pid for pid in pids if token in stranger.command_of(pid)]
        assert serving.ray_folder.stat().st_mode & 0o777 == 0o700
        files = [
            file for folder in (serving.ray_folder, serving.cache_dir) for file in folder.rglob("*") if file.is_file()
        ]
        assert len(files) > 20
        assert [file for file in files if token.encode() in file.read_bytes()] == []

    def test_no_module_of_the_folder_is_loaded_that_it_was_started_in(self, serving: Serving) -> None:
        assert not (serving.cache_dir.parent / "loaded").exists()
        pids = stranger.tree_of(serving.process.pid)
        folders = {Path(f"/proc/{pid}/cwd").readlink() for pid in pids if stranger.command_of(pid).startswith("ray::")}
        assert folders == {serving.ray_folder}

    def test_a_second_one_ends_at_once_and_leaves_the_first_alone(self, serving: Serving) -> None:
        second = subprocess.run(
            serving.command,
            cwd=serving.cache_dir.parent,
            env=serving.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert second.returncode == 1
        assert second.stdout == ""
        assert second.stderr.splitlines()[-1].startswith(f"undertone: another undertone runs with {serving.folder}")
        assert "--port" in second.stderr
        assert "Traceback" not in second.stderr
        with redis.Redis.from_url(serving.url) as client:
            assert client.ping()

    def test_a_killed_redis_comes_back_with_its_data_and_the_worker_goes_on(self, serving: Serving) -> None:
        self._has_analysed(serving, "before")
        os.kill(serving.one_of("valkey-server"), signal.SIGKILL)
        self._has_analysed(serving, "after")

    def test_a_killed_one_takes_everything_with_it(self, serving: Serving) -> None:
        pids = stranger.tree_of(serving.process.pid)
        folder = serving.ray_folder
        serving.process.kill()
        serving.process.wait()
        wait_until(lambda: not any(map(stranger.is_alive, pids)), 120)  # Ray's agents look for GCS for a minute
        require_free("127.0.0.1", serving.port)
        with embedded_redis(serving.folder) as url, redis.Redis.from_url(url) as client:
            assert client.exists("ut:log:{call-media}:group:undertone")
        with private_folder():
            assert not folder.exists()

    @staticmethod
    def _has_analysed(serving: Serving, call_id: str) -> None:
        """Silence goes through the log and the worker into the store."""
        with redis.Redis.from_url(serving.url, decode_responses=True) as client:

            def committed() -> int:
                try:
                    return int(client.hget("ut:log:{call-media}:group:undertone", "committed") or 0)
                except redis.RedisError:
                    return -1

            before = wait_until(lambda: committed() + 1) - 1
            fragments = call(np.zeros((2, 3 * 8000), np.float32), call_id)
            producer = RedisStreamProducer(serving.url)
            send(producer, fragments)
            producer.close()
            wait_until(lambda: committed() >= before + len(fragments))


def test_a_taken_port_is_a_plain_sentence_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("UNDERTONE_REDIS", "redis://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InUseError, match=f"port {port} of 127.0.0.1 .*--port"), embedded(AppConfig(), port=port):
            pass
    require_free("127.0.0.1", port)
    with pytest.raises(InUseError, match="--port"):
        require_free("no-such-host.invalid", port)
    with pytest.raises(InUseError, match="--port"):
        require_free("192.0.2.1", port)


@pytest.mark.slow
def test_a_store_in_use_is_not_deleted(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = Settings(cache_dir=tmp_path_factory.mktemp("c"))
    folder = settings.cache_dir / "redis-8000"
    delete_embedded_store(settings, 8000)
    with embedded_redis(folder), pytest.raises(InUseError):
        delete_embedded_store(settings, 8000)
    delete_embedded_store(settings, 8000)
    assert not folder.exists()


def test_ray_serve_starts_without_pandas_in_a_worker() -> None:
    module, _, hook = WORKER_SETUP.rpartition(".")
    script = f"""
import importlib, sys
importlib.import_module("{module}").{hook}()
import ray.serve
print("pandas.core" in sys.modules, "pyarrow" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "False False\n"


@pytest.mark.parametrize("there_before", [False, True])
def test_pandas_is_kept_out_for_a_while_and_never_taken_away(
    monkeypatch: pytest.MonkeyPatch, *, there_before: bool
) -> None:
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    own = ModuleType("pandas")
    if there_before:
        monkeypatch.setitem(sys.modules, "pandas", own)

    with pandas_kept_out():
        inside = sys.modules["pandas"]

    assert inside is (own if there_before else None)
    assert sys.modules.get("pandas") is (own if there_before else None)


def test_what_ray_is_started_with_is_what_serve_reads() -> None:
    script = """
from deployments.serve.back_pressure import middlewares
from ray.serve._private import constants
print(constants.PROXY_READY_CHECK_TIMEOUT_S, constants.RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)
"""
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **RAY_DEFAULTS},
    )
    assert found.stdout == "300.0 deployments.serve.back_pressure:middlewares\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError("HTTP proxies not available after 600s."), "HTTP proxies not available after 600s."),
        (GetTimeoutError(""), "GetTimeoutError"),
        (
            RuntimeError(
                "Deploying application undertone failed:\nTraceback (most recent call last):\n  File …\nOSError: no room"
            ),
            "Deploying application undertone failed: OSError: no room",
        ),
    ],
)
def test_whatever_keeps_serve_from_starting_is_one_sentence_that_says_what_to_do(error: Exception, said: str) -> None:
    with pytest.raises(RuntimeError) as raised, in_one_sentence():
        raise error
    assert str(raised.value) == (
        f"Ray Serve does not start here ({said}); where the machine is busy or this is the first start, run `make setup` and try again"
    )


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), CheckpointError("damaged"), KeyboardInterrupt()])
def test_what_no_other_start_would_mend_is_said_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, in_one_sentence():
        raise error
    assert raised.value is error


def test_serve_waits_as_long_as_ray_for_processes_that_compile_what_they_import() -> None:
    constants: list[Any] = [importlib.import_module(f"ray.serve._private.{name}") for name in ("api", "client")]
    with patient_serve():
        assert [one.HTTP_PROXY_TIMEOUT for one in constants] == [START_S, START_S]
    assert all(one.HTTP_PROXY_TIMEOUT < START_S for one in constants)
