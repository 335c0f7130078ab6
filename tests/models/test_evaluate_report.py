import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import evaluate_report
from models.metrics import judge
from models.recognition import WordsTask
from models.tasks import Answers, ScoreTask, Task, Tasks


def answers(n: int) -> Answers:
    rng = np.random.default_rng(0)
    labels = ("negative", "neutral", "positive")
    truth = rng.integers(0, 2, n)  # no positive one
    tasks: Tasks = {
        "polarity": Task(labels, truth, rng.dirichlet(np.ones(3), n).astype(np.float32)),
        "polarity_audio+text": Task(labels, truth, rng.dirichlet(np.ones(3), n).astype(np.float32)),
        "score": ScoreTask(truth.astype(np.float32), rng.uniform(-3, 3, n).astype(np.float32)),
    }
    return Answers(tasks, 4)


def found(given: Answers, n: int) -> dict[str, object]:
    tasks = {name: judge(task) for name, task in given.tasks.items()}
    return {"dataset": "some", "split": "all", "n": n, "skipped": given.skipped, "tasks": tasks}


@pytest.mark.slow  # computes for seconds
@pytest.mark.parametrize("n", [1, 40])
def test_a_report_holds_the_json_a_table_and_readable_pictures_of_every_task(tmp_path: Path, n: int) -> None:
    given = answers(n)
    result = found(given, n)

    evaluate_report.write(tmp_path / "deep" / "report", result, given)
    evaluate_report.write(tmp_path / "deep" / "report", result, given)

    folder = tmp_path / "deep" / "report"
    assert json.loads((folder / "report.json").read_text()) == result
    kinds = ("confusion", "roc", "reliability")
    pictures = {f"{name}_{kind}.png" for name in ("polarity", "polarity_audio+text") for kind in kinds} | {"score.png"}
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md"} | pictures
    for name in pictures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) >= 600
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
    text = (folder / "report.md").read_text()
    assert all(f"({name})" in text for name in pictures)
    assert "| metric | network | 95 % interval | constant |" in text
    assert "| truth / answer | negative | neutral | positive |" in text


def test_of_words_the_worst_sounds_are_tabled_and_nothing_is_drawn(tmp_path: Path) -> None:
    words = WordsTask(("a", "b"), ("one two", "three"), ("one two", "free | lunch"), np.array([True, False]))
    given = Answers({"words": words}, 0)

    evaluate_report.write(tmp_path, found(given, 2), given)

    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md"}
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "| wer | 1.0000 | 0.0000 to 3.0000 | 1.0000 |" in lines
    assert "| b | 3 | three | free \\| lunch | False |" in lines


def test_what_does_not_exist_is_a_dash() -> None:
    given = answers(1)
    rows = {row[0]: row[1:] for row in evaluate_report.metric_rows(judge(given.tasks["polarity"]))}
    assert rows["roc_auc_ovr"] == ("-", "-", "-")
