"""How far a send has come."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.cli.console import CommandError
from deployments.cli.journal import Journal, Place


def test_resume_refuses_another_file_and_a_call_that_was_not_interrupted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "sends" / "a.json", {"files": [["a.wav", 10]]})

    with pytest.raises(CommandError, match="nothing to resume"):
        journal.read()
    journal.write(Place(7, "word"))
    assert journal.read() == Place(7, "word")
    with pytest.raises(CommandError, match="something else"):
        replace(journal, sent={"files": [["b.wav", 10]]}).read()


def test_a_journal_of_before_has_no_word(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.json", {"files": []})
    journal.path.write_text(json.dumps({"next_seq": 3, "sent": {"files": []}}))

    assert journal.read() == Place(3, "")
