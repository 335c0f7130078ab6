"""A configuration says which log: Kafka or Redis Streams, and for a shadow a group of its own that sends nothing."""

from pydantic import SecretStr

from pipelines.log.choose import open_producer, open_reader, open_source
from pipelines.log.kafka_producer import KafkaRecordProducer
from pipelines.log.kafka_source import KafkaSource
from pipelines.log.producer import SilentProducer
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource, RedisTopicReader
from pipelines.settings import AppConfig, Settings
from pipelines.types import TOPIC_MEDIA

EMBEDDED, KAFKA = AppConfig(source="redis"), AppConfig(source="kafka")
SHADOW = AppConfig(source="redis", run="next")


def settings(redis_url: str) -> Settings:
    return Settings(redis=SecretStr(redis_url), kafka="127.0.0.1:1")


def test_the_source_of_the_configuration_is_opened(redis_url: str) -> None:
    assert isinstance(open_source(EMBEDDED, settings(redis_url)), RedisStreamSource)
    assert isinstance(open_source(KAFKA, settings(redis_url)), KafkaSource)
    assert isinstance(open_producer(EMBEDDED, settings(redis_url)), RedisStreamProducer)
    assert isinstance(open_producer(KAFKA, settings(redis_url)), KafkaRecordProducer)
    assert isinstance(open_reader(EMBEDDED, settings(redis_url), TOPIC_MEDIA), RedisTopicReader)


def test_a_shadow_sends_nothing(redis_url: str) -> None:
    assert isinstance(open_producer(SHADOW, settings(redis_url)), SilentProducer)


def test_a_shadow_reads_in_a_group_of_its_own_and_holds_no_record_back(redis_url: str) -> None:
    producer = open_producer(EMBEDDED, settings(redis_url))
    producer.send(TOPIC_MEDIA, "c", b"media")
    live, shadow = (open_source(config, settings(redis_url)) for config in (EMBEDDED, SHADOW))
    for source in (live, shadow):
        source.poll(0, 1)
        assert [record.value for record in source.poll(1, 1).records] == [b"media"]
    shadow.commit({0: 1})
    assert (live.committed(0), shadow.committed(0)) == (None, 1)
    extents = {
        name: open_reader(config, settings(redis_url), TOPIC_MEDIA).extents()[0].committed
        for name, config in (("live", EMBEDDED), ("shadow", SHADOW))
    }
    assert extents == {"live": None, "shadow": 1}
