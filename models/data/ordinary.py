"""Speech in which nobody acts a feeling, without labels: read books (`speech/librivox/`) and an agent's monologue (`calls/`)."""

from pathlib import Path

from models.data.files import files_below, set_folder
from models.data.media import FILE_MAX_BYTES, SOUND_SUFFIXES, read_sound
from models.errors import DataError
from models.types import SAMPLE_RATE_HZ, FloatArray

PIECE_S = 2.5
"""Length of a piece: that of a clip of RAVDESS with some silence around it."""
FILE_MAX_S = 240.0
HELD_OUT = "auto_repairs"
"""Beginning of the names of the call that judges what was learned; it is never read."""


def read(data: Path) -> list[FloatArray]:
    """Pieces of 2.5 s of every file below `speech/librivox/`, and of the sound files in `calls/` but those of the held-out call.

    Raises:
        DataError: No readable sound.
    """
    books, calls = (set_folder(data, name) for name in ("speech", "calls"))
    # A folder that is missing is `data` itself, whose other sets are not meant.
    folders = [one for one in (books / "librivox", calls) if one.is_dir() and one != data]
    paths = [path for folder in folders for path in files_below(folder, SOUND_SUFFIXES, FILE_MAX_BYTES).paths]
    size = int(PIECE_S * SAMPLE_RATE_HZ)
    pieces = []
    for path in paths:
        is_held_out = any(part.startswith(HELD_OUT) for part in path.relative_to(data).parts)
        sound = None if is_held_out else read_sound(path, FILE_MAX_S)
        if sound is not None:
            pieces += [sound[start : start + size] for start in range(0, max(1, len(sound) - size + 1), size)]
    if not pieces:
        raise DataError(f"no sound in {data}: expected speech/librivox/*.wav or calls/*.flac")
    return pieces
