"""The sample call that `undertone demo` plays; the project's own making, by `make_sample.py`."""

from pathlib import Path

ANGRY_TO_CONTENT = Path(__file__).with_name("angry_to_content.flac")
"""A customer and an agent on two channels (`agent,customer`), 16 kHz; the words stand in the `.txt` beside it."""
