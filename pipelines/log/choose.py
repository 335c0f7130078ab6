"""Which log of fragments a configuration means: Kafka, or Redis Streams on the embedded default."""

from pipelines.log.kafka_producer import KafkaRecordProducer
from pipelines.log.kafka_source import KafkaSource
from pipelines.log.producer import Producer, SilentProducer
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource, RedisTopicReader
from pipelines.log.source import Source
from pipelines.log.topic_reader import KafkaTopicReader, TopicReader
from pipelines.settings import AppConfig, Settings


def open_source(config: AppConfig, settings: Settings) -> Source:
    """A source; it connects at its first poll."""
    settings = _in_group(config, settings)
    if config.source == "kafka":
        return KafkaSource(settings)
    return RedisStreamSource(
        settings.redis.get_secret_value(), group=settings.kafka_group, holds_records=config.is_live
    )


def open_producer(config: AppConfig, settings: Settings) -> Producer:
    """A producer to the same log; it connects at its first record. A shadow has nothing to send."""
    if not config.is_live:
        return SilentProducer()
    if config.source == "kafka":
        return KafkaRecordProducer(settings)
    return RedisStreamProducer(settings.redis.get_secret_value())


def open_reader(config: AppConfig, settings: Settings, topic: str) -> TopicReader:
    """A reader of one of the same log's topics, which joins no group and knows how far the run's has come."""
    settings = _in_group(config, settings)
    if config.source == "kafka":
        return KafkaTopicReader(settings, topic)
    return RedisTopicReader(settings.redis.get_secret_value(), topic, settings.kafka_group)


def _in_group(config: AppConfig, settings: Settings) -> Settings:
    if config.is_live:
        return settings
    return settings.model_copy(update={"kafka_group": f"{settings.kafka_group}-{config.run}"})
