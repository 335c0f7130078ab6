"""Files of a repository on the Hugging Face Hub, at one commit: out of the machine's cache, or fetched into it.

`HF_HOME` says where the cache is, `HF_ENDPOINT` which hub, `HF_HUB_OFFLINE=1` that none is to be asked.
"""

import re
from pathlib import Path

from models.errors import BundleError

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetched(repository: str, revision: str, name: str, max_bytes: int) -> Path:
    """Where the file lies on this machine; the caller verifies its hash.

    Args:
        repository: `OWNER/NAME`.
        revision: The commit, 40 hex digits: a branch or a tag can be moved to other files.
        name: Path of the file in the repository.
        max_bytes: A larger file is not fetched.

    Raises:
        BundleError: No such names, a file that is too large, or that is neither in the cache nor can be fetched.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise BundleError(f"{repository!r} is no repository of the hub: write OWNER/NAME.")
    if not _COMMIT.fullmatch(revision):
        raise BundleError(f"{repository}: revision {revision!r} can be moved: write the commit, 40 hex digits.")
    import huggingface_hub as hub  # noqa: PLC0415  # half a second that bundles without such a part spare

    cached = hub.try_to_load_from_cache(repository, name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        size_bytes = hub.hf_hub_download(repository, name, revision=revision, dry_run=True).file_size
        if size_bytes is not None and size_bytes <= max_bytes:
            return Path(hub.hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # the client lets its HTTP library's errors through, which it does not name
        raise BundleError(
            f"{name} of {repository} at {revision[:8]} is not in this machine's cache and cannot be fetched "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): `hf download {repository} {name} --revision {revision}` "
            "where there is a network, then bring its HF_HOME here."
        ) from error
    size = "an unknown size" if size_bytes is None else f"{size_bytes} bytes"
    raise BundleError(f"{name} of {repository} has {size}, and {max_bytes} bytes are allowed: name another file.")
