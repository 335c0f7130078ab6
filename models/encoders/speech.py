"""The transcriber: Whisper where its weights are in the cache or fetched within a deadline, else PocketSphinx; the log says why."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import whisper

from models.encoders.pocketsphinx import PocketSphinxTranscriber
from models.encoders.whisper import load_whisper
from models.errors import TranscriberError, WhisperError
from models.hashing import sha256_of
from models.types import Transcriber

logger = logging.getLogger(__name__)

POCKETSPHINX = "pocketsphinx"
FETCH_DEADLINE_S = 20.0

# Whisper's own download checks the SHA-256; a process of its own can be ended when the network says nothing at all.
_FETCH = "import sys, whisper; whisper._download(sys.argv[1], sys.argv[2], in_memory=False)"


def load_transcriber(
    name_or_path: str,
    *,
    device: str = "cpu",
    fetch_deadline_s: float = FETCH_DEADLINE_S,
    sha256: str | None = None,
) -> Transcriber:
    """Load the transcriber that the configuration names.

    Args:
        name_or_path: `pocketsphinx`; a name of `whisper.available_models()`, its weights taken from Whisper's cache
            folder or fetched within the deadline; or a path to a Whisper checkpoint.
        device: Torch device for Whisper.
        fetch_deadline_s: Longest time to wait for the weights, in seconds. After it PocketSphinx serves, and the log
            says so.
        sha256: Expected digest of the file at a path; a name brings its own.

    Returns:
        The transcriber; its `engine` says which.

    Raises:
        TranscriberError: When nothing is called so.
        WhisperError: When a file given by path is damaged, or has another hash; it is never replaced by PocketSphinx.
        PocketSphinxError: When PocketSphinx cannot be loaded either.
    """
    if name_or_path == POCKETSPHINX:
        return PocketSphinxTranscriber()
    if name_or_path in whisper.available_models():
        return _by_name(name_or_path, device, fetch_deadline_s)
    path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join([POCKETSPHINX, *whisper.available_models()])
        raise TranscriberError(
            f"no transcriber {name_or_path!r}: give the path of a Whisper checkpoint, or one of {known}"
        )
    return load_whisper(path, path.stem, device=device, sha256=sha256)


def _by_name(name: str, device: str, fetch_deadline_s: float) -> Transcriber:
    url = whisper._MODELS[name]  # noqa: SLF001  the address that holds the published digest has no public name
    path = weights_path(name)
    digest = url.split("/")[-2]
    why = "" if _is_intact(path, digest) else _fetch(url, path.parent, fetch_deadline_s)
    if not why:
        try:
            return load_whisper(path, name, device=device, sha256=digest)
        except WhisperError as error:
            why = str(error)
    transcriber = PocketSphinxTranscriber()
    logger.warning("Whisper %s cannot serve (%s): %s transcribes instead", name, why, transcriber.engine)
    return transcriber


def weights_path(name_or_path: str) -> Path:
    """Where the weights of a Whisper model lie: in openai-whisper's cache under its own file name, or at the path."""
    url: str | None = whisper._MODELS.get(name_or_path)  # noqa: SLF001  as above
    if url is None:
        return Path(name_or_path)
    return Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper" / url.rsplit("/", 1)[-1]


def _is_intact(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    return sha256_of(path) == digest


def _fetch(url: str, folder: Path, deadline_s: float) -> str:
    """Fetch the weights at `url` into `folder`; return why that failed, or nothing."""
    try:
        ended = subprocess.run(  # noqa: S603  our own interpreter, and an address from a constant of whisper
            [sys.executable, "-c", _FETCH, url, str(folder)],
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its weights did not come within {deadline_s:g} s"
    if ended.returncode == 0:
        return ""
    return f"its weights cannot be fetched: {(ended.stderr.strip().splitlines() or ['no reason given'])[-1][:200]}"
