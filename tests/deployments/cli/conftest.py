import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from pipelines.types import TOPIC_MEDIA
from tests.eventually import eventually
from tests.pipelines.working import call, results, send, working


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """A command line on a machine where nothing runs."""
    monkeypatch.setenv("UNDERTONE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UNDERTONE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("UNDERTONE_KAFKA", raising=False)
    monkeypatch.delenv("UNDERTONE_REDIS", raising=False)
    return CliRunner()


@pytest.fixture
def redis_cli(cli: CliRunner, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A command line whose log and store are an empty Redis."""
    monkeypatch.setenv("UNDERTONE_REDIS", redis_url)
    return cli


@pytest.fixture
def analysed(redis_url: str) -> str:
    """The URL of a Redis with a silent call that has a fragment that cannot be decoded and a record that is none."""

    async def analyse() -> None:
        fragments = call(np.zeros((2, 5 * 8000), np.float32), "c1")
        fragments[2] = replace(fragments[2], media=b"noise", content_type="audio/x-matroska")
        producer = RedisStreamProducer(redis_url)
        send(producer, fragments)
        producer.send(TOPIC_MEDIA, "c1", b"x", (("v", b"9"),))
        async with working(redis_url, worker=WorkerSettings(commit_delay_s=0, commit_interval_s=0.05)):
            await results(redis_url, "c1")
            with redis.Redis.from_url(redis_url) as client:
                group = "ut:log:{call-media}:group:undertone"
                await eventually(lambda: int(client.hget(group, "committed") or 0) == len(fragments) + 1)

    asyncio.run(analyse())
    return redis_url
