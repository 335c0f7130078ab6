"""MELD: utterances of the series Friends with emotion and sentiment (Poria et al. 2019, arXiv:1810.02508)."""

from pathlib import Path

from models.data.sentences import Sentences, collect, one_hot, read_csv
from models.types import EMOTIONS, POLARITIES


def read(data: Path, split: str) -> Sentences:
    """Read `meld/SPLIT_sent_emo.csv` under `data`, the official splits `train` and `dev`.

    Args:
        data: The data folder, or one CSV file of this layout.
        split: The file's prefix; not used when `data` is the file.

    Raises:
        DataError: No such file, or no usable row.
    """
    path = data if data.is_file() else data / "meld" / f"{split}_sent_emo.csv"
    rows, skipped = [], 0
    for row in read_csv(path):
        text, emotion, polarity = row.get("Utterance"), row.get("Emotion"), row.get("Sentiment")
        if not (text and text.strip()) or emotion not in EMOTIONS or polarity not in POLARITIES:
            skipped += 1
            continue
        rows.append((text, one_hot(emotion, EMOTIONS), one_hot(polarity, POLARITIES)))
    return collect(rows, skipped, path)
