"""The embedded Redis and the analyser in one process; the whole embedded system is started by tests/integration."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import redis

from deployments.serve import WITHOUT_PANDAS, pandas_kept_out
from deployments.serve.embedded import RAY_ENVIRONMENT, delete_embedded_store, embedded_redis
from pipelines.errors import StoreUnavailableError
from pipelines.settings import Settings


@pytest.mark.slow
def test_the_embedded_redis_keeps_what_it_acknowledged_until_it_is_deleted(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path)
    folder = tmp_path / "redis-8000"
    for expected in (None, b"kept"):
        with embedded_redis(folder) as url, redis.Redis.from_url(url) as client:
            assert client.get("key") == expected
            client.set("key", "kept")
    assert folder.stat().st_mode & 0o077 == 0

    delete_embedded_store(settings, 8000)

    assert not folder.exists()


def test_a_folder_whose_name_is_too_long_for_a_socket_says_what_to_set(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreUnavailableError, match="UNDERTONE_CACHE_DIR"),
        embedded_redis(tmp_path / ("x" * 100)),
    ):
        pass


def test_ray_serve_starts_without_pandas_in_a_worker() -> None:
    module, _, hook = WITHOUT_PANDAS.rpartition(".")
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
        env={**os.environ, **RAY_ENVIRONMENT},
    )
    assert found.stdout == "60.0 deployments.serve.back_pressure:middlewares\n"
