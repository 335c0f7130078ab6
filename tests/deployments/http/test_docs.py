"""The page of the API works without any other site."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.deployments.gateway_process import gateway_process
from tests.deployments.http.site import Site


async def test_the_root_leads_to_the_page_under_whatever_name_it_is_reached(site: Site) -> None:
    answer = await site.client.get("/", headers={"host": "t"})
    assert (answer.status_code, answer.headers["location"]) == (303, "docs")
    assert (await site.client.get("/", follow_redirects=True)).headers["content-type"].startswith("text/html")


async def test_the_page_and_all_that_it_loads_come_from_the_gateway(site: Site) -> None:
    page = await site.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for path in loaded:
        answer = await site.client.get(f"/{path}")
        assert answer.status_code == 200
        assert answer.content
    assert "<script>" not in page.text  # which the policy would not run
    assert (await site.client.get("/redoc")).status_code == 404


@pytest.mark.slow
def test_a_browser_without_a_network_shows_every_route(redis_server: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        missing("no chromium")
        return
    with gateway_process(redis_server, tmp_path) as gateway:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
        # Every other name is unknown to it.
        command += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--virtual-time-budget=10000"]
        done = subprocess.run(
            [*command, "--dump-dom", f"{gateway.url}/docs"], capture_output=True, text=True, check=True
        )
    for path in ("/v1/calls", "/v1/analyze", "/v1/trends"):
        assert f'data-path="{path}"' in done.stdout
