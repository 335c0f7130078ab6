from pathlib import Path

import pytest

from models.data import airline
from models.errors import DataError
from models.types import POLARITIES

HEADER = "airline_sentiment,text\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    rows = "\n".join(f'negative,"@united lost my bag number {n} &amp; no help http://t.co/x #fail"' for n in range(300))
    write(tmp_path / "airline" / "tweets_train.csv", f"{HEADER}{rows}\nangry,unknown label\nneutral,@united\n")
    return tmp_path


def test_tweets_lose_addressees_and_links_and_split_by_their_words(tweets: Path) -> None:
    train, validation = (airline.read(tweets, split) for split in ("train", "validation"))

    assert train.texts[0].startswith("lost my bag number")
    assert train.texts[0].endswith("& no help fail")
    assert len(train) + len(validation) == 300
    assert not set(train.texts) & set(validation.texts)
    assert 10 <= len(validation) <= 60
    assert train.skipped == 2
    assert not train.emotion.any()


def test_a_files_name_is_a_split_and_all_is_every_row(tweets: Path) -> None:
    write(tweets / "airline" / "tweets_test.csv", f"{HEADER}positive,great crew\n")
    write(tweets / "airline" / "other.csv", "a,b\n1,2\n")

    for split in ("test", "tweets_test"):
        found = airline.read(tweets, split)
        assert found.texts == ("great crew",)
        assert POLARITIES[found.polarity[0].argmax()] == "positive"
    assert len(airline.read(tweets, "all")) == 301
    assert airline.read(tweets, "all").skipped == 3
    assert "great crew" not in airline.read(tweets, "train").texts
    assert len(airline.read(tweets / "airline" / "tweets_test.csv", "all")) == 1


def test_the_original_file_with_its_many_columns_is_understood(tmp_path: Path) -> None:
    rows = "\n".join(f'57030{n},Neutral,1.0,,Virgin America,jnardino,"Say, {n}?\nYes.",2015-02-24' for n in range(50))
    write(
        tmp_path / "airline" / "Tweets.csv",
        f"tweet_id,airline_sentiment,airline_sentiment_confidence,negativereason,airline,name,text,tweet_created\n{rows}\n",
    )

    everything = airline.read(tmp_path, "all")

    assert everything.texts[0] == "Say, 0? Yes."
    assert (len(everything), everything.skipped) == (50, 0)
    assert len(airline.read(tmp_path, "train")) + len(airline.read(tmp_path, "validation")) == 50


def test_huge_fields_and_nul_bytes_are_broken_rows(tweets: Path) -> None:
    write(tweets / "airline" / "test.csv", f"{HEADER}negative,{'x' * 200_000}\npositive,a\0b\npositive,great crew\n")

    found = airline.read(tweets, "test")

    assert (found.texts, found.skipped) == (("great crew",), 2)


def test_without_the_training_file_no_test_file_takes_its_place(tmp_path: Path) -> None:
    write(tmp_path / "airline" / "Tweets.csv", HEADER + "\n".join(f"positive,great crew {n}" for n in range(50)))
    write(tmp_path / "airline" / "tweets_test.csv", HEADER + "\n".join(f"positive,kept back {n}" for n in range(50)))

    texts = airline.read(tmp_path, "train").texts + airline.read(tmp_path, "validation").texts

    assert {text[:5] for text in texts} == {"great"}


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_a_missing_file_is_named(tmp_path: Path, split: str) -> None:
    (tmp_path / "airline").mkdir()

    with pytest.raises(DataError, match=r"found: no CSV\): see docs/data\.md"):
        airline.read(tmp_path, split)


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    write(tmp_path / "airline" / "test.csv", "sentiment,words\npositive,great\n")

    with pytest.raises(DataError, match=r"no column airline_sentiment, text in .* \(found: sentiment, words\)"):
        airline.read(tmp_path, "all")
