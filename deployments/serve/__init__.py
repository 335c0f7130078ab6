"""The Ray Serve application and its replicas."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WORKER_SETUP = "deployments.serve.set_up_worker"
"""What every worker process of the embedded system runs first."""


def set_up_worker() -> None:
    """Keep pandas out, and listen on the loopback."""
    keep_pandas_out()
    listen_on_loopback()


def listen_on_loopback() -> None:
    """Let the servers by which replicas ask each other listen on the loopback: Serve says all interfaces, and has no setting.

    Before `ray.serve` is imported, which takes the function over. The token guards them besides.
    """
    from ray._common import tls_utils  # noqa: PLC0415  # in a worker it is imported already

    add_port: Any = tls_utils.add_port_to_grpc_server

    def add_local_port(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", "127.0.0.1"))

    tls_utils.add_port_to_grpc_server = add_local_port


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
