import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from tests.servers import free_port


@pytest.mark.slow
@pytest.mark.ray
def test_serve_prints_one_json_object_when_it_is_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTONE_")}
    environment["UNDERTONE_CACHE_DIR"] = str(tmp_path_factory.mktemp("c"))  # short enough for a socket
    command = [sys.executable, "-c", "from deployments.cli.main import app; app()", "serve", "--json"]
    with subprocess.Popen(
        [*command, "--port", str(port)], env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as serving:
        try:
            assert serving.stdout is not None
            assert json.loads(serving.stdout.readline()) == {"url": f"http://127.0.0.1:{port}"}
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).is_success
        finally:
            # As a service manager does it: Ray's processes get it, too, and nobody may wait a minute for them.
            os.killpg(serving.pid, signal.SIGTERM)
            serving.wait(50)
    assert serving.returncode == 0
