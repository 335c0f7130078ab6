"""EmoDB: ten German actors, seven emotions (Burkhardt et al. 2005, doi:10.21437/Interspeech.2005-446).

A name as `03a01Wa` is speaker (two digits), text (a or b and two digits), emotion (a letter) and version.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from models.data.files import files_below, set_folder
from models.data.media import FILE_MAX_BYTES, SOUND_SUFFIXES
from models.data.recordings import Recordings, decode_all
from models.errors import DataError
from models.labels import EMODB_LABELS

LETTERS: Mapping[str, str] = {
    "W": "anger",  # Wut
    "L": "boredom",  # Langeweile
    "E": "disgust",  # Ekel
    "A": "fear",  # Angst
    "F": "happiness",  # Freude
    "T": "sadness",  # Trauer
    "N": "neutral",
}
VALIDATION_SPEAKERS = frozenset({15, 16})
"""The last man and the last woman of 03 to 16: the set has no split of its own."""

_NAME = re.compile(r"(\d\d)[a-z]\d\d([WLEAFTN])[a-z]?", re.ASCII)


def read(data: Path, split: str) -> Recordings:
    """Read the sound files below `emodb/` (as published: in `wav/`).

    Args:
        data: The data folder, or any folder of such files.
        split: `train`, `validation` (speakers 15 and 16) or `all`.

    Raises:
        DataError: No such split, no such folder, or no readable clip.
    """
    if split not in {"train", "validation", "all"}:
        raise DataError(f"EmoDB has no split {split!r}: choose one of train, validation, all.")
    files = files_below(set_folder(data, "emodb", "emo-db", "wav"), SOUND_SUFFIXES, FILE_MAX_BYTES)
    named, skipped = [], files.skipped
    for path in files.paths:
        name = _NAME.fullmatch(path.stem)
        if name is None:
            skipped += 1
            continue
        speaker = int(name[1])
        if split == "all" or (split == "validation") == (speaker in VALIDATION_SPEAKERS):
            named.append((path, EMODB_LABELS.index(LETTERS[name[2]]), speaker))
    expected = f"no EmoDB clip of split {split!r} in {data}: expected emodb/wav/ with files named like 03a01Wa.wav"
    return decode_all(named, EMODB_LABELS, skipped, expected)
