"""The command line, one file a command group."""

import sys


def run() -> None:
    """The entry point: what is imported takes a moment, in which Ctrl-C is as quiet as later."""
    try:
        from deployments.cli.main import main  # noqa: PLC0415  # see above

        main()
    except KeyboardInterrupt:
        sys.stderr.write("undertone: stopped\n")
        sys.exit(130)
