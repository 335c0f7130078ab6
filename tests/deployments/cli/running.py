"""Running a command in a test and reading what it printed; and a gateway for it to ask."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from deployments.cli.main import app
from deployments.http.access import TokenAccess
from deployments.http.caller import noted_in
from deployments.http.calls import call_routes
from deployments.http.customers import customer_routes
from deployments.http.events import event_routes
from deployments.http.limits import HttpLimits
from deployments.http.problems import install_problems
from deployments.http.tokens import TokenFile, new_token
from pipelines.settings import AppConfig, HttpSettings
from pipelines.store.store import Store
from tests.eventually import wait_until


def json_lines(cli: CliRunner, *words: str, exit_code: int = 0) -> list[dict[str, Any]]:
    """The objects that the command prints with `--json`, one a line."""
    done = cli.invoke(app, [*words, "--json"])
    assert done.exit_code == exit_code, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def gateway_of(redis_url: str, tokens: TokenFile) -> Iterator[str]:
    """The address of the real routes over what is stored at `redis_url`."""
    store = Store.connect(redis_url)

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        await store.close()

    api = FastAPI(lifespan=closing)
    api.state.access = TokenAccess(tokens, None)
    api.state.note_access = noted_in(store, AppConfig())
    api.include_router(call_routes(store))
    api.include_router(customer_routes(store, HttpLimits()))
    api.include_router(event_routes(store, HttpSettings(), heartbeat_ms=100))
    install_problems(api)
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error", ws="none", loop="asyncio"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def reading(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CliRunner]:
    """A command line, with a token that may read, whose gateway is the real one over a real Redis."""
    file = TokenFile(tmp_path / "tokens")
    token, grant = new_token("*", frozenset({"read"}))
    file.add(grant)
    monkeypatch.setenv("UNDERTONE_TOKEN", token)
    with gateway_of(redis_url, file) as url:
        monkeypatch.setenv("UNDERTONE_URL", url)
        yield CliRunner()
