from pathlib import Path

from deployments.cli.analyze import call_id_of


def test_a_file_name_becomes_a_call_id() -> None:
    assert call_id_of(Path("my call (1).wav")) == "my-call--1-"
