"""Where records come from and where they go: Kafka, or Redis Streams on the embedded default."""
