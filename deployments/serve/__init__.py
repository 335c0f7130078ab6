"""The Ray Serve application and its replicas."""

import sys

WITHOUT_PANDAS = "deployments.serve.keep_pandas_out"
"""What every worker process of the embedded system runs first."""


def keep_pandas_out() -> None:
    """Let no import find pandas in this process: Serve would take 35 MB for it, to write data frames as JSON.

    A network of one's own that needs pandas is therefore not for the embedded system.
    """
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # None is how Python marks what is not to be imported
