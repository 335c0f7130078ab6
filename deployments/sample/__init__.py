"""The sample call that `undertone demo` plays; the project's own making, by `make_sample.py`."""

import os
import shlex
from pathlib import Path

ANGRY_TO_CONTENT = Path(__file__).with_name("angry_to_content.flac")
"""A customer and an agent on two channels (`agent,customer`), 16 kHz; the words stand in the `.txt` beside it."""


def sample_path() -> str:
    """The sample call's path as it can be typed: short where it lies below the current folder, and the command's is no whole one."""
    path, here = ANGRY_TO_CONTENT, Path.cwd()
    is_short = path.is_relative_to(here) and not os.environ.get("UNDERTONE_COMMAND", "").startswith("/")
    return shlex.quote(str(path.relative_to(here) if is_short else path))
