"""`undertone demo`: everything on this machine, the sample call through it, and what a supervisor would read."""

import socket
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deployments.cli import render
from deployments.cli.client import await_call, events, gateway, summary_of
from deployments.cli.connect import System
from deployments.cli.console import CommandError, clear_errors, hint, print_out, settings, stderr, steps, write_json
from deployments.cli.follow import follow
from deployments.cli.options import Interim, Json, Pace, PaceOption
from deployments.cli.recordings import Recording, fragments_of, send_fragments
from deployments.sample import ANGRY_TO_CONTENT, sample_path
from pipelines.settings import AppConfig, InterimSettings
from pipelines.types import CallRef, UtteranceSentiment

if TYPE_CHECKING:  # what takes long to import, which `undertone --help` spares
    import httpx

    from deployments.serve.embedded import Embedded

UTTERANCES_MIN = 8
RESULTS_S = 240.0
"""How long after the last fragment the last result may come before the demo gives up."""
CALL_OPENS_S = 60.0
"""How long the first fragment may take from the log to the store."""
TENANT = "default"

commands = typer.Typer()


@commands.command(epilog="Example: undertone demo --pace realtime")
@clear_errors
def demo(
    *,
    pace: PaceOption = Pace.FAST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 takes a free one.")] = 0,
    interim: Interim = None,
    as_json: Json = False,
) -> None:
    """Start everything on this machine, play the sample call through it, and stop."""
    from deployments.serve.embedded import delete_embedded_store  # noqa: PLC0415  # imports redis

    console = stderr()
    config = AppConfig(source="redis", interim=InterimSettings(show=interim))
    port = port or _free_port()
    with ExitStack() as stack:
        stack.callback(delete_embedded_store, settings(), port)
        system = _start(stack, config, port, console)
        call_id = f"demo-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        client = stack.enter_context(gateway(system.settings))
        results = _follow(client, call_id, as_json=as_json)
        _play(config, system, call_id, pace)
        try:
            found = results.result(RESULTS_S)
        except TimeoutError as error:
            raise CommandError(f"the results of {call_id} did not all come within {RESULTS_S:.0f} s") from error
        summary = summary_of(client, call_id, TENANT)
        if as_json:
            write_json([summary])
        else:
            print_out(render.sentiment_line(sorted(found, key=lambda result: result.start_ms)))
            print_out(render.summary(summary))
            console.print(render.names_of_models(found))
            hint(
                "The demo has stopped and kept nothing. To keep calls:\n  undertone serve\nand in another window:\n"
                f"  undertone send {sample_path()} --participants agent,customer\n  undertone calls"
            )
    if len(found) < UTTERANCES_MIN:
        raise CommandError(f"only {len(found)} utterances came out, at least {UTTERANCES_MIN} should; undertone doctor")


def _start(stack: ExitStack, config: AppConfig, port: int, console: Console) -> "Embedded":
    from deployments.serve.embedded import embedded  # noqa: PLC0415  # imports redis

    started_s = time.monotonic()
    try:
        with steps() as begin:
            system = stack.enter_context(embedded(config, port=port, begin=begin))
    except (RuntimeError, ValueError) as error:
        raise CommandError(f"the demo did not start: {error}; undertone doctor says what is missing") from error
    console.print(f"{system.url} is up after {time.monotonic() - started_s:.0f} s; the sample call goes in now")
    return system


def _play(config: AppConfig, system: "Embedded", call_id: str, pace: Pace) -> None:
    cut = fragments_of(Recording((ANGRY_TO_CONTENT,), "agent,customer"), call_id, recorded=pace is not Pace.REALTIME)
    connected = System(config, system.settings)
    with closing(connected.producer()) as producer, connected.sealing(CallRef(TENANT, call_id)) as seal_fragment:
        for _ in send_fragments(producer, cut, seal_fragment, realtime=pace is Pace.REALTIME):
            pass


def _follow(client: "httpx.Client", call_id: str, *, as_json: bool) -> Future[list[UtteranceSentiment]]:
    """Print the call's results in a thread of its own, while the call is still being sent."""
    done: Future[list[UtteranceSentiment]] = Future()

    def run() -> None:
        try:
            await_call(client, call_id, {"tenant": TENANT}, CALL_OPENS_S)
            found = follow(events(client, call_id, {"tenant": TENANT}), as_json=as_json)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is raised again where the result is asked for
            done.set_exception(error)
        else:
            done.set_result(found)

    threading.Thread(target=run, name="follow", daemon=True).start()
    return done


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
