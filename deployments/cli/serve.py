"""`undertone serve`: the whole system on this machine."""

import signal
from typing import Annotated

import typer

from deployments.cli.connect import DEFAULT_PORT, source_of
from deployments.cli.console import CommandError, clear_errors, settings, stderr, write_json
from deployments.cli.options import DEFAULTS, Bundle, Interim, Json, Source, Transcriber
from deployments.http.tokens import token_of
from pipelines.settings import AppConfig, InterimSettings

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
    from deployments.serve.embedded import embedded  # noqa: PLC0415  # imports redis

    config = AppConfig(
        source=source_of(settings(), source),
        transcriber=transcriber,
        bundle=bundle,
        interim=InterimSettings(show=interim),
    )
    console = stderr()
    console.print("starting Redis, Ray and the networks …")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with embedded(config, host=host, port=port) as running:
            token = token_of(running.settings) if running.made_token else ""
            page = f"{running.url}/login?token={token}" if token else f"{running.url}/docs"
            console.print(f"ready: {page}", soft_wrap=True)
            console.print(f"fragments from {config.source}; Ctrl-C stops it")
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own in its place
            if as_json:
                write_json([{"url": running.url, "token": token or None}])
            signal.pause()
    except KeyboardInterrupt:
        console.print("stopped")
    except RuntimeError as error:
        raise CommandError(f"it did not start: {error}; undertone doctor says what is missing") from error
