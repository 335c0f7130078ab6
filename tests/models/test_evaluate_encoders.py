import json
from pathlib import Path

import pytest

from models import evaluate
from models.bundles import bundle_folder
from models.data import checklist
from models.errors import DataError
from models.evaluate_encoders import meld, meld_context, tweets
from models.tasks import ScoreTask

MELD = """Utterance,Emotion,Sentiment
"Thank you so much, I am so happy!",joy,positive
I am so angry with you!,anger,negative
What is your account number please,neutral,neutral
Let me check that for you,neutral,neutral
broken row
"""

TWEETS = """airline_sentiment,text
negative,@united this is the worst service ever
positive,@united thank you so much that was great
"""


@pytest.mark.parametrize("dataset", ["meld", "meld_recognised"])
def test_words_are_evaluated_on_any_folder_in_the_layout(tmp_path: Path, dataset: str) -> None:
    (tmp_path / "meld").mkdir()
    (tmp_path / "meld" / "dev_sent_emo.csv").write_text(MELD)
    found = evaluate.run("text", "embedded", dataset, tmp_path)
    assert (found["n"], found["skipped"], found["split"]) == (4, 1, "validation")
    assert found["tasks"]["emotion"]["metrics"]["accuracy"] == 1.0
    assert found["tasks"]["polarity"]["metrics"]["accuracy"] == 1.0
    assert found["tasks"]["emotion"]["constant"]["accuracy"] == 0.5
    json.dumps(found)


def test_turns_before_are_read_only_where_asked(tmp_path: Path) -> None:
    (tmp_path / "meld").mkdir()
    rows = """Utterance,Emotion,Sentiment,Dialogue_ID,Utterance_ID
I hate you! This is the worst day of my life!,anger,negative,0,0
"Oh, really.",anger,negative,0,1
"""
    (tmp_path / "meld" / "dev_sent_emo.csv").write_text(rows)
    folder = bundle_folder("embedded")

    alone, after = (one(folder, tmp_path, "all").tasks["score"] for one in (meld, meld_context))

    assert isinstance(alone, ScoreTask)
    assert isinstance(after, ScoreTask)
    assert alone.answer[0] == pytest.approx(after.answer[0], abs=1e-3)
    assert alone.answer[1] != pytest.approx(after.answer[1], abs=0.05)


def test_a_set_without_emotions_has_no_emotion_task(tmp_path: Path) -> None:
    (tmp_path / "airline").mkdir()
    (tmp_path / "airline" / "tweets_train.csv").write_text(TWEETS)
    found = evaluate.run("text", "embedded", "tweets", tmp_path, "all")
    assert set(found["tasks"]) == {"polarity", "score"}
    assert found["tasks"]["polarity"]["metrics"]["accuracy"] == 1.0


def test_comments_with_several_labels_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "goemotions" / "ekman"
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("anger\njoy\n")
    (folder / "dev.tsv").write_text("I love it so much\t1\ta\nwhat a day\t0,1\tb\n")
    found = evaluate.run("text", "embedded", "goemotions", tmp_path)
    assert (found["n"], found["skipped"]) == (1, 1)


def test_a_data_folder_without_the_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"docs/data\.md"):
        evaluate.run("text", "embedded", "meld", tmp_path)


def test_long_foreign_and_wordless_texts_are_judged_and_empty_ones_skipped(tmp_path: Path) -> None:
    (tmp_path / "meld").mkdir()
    texts = ["so " * 10_000, "😡😡😡", "Это ужасно", "我很生气", "???", "   ", ""]
    rows = "".join(f'"{text}",anger,negative\n' for text in texts)
    (tmp_path / "meld" / "kept_back_sent_emo.csv").write_text("Utterance,Emotion,Sentiment\n" + rows, encoding="utf-8")
    for dataset, split in (("meld", "kept_back"), ("meld_recognised", "all")):
        found = evaluate.run("text", "embedded", dataset, tmp_path, split)
        assert (found["n"], found["skipped"]) == (5, 2)
        assert found["tasks"]["emotion"]["metrics"]["roc_auc_ovr"] is None


def test_the_score_follows_the_emotion_where_a_set_knows_it_else_the_polarity(tmp_path: Path) -> None:
    (tmp_path / "meld").mkdir()
    (tmp_path / "meld" / "dev_sent_emo.csv").write_text(MELD)
    (tmp_path / "airline").mkdir()
    (tmp_path / "airline" / "tweets_train.csv").write_text(TWEETS)
    folder = bundle_folder("embedded")
    emotion, polarity = meld(folder, tmp_path, "all").tasks["score"], tweets(folder, tmp_path, "all").tasks["score"]
    assert isinstance(emotion, ScoreTask)
    assert isinstance(polarity, ScoreTask)
    assert emotion.truth.tolist() == [2.0, -2.5, 0.0, 0.0]
    assert polarity.truth.tolist() == [-2.0, 2.0]


@pytest.mark.slow
def test_the_fusion_beats_every_single_encoder_on_label_pairs(data_dir: Path) -> None:
    tasks = evaluate.run("fusion", "embedded", "label_pairs", data_dir)["tasks"]
    singles = [tasks[f"emotion_{one}"]["metrics"]["f1_weighted"] for one in ("audio", "video", "text")]
    assert tasks["emotion"]["metrics"]["f1_weighted"] > max(singles)


def test_the_parties_of_a_conversation_are_judged_each_by_itself(tmp_path: Path) -> None:
    turns = [
        {
            "floor": "inbound",
            "text_mt": ["I am so angry with you!", "What?"],
            "text_src": ["…", "…"],
            "Emotion": [6, 4],
        },
        {"floor": "outbound", "text_mt": ["…"], "text_src": ["Great! That is wonderful!"], "Emotion": [1]},
    ]
    (tmp_path / "maia").mkdir()
    (tmp_path / "maia" / "one.json").write_text(json.dumps([{"turns": turns}]))
    for dataset, label, skipped in (("maia_customer", "negative", 1), ("maia_agent", "positive", 0)):
        found = evaluate.run("text", "embedded", dataset, tmp_path, "all")
        assert (found["n"], found["skipped"]) == (1, skipped)
        assert found["tasks"]["polarity"]["metrics"]["accuracy"] == 1.0
        assert found["tasks"]["polarity"]["per_class"][label]["support"] == 1


def test_behavioural_tests_are_counted_by_capability(tmp_path: Path) -> None:
    rows = [
        ("plain", "minimum", "customer", "negative", "I am so angry with you!", ""),
        ("plain", "minimum", "customer", "positive", "I am so angry with you!", ""),
        ("marks", "invariance", "customer", "negative", "I am so angry with you!", "I am so angry with you."),
        ("turn", "direction", "customer", "higher", "I am so angry with you!", "I love it, thank you so much!"),
        ("turn", "direction", "customer", "lower", "I am so angry with you!", "I love it, thank you so much!"),
    ]
    path = tmp_path / "tests.tsv"
    path.write_text("\n".join("\t".join(row) for row in [checklist.COLUMNS, *rows]) + "\n")

    found = evaluate.run("text", "embedded", "checklist", path)

    assert found["capabilities"] == {
        "plain": {"n": 2, "passed": 1},
        "marks": {"n": 1, "passed": 1},
        "turn": {"n": 2, "passed": 1},
    }
    assert found["n"] == found["tasks"]["polarity"]["n"] == 4
    json.dumps(found)


def test_the_tests_of_this_repository_need_no_data(tmp_path: Path) -> None:
    found = evaluate.run("text", "embedded", "checklist", tmp_path)
    assert sum(one["n"] for one in found["capabilities"].values()) == len(checklist.read())
