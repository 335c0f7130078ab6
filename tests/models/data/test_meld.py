from pathlib import Path

import numpy as np
import pytest

from models.data import meld
from models.errors import DataError
from models.types import EMOTIONS, POLARITIES

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_utterance_has_emotion_and_sentiment_and_broken_rows_are_counted(tmp_path: Path) -> None:
    write(
        tmp_path / "meld" / "dev_sent_emo.csv",
        'Sr No.,Utterance,Speaker,Emotion,Sentiment\n1,"Oh, great!",Ross,joy,positive\n2,No.,Joey,hungry,negative\n3\n'
        "4,   ,Joey,anger,negative\n5,Leave me alone.,Joey,Anger,negative\n",
    )
    found = meld.read(tmp_path, "dev")

    assert found.texts == ("Oh, great!", "Leave me alone.")
    assert found.skipped == 3
    assert [EMOTIONS[row.argmax()] for row in found.emotion] == ["joy", "anger"]
    assert [POLARITIES[row.argmax()] for row in found.polarity] == ["positive", "negative"]
    assert np.allclose(found.emotion.sum(axis=1), 1)
    assert found.before == ((), ())


def test_the_turns_before_come_oldest_first_three_at_most_and_from_the_same_dialogue(tmp_path: Path) -> None:
    rows = [f"0,turn {n},A,joy,positive,{dialogue},{n}" for dialogue in (1, 0) for n in (4, 2, 0, 1, 3)]
    write(tmp_path / "meld" / "dev_sent_emo.csv", HEADER + "\n".join(rows))

    found = meld.read(tmp_path, "validation")

    assert found.texts == ("turn 0", "turn 1", "turn 2", "turn 3", "turn 4") * 2
    assert found.before[0] == found.before[5] == ()
    assert found.before[2] == ("turn 0", "turn 1")
    assert found.before[4] == found.before[9] == ("turn 1", "turn 2", "turn 3")


def test_a_turn_without_a_usable_label_was_said_all_the_same(tmp_path: Path) -> None:
    write(
        tmp_path / "meld" / "dev_sent_emo.csv",
        HEADER
        + "1,Hi.,A,joy,positive,0,0\n2,Hm.,B,hungry,neutral,0,1\n3,Bye.,A,joy,positive,0,2\n4,Alone,A,joy,positive,x,\n",
    )

    found = meld.read(tmp_path, "dev")

    assert dict(zip(found.texts, found.before, strict=True)) == {"Hi.": (), "Bye.": ("Hi.", "Hm."), "Alone": ()}
    assert found.skipped == 1


def test_any_split_and_all_of_them_are_read_without_mixing_dialogues(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        write(tmp_path / "meld" / f"{name}_sent_emo.csv", HEADER + f"1,{name},A,joy,positive,0,0\n")
    write(tmp_path / "meld" / "notes.csv", "a,b\n1,2\n")

    assert meld.read(tmp_path, "test").texts == ("test",)
    everything = meld.read(tmp_path, "all")
    assert sorted(everything.texts) == ["dev", "test", "train"]
    assert everything.before == ((), (), ())
    assert meld.read(tmp_path / "meld", "train").texts == ("train",)
    assert meld.read(tmp_path / "meld" / "test_sent_emo.csv", "all").texts == ("test",)


def test_any_csv_with_the_right_columns_counts_under_all_and_others_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "meld" / "test.csv", HEADER + "1,Hello,A,joy,positive,0,0\n")
    write(tmp_path / "meld" / "other" / "held.csv", HEADER + "1,Bye,A,anger,negative,0,0\n")
    write(tmp_path / "meld" / "notes.csv", "a,b\n1,2\n")

    everything = meld.read(tmp_path, "all")

    assert (sorted(everything.texts), everything.skipped) == (["Bye", "Hello"], 1)
    assert meld.read(tmp_path, "test").texts == ("Hello",)


def test_the_published_files_wrong_quotes_are_mended(tmp_path: Path) -> None:
    told = "1,He\u0092s \u0093lost\u0094 it\u0085,A,joy,positive,0,0\n".encode()
    write(tmp_path / "meld" / "dev_sent_emo.csv", HEADER.encode() + told + b"2,It\x92s caf\xe9,A,joy,positive,0,1\n")

    assert meld.read(tmp_path, "dev").texts == ("He\u2019s \u201clost\u201d it\u2026", "It\u2019s caf\u00e9")


def test_nul_bytes_and_huge_fields_are_broken_rows(tmp_path: Path) -> None:
    huge = "x" * 200_000
    write(
        tmp_path / "meld" / "dev_sent_emo.csv",
        HEADER + f"1,{huge},A,joy,positive,0,0\n2,N\0o,A,joy,positive,0,1\n3,Yes,A,joy,positive,0,2\n",
    )

    found = meld.read(tmp_path, "dev")

    assert (found.texts, found.skipped) == (("Yes",), 2)


@pytest.mark.parametrize(
    ("content", "said"), [("", "found: nothing"), ("a,b\n1,2\n", "no column Utterance"), (HEADER, "no usable row")]
)
def test_a_file_without_a_usable_row_is_refused(tmp_path: Path, content: str, said: str) -> None:
    write(tmp_path / "meld" / "dev_sent_emo.csv", content)

    with pytest.raises(DataError, match=said):
        meld.read(tmp_path, "dev")


def test_a_missing_split_names_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "meld" / "dev_sent_emo.csv", HEADER)

    with pytest.raises(DataError, match=r"test_sent_emo\.csv \(found: dev_sent_emo\.csv\): see docs/data\.md"):
        meld.read(tmp_path, "test")


def test_the_real_set_has_its_published_size(data_dir: Path) -> None:
    found = meld.read(data_dir, "dev")

    assert (len(found), found.skipped) == (1109, 0)
    assert sum(not before for before in found.before) == 114
    assert max(len(before) for before in found.before) == 3
