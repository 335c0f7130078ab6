"""The Ray Serve application and its replicas."""

import sys


def spare_pandas() -> None:
    """Keep pandas out of a process of Ray: Serve imports it wherever Ray Train has installed it, 35 MB each, to write data frames as JSON."""
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # None is how Python marks what is not to be imported
