"""`undertone send`: a recording as fragments into the log, each acknowledged, resumable after an interruption."""

import re
import secrets
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.cli.connect import connect
from deployments.cli.console import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    CommandError,
    clear_errors,
    hint,
    print_out,
    stderr,
    write_json,
)
from deployments.cli.journal import Journal, Place, journal_of
from deployments.cli.options import (
    Consent,
    Customer,
    DirectTenant,
    Json,
    Pace,
    PaceOption,
    Participants,
    Paths,
    Source,
    reference_of,
    tenant_option,
    token_says_nothing,
)
from deployments.cli.recordings import Recording, consent_of, fragments_of, length_s, participants_of, send_fragments
from deployments.cli.reserve import reserve, unheard
from pipelines.errors import SourceUnavailableError
from pipelines.log.producer import Producer
from pipelines.types import CALL_ID_PATTERN, LIVE_RUN, NAME_PATTERN, CallRef, MediaFragment

if TYPE_CHECKING:  # imports redis, which `undertone --help` spares
    from pipelines import types
    from pipelines.store.store import Store

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone send call.flac --participants agent,customer · "
    "undertone send agent.flac caller.flac --participants agent,customer --pace realtime · "
    "echo 4711 | undertone send call.flac --participants agent,customer --customer -"
)
@clear_errors
def send(
    paths: Paths,
    *,
    call_id: Annotated[str | None, typer.Option(help="The call's id; made up and printed when not given.")] = None,
    participants: Participants = None,
    pace: PaceOption = Pace.FAST,
    consent: Consent = None,
    customer: Customer = None,
    stream: Annotated[str, typer.Option(help="The stream's name within the call.")] = "main",
    tenant: DirectTenant = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted send of this call ended.")
    ] = False,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Send a recording as a call, fragment by fragment, each acknowledged by the log.

    A stream of a call takes one recording: what it has already is refused, and an interrupted send goes on with --resume.
    """
    recording = Recording(tuple(paths), participants, consent, stream, tenant or "default")
    chosen_id = _checked(recording, call_id)
    call = CallRef(recording.tenant, chosen_id)
    if resume and call_id is None:
        raise CommandError("--resume needs the --call-id that the interrupted send printed", EXIT_USAGE)
    cut = fragments_of(recording, chosen_id, recorded=pace is not Pace.REALTIME)
    reference = None if customer is None else reference_of(customer)
    system = connect(source, needs_store=reference is not None)
    if tenant is None:
        token_says_nothing(system.settings)
    if reference is not None:
        known_as = system.with_store(lambda store: store.customers.hash(call.tenant, reference), LIVE_RUN)
        recording = replace(recording, customer=known_as)
    journal = journal_of(recording, chosen_id, system.settings.cache_dir)
    begun = journal.read() if resume else Place(0, secrets.token_urlsafe(16))

    async def claim(store: "Store", policy: "types.Consent | None") -> None:
        await reserve(store, call, stream, begun.word)
        if recording.customer is not None:
            await store.customers.note(call, recording.customer)
        for line in unheard(participants_of(recording.paths, participants), consent_of(consent), policy):
            hint(line)

    with _begun(cut) as pieces, system.sealing(call, claim) as seal_fragment:
        journal.write(begun)
        whose = (replace(piece, customer=recording.customer) for piece in pieces)
        sent = _Sending(recording, chosen_id, pace, journal, seal_fragment).deliver(system.producer(), whose, begun)
    journal.path.unlink()
    if as_json:
        write_json([{"call_id": chosen_id, "stream": stream, "tenant": call.tenant, "fragments": sent}])
    else:
        shown_by = f"undertone show {chosen_id}{tenant_option(call.tenant, system.settings)}"
        print_out(f"{chosen_id}: {sent} fragments acknowledged, of tenant {call.tenant}; see it with: {shown_by}")


@contextmanager
def _begun(cut: Iterator[MediaFragment]) -> Iterator[Iterator[MediaFragment]]:
    """The same, with the first already cut: what is no media is refused before anything is reserved for it. Its files are closed."""
    with closing(cast("Generator[MediaFragment]", cut)):
        first = next(cut, None)
        yield cut if first is None else chain([first], cut)


@dataclass(frozen=True, slots=True)
class _Sending:
    """One run of the command, as its error messages need to know it."""

    recording: Recording
    call_id: str
    pace: Pace
    journal: Journal
    seal_fragment: Callable[[MediaFragment], MediaFragment]

    def deliver(self, producer: Producer, cut: Iterator[MediaFragment], begun: Place) -> int:
        """Send what is left from where it has `begun`; returns how many fragments the call has.

        Raises:
            CommandError: the log is away, or Ctrl-C; says how to go on.
        """
        sent, realtime = begun.next_seq, self.pace is Pace.REALTIME
        try:
            with _progress(self.call_id, length_s(self.recording.paths)) as show_position:
                for fragment in send_fragments(producer, cut, self.seal_fragment, realtime=realtime, first_seq=sent):
                    sent = fragment.seq + 1
                    self.journal.write(Place(sent, begun.word))
                    show_position(fragment.start_ms / 1000)
            producer.close()
        except KeyboardInterrupt:
            with suppress(SourceUnavailableError):
                producer.close()
            raise CommandError(self._interrupted("stopped", sent), EXIT_INTERRUPTED) from None
        except SourceUnavailableError as error:
            raise CommandError(self._interrupted(str(error), sent)) from error
        return sent

    def _interrupted(self, why: str, sent: int) -> str:
        return f"{why} after {sent} acknowledged fragments; go on with: {self._resume_command()}"

    def _resume_command(self) -> str:
        recording = self.recording
        words = ["undertone", "send", *map(str, recording.paths), "--call-id", self.call_id]
        options = {"--participants": recording.participants, "--consent": recording.consent}
        options |= {"--stream": None if recording.stream == "main" else recording.stream}
        options |= {"--tenant": None if recording.tenant == "default" else recording.tenant}
        # The reference itself would stand in whatever keeps what a command prints.
        options |= {"--customer": None if recording.customer is None else "-"}
        options |= {"--pace": "realtime" if self.pace is Pace.REALTIME else None}
        words += [word for option, value in options.items() if value is not None for word in (option, value)]
        return shlex.join([*words, "--resume"])


@contextmanager
def _progress(call_id: str, total_s: float | None) -> Iterator[Callable[[float], None]]:
    """A bar over the recording's seconds, on standard error."""
    columns = (
        TextColumn("sending {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr()) as progress:
        task = progress.add_task(call_id, total=total_s)
        yield lambda position_s: progress.update(task, completed=position_s)
        if total_s is not None:
            progress.update(task, completed=total_s)


def _checked(recording: Recording, call_id: str | None) -> str:
    """The call's id, as given or made up from the first file's name and the day."""
    for option, name in (("--stream", recording.stream), ("--tenant", recording.tenant)):
        if not re.fullmatch(NAME_PATTERN, name):
            raise CommandError(f"{option} {name!r}: 1 to 64 characters of A-Z a-z 0-9 . _ -", EXIT_USAGE)
    if call_id is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", recording.paths[0].stem)[:64]
        return f"{stem}-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"  # a script may send many in a second
    if not re.fullmatch(CALL_ID_PATTERN, call_id):
        raise CommandError(f"--call-id {call_id!r}: 1 to 128 characters of A-Z a-z 0-9 . _ : -", EXIT_USAGE)
    return call_id
