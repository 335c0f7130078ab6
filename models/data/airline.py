"""Twitter US Airline Sentiment: customers writing to airlines in February 2015 (CrowdFlower; CC BY-NC-SA 4.0)."""

import hashlib
import html
import re
from pathlib import Path

import numpy as np

from models.data.sentences import Sentences, collect, one_hot, read_csv
from models.types import EMOTIONS, POLARITIES

VALIDATION_SHARE = 10
"""One text in so many, by the hash of its words, is validation: the set has no split of its own."""


def read(data: Path, split: str) -> Sentences:
    """Read `airline/tweets_train.csv` (columns `airline_sentiment`, `text`) under `data`.

    Args:
        data: The data folder, or one CSV file of this layout.
        split: `train`, `validation` (a tenth, by hash) or `all`.

    Raises:
        DataError: No such file, or no usable row.
    """
    path = data if data.is_file() else data / "airline" / "tweets_train.csv"
    rows, skipped = [], 0
    for row in read_csv(path):
        text, polarity = as_sentence(row.get("text") or ""), row.get("airline_sentiment")
        if not text or polarity not in POLARITIES:
            skipped += 1
        elif split in {"all", _split(text)}:
            rows.append((text, np.zeros(len(EMOTIONS), dtype=np.float32), one_hot(polarity, POLARITIES)))
    return collect(rows, skipped, path)


def as_sentence(tweet: str) -> str:
    """A tweet's words: HTML entities resolved; addressees, links and hash signs removed."""
    return " ".join(re.sub(r"https?://\S+|@\w+|#", " ", html.unescape(tweet)).split())


def _split(text: str) -> str:
    digest = hashlib.sha256(text.lower().encode()).digest()
    return "validation" if digest[0] % VALIDATION_SHARE == 0 else "train"
