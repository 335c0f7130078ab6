import pytest
import redis

from models.types import FloatArray
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from tests.eventually import eventually
from tests.pipelines.working import account, call, counter, results, send, until, working


@pytest.mark.slow  # waits for the clock
async def test_a_call_whose_end_the_log_has_lost_is_closed(redis_url: str, sound: FloatArray) -> None:
    """Its last fragments are gone before anybody read them, and nothing of it will ever come again."""
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    send(producer, fragments[:12])
    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05, commit_delay_s=0)
    async with working(redis_url, worker=WorkerSettings(commit_interval_s=0.05, commit_delay_s=0)) as worker:
        await eventually(lambda: counter(worker.metrics.fragments_analysed) >= 12)
        await eventually(lambda: results(redis_url, "c1", final=False))
    send(producer, [*fragments[12:], *call(sound, "c2")])
    with redis.Redis.from_url(redis_url) as client:
        client.xtrim("ut:log:{call-media}", minid="21-0")
    async with working(redis_url, "late", worker=quick):
        await until("closed", redis_url, "c1")
        with redis.Redis.from_url(redis_url) as client:
            await eventually(lambda: not (client.exists("ut:open:0")))
    assert (await account(redis_url, "c1")).lost == 1
