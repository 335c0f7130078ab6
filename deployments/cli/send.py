"""`undertone send`: a recording as fragments into the log, each acknowledged, resumable after an interruption."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.cli.connect import System, connect
from deployments.cli.console import (
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_USAGE,
    CommandError,
    clear_errors,
    print_out,
    stderr,
    write_json,
)
from deployments.cli.options import (
    Consent,
    Customer,
    Json,
    Pace,
    PaceOption,
    Participants,
    Paths,
    Source,
    Tenant,
    reference_of,
)
from deployments.cli.recordings import Recording, fragments_of, length_s, send_fragments
from pipelines.errors import SourceUnavailableError
from pipelines.log.producer import Producer
from pipelines.types import CALL_ID_PATTERN, LIVE_RUN, NAME_PATTERN, CallRef, MediaFragment

if TYPE_CHECKING:  # imports redis, which `undertone --help` spares
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
    tenant: Tenant = "default",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted send of this call ended.")
    ] = False,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Send a recording as a call, fragment by fragment, each acknowledged by the log."""
    recording = Recording(tuple(paths), participants, consent, stream, tenant)
    chosen_id = _checked(recording, call_id)
    if resume and call_id is None:
        raise CommandError("--resume needs the --call-id that the interrupted send printed", EXIT_USAGE)
    cut = fragments_of(recording, chosen_id, recorded=pace is not Pace.REALTIME)
    reference = None if customer is None else reference_of(customer)
    system = connect(source, needs_store=reference is not None)
    if reference is not None:
        known_as = _noted(system, CallRef(tenant, chosen_id), reference)
        recording = replace(recording, customer=known_as)
        cut = (replace(fragment, customer=known_as) for fragment in cut)
    journal = journal_of(recording, chosen_id, system.settings.cache_dir)
    journal.write(journal.next_seq() if resume else 0)
    with system.sealing(CallRef(tenant, chosen_id)) as seal_fragment:
        sent = _Sending(recording, chosen_id, pace, journal, seal_fragment).deliver(system.producer(), cut)
    journal.path.unlink()
    if as_json:
        write_json([{"call_id": chosen_id, "stream": stream, "tenant": tenant, "fragments": sent}])
    else:
        whose = "" if tenant == "default" else f" --tenant {tenant}"
        print_out(f"{chosen_id}: {sent} fragments acknowledged; see it with: undertone show {chosen_id}{whose}")


def _noted(system: System, call: CallRef, reference: str) -> str:
    """The keyed hash of the customer's reference, once the store knows the call as theirs."""

    async def note(store: "Store") -> str:
        customer = await store.customers.hash(call.tenant, reference)
        await store.customers.note(call, customer)
        return customer

    return system.with_store(note, LIVE_RUN)


@dataclass(frozen=True, slots=True)
class Journal:
    """How far a send has come, in a file, so that an interrupted one can go on.

    `next_seq` is the first fragment that the log has not acknowledged.
    """

    path: Path
    sent: dict[str, object]

    def next_seq(self) -> int:
        """Where to go on.

        Raises:
            CommandError: no send of this call was interrupted system, or it was of something else.
        """
        if not self.path.is_file():
            raise CommandError(
                f"nothing to resume: {self.path} is not there; send again without --resume", EXIT_NOT_FOUND
            )
        kept = json.loads(self.path.read_text())
        if kept["sent"] != self.sent:
            raise CommandError(
                f"the interrupted send was of something else: {json.dumps(kept['sent'])}; give the same files and options",
                EXIT_USAGE,
            )
        return int(kept["next_seq"])

    def write(self, next_seq: int) -> None:
        """Remember, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"next_seq": next_seq, "sent": self.sent}))
        unfinished.replace(self.path)


@dataclass(frozen=True, slots=True)
class _Sending:
    """One run of the command, as its error messages need to know it."""

    recording: Recording
    call_id: str
    pace: Pace
    journal: Journal
    seal_fragment: Callable[[MediaFragment], MediaFragment]

    def deliver(self, producer: Producer, cut: Iterator[MediaFragment]) -> int:
        """Send what the journal says is left; returns how many fragments the call has.

        Raises:
            CommandError: the log is away, or Ctrl-C; says how to go on.
        """
        sent, realtime = self.journal.next_seq(), self.pace is Pace.REALTIME
        try:
            with _progress(self.call_id, length_s(self.recording.paths)) as show_position:
                for fragment in send_fragments(producer, cut, self.seal_fragment, realtime=realtime, first_seq=sent):
                    sent = fragment.seq + 1
                    self.journal.write(sent)
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


def journal_of(recording: Recording, call_id: str, cache_dir: Path) -> Journal:
    """Where this send remembers how far it is."""
    files = [[str(path.resolve()), path.stat().st_size] for path in recording.paths]
    sent: dict[str, object] = {
        "files": files,
        "participants": recording.participants,
        "consent": recording.consent,
        "customer": recording.customer,
    }
    return Journal(cache_dir / "sends" / f"{recording.tenant}.{call_id}.{recording.stream}.json", sent)


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
    """The call's id, as given or made up from the first file's name and the time."""
    for option, name in (("--stream", recording.stream), ("--tenant", recording.tenant)):
        if not re.fullmatch(NAME_PATTERN, name):
            raise CommandError(f"{option} {name!r}: 1 to 64 characters of A-Z a-z 0-9 . _ -", EXIT_USAGE)
    if call_id is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", recording.paths[0].stem)[:64]
        return f"{stem}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    if not re.fullmatch(CALL_ID_PATTERN, call_id):
        raise CommandError(f"--call-id {call_id!r}: 1 to 128 characters of A-Z a-z 0-9 . _ : -", EXIT_USAGE)
    return call_id
