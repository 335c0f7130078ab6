"""Read speech with its words: a sound file, and beside it a `.txt` of the same name that holds what is read.

So CMU's PocketSphinx ships a few sentences of LibriVox (public domain); any folder in this form will do.
"""

from pathlib import Path

from models.data.files import files_below, is_usable, set_folder
from models.data.media import FILE_MAX_BYTES, SOUND_SUFFIXES
from models.data.recordings import Recordings, decode_all
from models.errors import DataError

LENGTH_MAX_S = 600.0
TEXT_MAX_BYTES = 64 << 10
"""More than ten minutes of anybody's speech."""


def read(data: Path, split: str) -> Recordings:
    """Read the sound files below `speech/librivox/` that have their words beside them; the label of each is its text.

    A sound without a text, one longer than `LENGTH_MAX_S`, a text that is too large, empty or not UTF-8 are skipped and counted.

    Args:
        data: The data folder, or any folder of such files.
        split: `validation` or `all`: nothing here is trained on.

    Raises:
        DataError: No such split, no such folder, or no sound with its words.
    """
    if split not in {"validation", "all"}:
        raise DataError(f"read speech has no split {split!r}: choose validation or all.")
    files = files_below(set_folder(set_folder(data, "speech"), "librivox"), SOUND_SUFFIXES, FILE_MAX_BYTES)
    texts = [read_text(path.with_suffix(".txt")) for path in files.paths]
    named = [(path, row, 0) for row, (path, text) in enumerate(zip(files.paths, texts, strict=True)) if text.strip()]
    return decode_all(
        named,
        tuple(" ".join(text.split()) for text in texts),
        files.skipped + len(texts) - len(named),
        f"no read speech in {data}: expected speech/librivox/ with sound files and a .txt of the same name beside each",
        LENGTH_MAX_S,
    )


def read_text(path: Path) -> str:
    """What stands in a small text file; nothing where it is not there, too large, no UTF-8 or a link out of its folder."""
    if not is_usable(path, path.parent.resolve(), TEXT_MAX_BYTES):
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
