import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.console import EXIT_FAILED, EXIT_USAGE
from deployments.cli.main import app
from deployments.cli.train import DATASETS_HELP, OWN_DATA
from deployments.sample import ANGRY_TO_CONTENT
from models.evaluate import DATASETS
from models.recipes import FOLDS
from models.recipes.debug import debug
from models.recipes.recipe import Recipe


@pytest.mark.parametrize("command", [["train", "debug", "--out", "out"], ["evaluate", "audio", "--dataset", "ravdess"]])
def test_without_the_train_group_one_line_says_what_to_run(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)

    ended = cli.invoke(app, [*command, "--data", "."])

    assert ended.exit_code == 1
    assert "make setup" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_help_names_every_data_set() -> None:
    told = {
        (part.split(": ")[0], name)
        for part in DATASETS_HELP[:-1].split("; ")
        for name in part.split(": ")[1].split(", ")
    }

    assert told == {(modality, name) for modality, sets in DATASETS.items() for name in sets}


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    (tmp_path / "data" / "airline").mkdir(parents=True)
    table = "airline_sentiment,text\nnegative,this is the worst service ever\npositive,thank you so much\n"
    (tmp_path / "data" / "airline" / "kept_back.csv").write_text(table)
    return tmp_path / "data"


def test_redaction_is_evaluated_without_data_and_without_the_train_group(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    sentences = tmp_path / "own.tsv"
    sentences.write_text("part\tform\ttext\ntuned\twritten\tcard [[card|4242 4242 4242 4242]]\ntuned\tspoken\thello\n")

    told = cli.invoke(app, ["evaluate", "redaction"])
    own = cli.invoke(app, ["evaluate", "redaction", "--data", str(sentences), "--json"])

    assert "card, spoken" in told.stdout
    assert "held_out" in told.stdout
    found = json.loads(own.stdout)["tuned"]
    assert (found["sentences"], found["clean"], found["touched"]) == (2, 1, 0)
    assert found["kinds"]["card"] == {"items": 1, "found": 1, "named": 1, "false": 0, "recall": 1.0, "precision": 1.0}


def test_evaluate_prints_one_json_object(cli: CliRunner, tweets: Path) -> None:
    ended = cli.invoke(
        app, ["evaluate", "text", "--dataset", "tweets", "--data", str(tweets), "--split", "all", "--json"]
    )

    assert ended.exit_code == 0
    assert len(ended.stdout.splitlines()) == 1
    found = json.loads(ended.stdout)
    assert list(found) == ["dataset", "split", "n", "skipped", "tasks"]
    assert (found["dataset"], found["split"], found["n"], found["skipped"]) == ("tweets", "all", 2, 0)
    assert {"labels", "metrics", "intervals", "constant"} <= set(found["tasks"]["polarity"])


def test_evaluate_shows_intervals_constant_classes_and_confusion_and_writes_a_report(
    cli: CliRunner, tweets: Path, tmp_path: Path
) -> None:
    command = ["evaluate", "text", "--dataset", "tweets", "--data", str(tweets), "--split", "all"]

    ended = cli.invoke(app, [*command, "--report", str(tmp_path / "report")])

    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert lines[1].split() == ["task", "metric", "network", "95", "%", "interval", "constant"]
    assert lines[2].split()[:3] == ["polarity", "accuracy", "1.0000"]
    assert "polarity, by class" in ended.stdout
    assert "truth / answer" in ended.stdout
    assert (tmp_path / "report" / "report.json").is_file()
    assert (tmp_path / "report" / "polarity_roc.png").is_file()


def test_evaluate_all_shows_what_lies_there_in_one_table(
    cli: CliRunner, tweets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(DATASETS, "speech")  # minutes; see the next test
    command = ["evaluate", "all", "--data", str(tweets), "--split", "all"]

    table, as_json = cli.invoke(app, command), cli.invoke(app, [*command, "--json"])

    assert (table.exit_code, as_json.exit_code) == (0, 0)
    (row,) = [line.split() for line in table.stdout.splitlines() if line.split()[:2] == ["text", "tweets"]]
    assert row[2:6] == ["polarity", "2", "1.000", "(0.500)"]
    assert "audio emodb: no" in table.stderr
    judged = [one for one in json.loads(as_json.stdout)["evaluations"] if "tasks" in one]
    # The behavioural tests lie in the repository.
    assert [(one["modality"], one["dataset"]) for one in judged] == [("text", "checklist"), ("text", "tweets")]
    assert judged[1]["n"] == 2


def test_evaluate_all_has_a_table_of_what_was_transcribed(
    cli: CliRunner, tweets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = {"speech": {"sample": DATASETS["speech"]["sample"]}, "text": {"tweets": DATASETS["text"]["tweets"]}}
    monkeypatch.setattr("models.evaluate.DATASETS", only)
    monkeypatch.setitem(OWN_DATA, "sample", one_turn(tweets / "call"))

    ended = cli.invoke(app, ["evaluate", "all", "--data", str(tweets), "--split", "all"])

    assert ended.exit_code == 0
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert any(line[:2] == ["text", "tweets"] for line in lines)
    (row,) = [line for line in lines if line[:1] == ["sample"]]
    assert row[1:5] == ["1", "12", "0", "(1)"]


def one_turn(folder: Path) -> Path:
    """The sample call with its second turn only."""
    folder.mkdir()
    header, _, turn, *_ = ANGRY_TO_CONTENT.with_suffix(".txt").read_text().splitlines()
    (folder / "call.txt").write_text(f"{header}\n{turn}\n")
    (folder / "call.flac").write_bytes(ANGRY_TO_CONTENT.read_bytes())
    return folder


def test_what_the_project_makes_itself_needs_no_data_folder(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OWN_DATA, "sample", one_turn(tmp_path / "call"))

    ended = cli.invoke(app, ["evaluate", "speech", "--dataset", "sample"])
    without = cli.invoke(app, ["evaluate", "speech", "--dataset", "librivox"])
    unknown = cli.invoke(app, ["evaluate", "speech", "--dataset", "sample", "--transcriber", "no such"])

    assert ended.exit_code == 0
    assert "sample validation: 1 judged, 0 left out" in ended.stdout
    assert ["words", "wer", "0.0000"] in [line.split()[:3] for line in ended.stdout.splitlines()]
    assert (without.exit_code, unknown.exit_code) == (2, 1)
    assert "--data" in without.stderr
    assert "no such" in unknown.stderr


def test_behavioural_tests_need_no_data_folder_and_are_counted_by_capability(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["evaluate", "text", "--dataset", "checklist"])

    assert ended.exit_code == 0
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert ["negation", "32"] in [line[:2] for line in lines]
    assert ["all", "301"] in [line[:2] for line in lines]
    assert "301 behavioural tests; judged above: the 311 sentences" in ended.stdout


@pytest.mark.slow
def test_train_prints_one_json_object(cli: CliRunner, tmp_path: Path) -> None:
    ended = cli.invoke(app, ["train", "debug", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--json"])

    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["recipe"] == "debug"
    assert (tmp_path / "out" / "debug.safetensors").is_file()


def debug_folds(data: Path) -> list[Callable[[], Recipe]]:
    return [partial(debug, data)] * 2


@pytest.mark.slow
def test_train_folds_prints_mean_and_standard_deviation(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FOLDS, "debug", f"{__name__}:debug_folds")
    ended = cli.invoke(app, ["train", "debug", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--folds"])

    assert ended.exit_code == 0
    assert "of 2 folds" in ended.stdout
    assert "accuracy 1.0000 ± 0.0000" in ended.stdout
    assert (tmp_path / "out" / "fold_2" / "debug.safetensors").is_file()


def test_a_recipe_that_makes_its_data_needs_no_folder_and_another_one_does(cli: CliRunner, tmp_path: Path) -> None:
    made = cli.invoke(app, ["train", "debug", "--out", str(tmp_path / "out"), "--json"])
    refused = cli.invoke(app, ["train", "video_fer2013", "--out", str(tmp_path / "other")])

    assert json.loads(made.stdout)["recipe"] == "debug"
    assert refused.exit_code == EXIT_USAGE
    assert "--data" in refused.stderr


def test_a_data_set_that_nobody_knows_is_named_before_a_folder_is_asked_for(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["evaluate", "text", "--dataset", "nope"])

    assert ended.exit_code == EXIT_FAILED
    assert "'nope'" in ended.stderr
