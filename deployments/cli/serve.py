"""`undertone serve`: the whole system on this machine."""

import signal
import time
from contextlib import ExitStack
from typing import Annotated

import typer

from deployments.cli.connect import DEFAULT_PORT, source_of
from deployments.cli.console import (
    EXIT_NOT_FOUND,
    CommandError,
    clear_errors,
    hint,
    settings,
    stderr,
    steps,
    write_json,
)
from deployments.cli.options import DEFAULTS, Bundle, Interim, Json, Source, Transcriber, require_named
from deployments.http.tokens import token_of
from deployments.sample import sample_path
from models.bundles import require_bundle
from models.errors import BundleError
from pipelines.settings import AppConfig, InterimSettings

LOG_NAMES = {"kafka": "Kafka", "redis": "the log in its own Redis"}

commands = typer.Typer()


@commands.command(epilog="Example: undertone serve --port 8000, then in another window: undertone send call.flac")
@clear_errors
def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway.")] = DEFAULT_PORT,
    source: Source = None,
    transcriber: Transcriber = DEFAULTS.transcriber,
    bundle: Bundle = DEFAULTS.bundle,
    interim: Interim = None,
    as_json: Json = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C."""
    try:
        require_bundle(bundle)
    except BundleError as error:
        raise CommandError(str(error), EXIT_NOT_FOUND) from error
    require_named(transcriber)
    from deployments.serve.embedded import embedded  # noqa: PLC0415  # imports redis

    config = AppConfig(
        source=source_of(settings(), source),
        transcriber=transcriber,
        bundle=bundle,
        interim=InterimSettings(show=interim),
    )
    console, begun_s = stderr(), time.monotonic()
    _end_on_signals()
    try:
        with ExitStack() as stack:
            with steps() as begin:
                running = stack.enter_context(embedded(config, host=host, port=port, begin=begin))
            token = token_of(running.settings) if running.made_token else ""
            page = f"{running.url}/login?token={token}" if token else f"{running.url}/docs"
            console.print(f"ready after {time.monotonic() - begun_s:.0f} s: {page}", soft_wrap=True)
            elsewhere = "" if port == DEFAULT_PORT else f"UNDERTONE_URL={running.url} "
            console.print(f"calls come in through {LOG_NAMES[config.source]}; Ctrl-C stops it; in another window:")
            hint(f"  {elsewhere}undertone send {sample_path()} --participants agent,customer")
            _end_on_signals()  # Ray has put its own in their place
            if as_json:
                write_json([{"url": running.url, "token": token or None}])
            try:
                signal.pause()
            finally:
                console.print("stopping …")
    except KeyboardInterrupt:
        console.print("stopped")
    except RuntimeError as error:
        raise CommandError(f"it did not start: {error}; undertone doctor says what is missing") from error


def _end_on_signals() -> None:
    """End on SIGTERM as on Ctrl-C, and on SIGINT even where a script started this in the background, whose shell has it ignored."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
