"""Where things are: every source file has a test of the same path, or is named here with the test that covers it."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
COVERED = {
    "pipelines/media/echo_voice.py": "pipelines/media/test_echo.py",
    "deployments/app.py": "deployments/serve/test_app.py",
    "deployments/cli/demo.py": "integration/test_demo.py",
    "deployments/sample/make_sample.py": "deployments/sample/test_sample.py",
    "deployments/http/receipts.py": "deployments/http/test_customers.py",
    "deployments/serve/back_pressure.py": "deployments/http/test_api_hostile.py",
    "deployments/serve/gateway.py": "integration/test_calls.py",
    "deployments/serve/ingest.py": "integration/test_calls.py",
    "models/bundles/__main__.py": "integration/test_new_model.py",
    "models/data/recordings.py": "models/data/test_ravdess.py",
    "models/encoders/residual.py": "models/encoders/test_audio.py",
    "models/encoders/spectral.py": "models/encoders/test_audio.py",
    "models/encoders/whisper_layers.py": "models/encoders/test_audio.py",
    "models/recipes/debug.py": "models/test_train.py",
    "models/recipes/fusion.py": "models/recipes/test_label_pairs.py",
    "models/recipes/recipe.py": "models/test_train.py",
    "models/tasks.py": "models/test_metrics.py",
    "pipelines/media/mux.py": "pipelines/media/test_fragment.py",
    "pipelines/media/owners.py": "pipelines/media/test_container.py",
    "pipelines/media/wav.py": "pipelines/media/test_joined.py",
    "pipelines/ingest/context.py": "pipelines/ingest/test_track_queue.py",
    "pipelines/ingest/results.py": "pipelines/ingest/test_analyse.py",
    "pipelines/ingest/decoder_thread.py": "pipelines/ingest/test_quarantine.py",
    "pipelines/ingest/source_thread.py": "pipelines/ingest/test_worker_store.py",
    "pipelines/log/broker.py": "pipelines/log/test_kafka_source.py",
    "pipelines/log/header_names.py": "pipelines/log/test_kafka_source.py",
    "pipelines/log/kafka_producer.py": "pipelines/log/test_source.py",
    "pipelines/log/producer.py": "pipelines/log/test_source.py",
    "pipelines/log/rebalance.py": "pipelines/log/test_kafka_source.py",
    "pipelines/log/redis_scripts.py": "pipelines/log/test_redis_streams.py",
    "pipelines/log/topic_reader.py": "pipelines/log/test_source.py",
    "pipelines/media/utterances.py": "pipelines/media/test_call_stream.py",
    "pipelines/review/participant.py": "pipelines/review/test_summary.py",
    "pipelines/redaction/codes.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/context.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/email.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/finding.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/ids.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/names.py": "pipelines/test_settings.py",
    "pipelines/redaction/numbers.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/phones.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/runs.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/tokens.py": "pipelines/redaction/test_redact.py",
    "pipelines/redaction/unfinished.py": "pipelines/redaction/test_redact.py",
    "pipelines/store/chain_check.py": "pipelines/store/test_chain.py",
    "pipelines/checkpoints.py": "pipelines/store/test_store.py",
    "pipelines/types.py": "pipelines/ingest/test_protocol.py",
}


def test_every_source_file_has_a_test_of_its_path_or_says_which_covers_it() -> None:
    sources = [
        path.relative_to(ROOT)
        for package in ("deployments", "models", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    ]
    without = {
        str(source) for source in sources if not (ROOT / "tests" / source.parent / f"test_{source.name}").is_file()
    }
    assert without == set(COVERED)
    assert [test for test in COVERED.values() if not (ROOT / "tests" / test).is_file()] == []
