"""Bytes to utterances: values in, values out. No Kafka, no Redis, no clock, no event loop."""
