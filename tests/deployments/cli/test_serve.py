import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from tests.servers import free_port


def test_a_bundle_that_is_not_there_is_said_before_anything_is_started(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "bundle.json").write_text("{}")
    began_s = time.monotonic()
    refused = cli.invoke(app, ["serve", "--bundle", "nosuch"])
    assert time.monotonic() - began_s < 20  # Ray alone takes longer than nothing at all
    assert refused.exit_code == 3
    said = " ".join(refused.stderr.split())
    assert "no bundle in nosuch" in said
    assert "Bundles that are here: embedded, own." in said


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_one_json_object_when_it_is_up_and_ends_on_a_signal(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, ends: signal.Signals
) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTONE_")}
    cache = tmp_path_factory.mktemp("c")  # short enough for a socket
    environment |= {"UNDERTONE_CACHE_DIR": str(cache), "UNDERTONE_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-c", "from deployments.cli.main import app; app()", "serve", "--json"]
    # As a script starts it in the background: its shell has SIGINT ignored.
    background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    with (
        (tmp_path / "said").open("w+") as said,
        subprocess.Popen(
            [*background, *command, "--port", str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        ) as serving,
        ExitStack() as stack,
    ):
        try:
            assert serving.stdout is not None
            up = json.loads(serving.stdout.readline())
            assert up["url"] == f"http://127.0.0.1:{port}"
            assert httpx.get(f"{up['url']}/healthz", timeout=60).is_success
            assert httpx.get(f"{up['url']}/v1/calls", timeout=60).status_code == 401
            held = {"Authorization": f"Bearer {up['token']}"}
            assert httpx.get(f"{up['url']}/v1/calls", headers=held, timeout=60).is_success
            elsewhere = {"Host": "gateway.example"}
            assert httpx.get(f"{up['url']}/v1/calls", headers=elsewhere, timeout=60).status_code == 421
            secret = up["token"].encode()
            pids = [folder for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
            assert not [one for one in pids if secret in (one / "cmdline").read_bytes()]
            modes = {one.name: one.stat().st_mode & 0o777 for one in cache.iterdir() if one.name.startswith("token")}
            assert modes == {f"token-{port}": 0o600, f"tokens-{port}": 0o600}
            assert secret not in (cache / f"tokens-{port}").read_bytes()
            listed = subprocess.run([*command[:3], "calls", "--json"], env=environment, check=True, capture_output=True)
            assert listed.stdout == b""  # no call, and no refusal
            listening = stack.enter_context(httpx.stream("GET", f"{up['url']}/v1/events", headers=held, timeout=60))
            assert listening.is_success
        finally:
            asked_s = time.monotonic()
            if ends is signal.SIGTERM:
                # As a service manager does it: Ray's processes get it, too, and nobody may wait a minute for them.
                os.killpg(serving.pid, ends)
            else:
                serving.send_signal(ends)
            try:
                serving.wait(50)
            finally:
                if serving.poll() is None:
                    os.killpg(serving.pid, signal.SIGTERM)
        said.seek(0)
        assert "stopping" in said.read()
    assert serving.returncode == 0
    assert time.monotonic() - asked_s < 30  # though somebody listens, for whom the gateway would wait as long
    assert not [one for one in cache.iterdir() if one.name.startswith("token")]
