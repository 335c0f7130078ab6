"""The Ray Serve application and its replicas."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

WITHOUT_PANDAS = "deployments.serve.keep_pandas_out"
"""What every worker process of the embedded system runs first."""


def keep_pandas_out() -> None:
    """Let no import find pandas in this process: Serve would take it in (and pyarrow with it), to write data frames as JSON.

    A network of one's own that needs pandas is therefore not for the embedded system.
    """
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # None is how Python marks what is not to be imported


@contextmanager
def pandas_kept_out() -> Iterator[None]:
    """The same for what is imported within, and no longer: in a process that is not ours alone."""
    is_ours = "pandas" not in sys.modules
    keep_pandas_out()
    try:
        yield
    finally:
        if is_ours:
            del sys.modules["pandas"]
