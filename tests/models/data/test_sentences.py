from pathlib import Path

import numpy as np
import pytest

from models.data import DataError, airline, goemotions, meld
from models.data.sentences import as_recognised
from models.types import EMOTIONS, POLARITIES


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_meld_gives_emotion_and_sentiment_of_each_utterance_and_counts_broken_rows(tmp_path: Path) -> None:
    write(
        tmp_path / "meld" / "dev_sent_emo.csv",
        'Sr No.,Utterance,Speaker,Emotion,Sentiment\n1,"Oh, great!",Ross,joy,positive\n2,No.,Joey,bored,negative\n3\n'
        "4,   ,Joey,anger,negative\n5,Leave me alone.,Joey,anger,negative\n",
    )
    found = meld.read(tmp_path, "dev")
    assert found.texts == ("Oh, great!", "Leave me alone.")
    assert found.skipped == 3
    assert [EMOTIONS[row.argmax()] for row in found.emotion] == ["joy", "anger"]
    assert [POLARITIES[row.argmax()] for row in found.polarity] == ["positive", "negative"]
    assert np.allclose(found.emotion.sum(axis=1), 1)


def test_goemotions_shares_a_rows_weight_between_its_labels(tmp_path: Path) -> None:
    folder = tmp_path / "goemotions" / "ekman"
    write(folder / "labels.txt", "anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise")
    write(
        folder / "dev.tsv", "I love this, but why\t3,6\tabc\nOh\t6\tdef\nbad label\t9\tghi\nno label\nJust so\t4\tjkl\n"
    )
    found = goemotions.read(tmp_path, "dev")
    assert found.texts == ("I love this, but why", "Oh", "Just so")
    assert found.skipped == 2
    assert dict(zip(EMOTIONS, found.emotion[0].tolist(), strict=True))["surprise"] == 0.5
    # Surprise says nothing about polarity: joy decides the first row, and nobody the second.
    assert found.polarity.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_tweets_lose_addressees_and_links_and_split_by_their_words(tmp_path: Path) -> None:
    rows = "\n".join(f'negative,"@united lost my bag number {n} &amp; no help http://t.co/x #fail"' for n in range(300))
    write(
        tmp_path / "airline" / "tweets_train.csv",
        f"airline_sentiment,text\n{rows}\nangry,unknown label\nneutral,@united\n",
    )
    train, validation = (airline.read(tmp_path, split) for split in ("train", "validation"))
    assert train.texts[0].startswith("lost my bag number")
    assert train.texts[0].endswith("& no help fail")
    assert len(train) + len(validation) == 300
    assert not set(train.texts) & set(validation.texts)
    assert 10 <= len(validation) <= 60
    assert train.skipped == 2
    assert not train.emotion.any()


@pytest.mark.parametrize("read", [meld.read, goemotions.read, airline.read])
def test_a_missing_set_is_named(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(DataError, match="data README"):
        read(tmp_path, "dev")


def test_a_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "meld" / "dev_sent_emo.csv", "a,b\n1,2\n")
    with pytest.raises(DataError, match="no usable row"):
        meld.read(tmp_path, "dev")


def test_recognised_text_is_lower_case_without_punctuation_but_apostrophes() -> None:
    rng = np.random.default_rng(0)
    assert as_recognised("Oh — DON\u2019T, you_dare!  (Ever.)", rng, dropped=0.0) == "oh don't you dare ever"
    assert as_recognised("one two three four", rng, dropped=1.0) == "one two three four"
    assert as_recognised("?!", rng) == "?!"
