"""`undertone send`: a recording as fragments into the log, each acknowledged, resumable after an interruption."""

import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.cli.console import EXIT_INTERRUPTED, EXIT_USAGE, CommandError, aside, print_out, settings, write_json
from deployments.cli.recordings import consent_of, length_s, merged_content_type, merged_l16, participants_of
from deployments.cli.serve import reaching, source_of
from pipelines.errors import SourceUnavailableError
from pipelines.log.choose import open_producer
from pipelines.log.producer import Producer
from pipelines.log.records import fragment_headers
from pipelines.media.fragment import fragments
from pipelines.settings import AppConfig
from pipelines.types import CALL_ID_PATTERN, NAME_PATTERN, TOPIC_MEDIA, MediaFragment

FLUSH_FRAGMENTS = 16
"""Acknowledgements are waited for after so many fragments; in real time after each."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to send, as the command line says it."""

    paths: tuple[Path, ...]
    call_id: str | None
    participants: str | None
    consent: str | None
    stream: str = "main"
    tenant: str = "default"
    realtime: bool = False


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
            CommandError: no send of this call was interrupted here, or it was of something else.
        """
        if not self.path.is_file():
            raise CommandError(f"nothing to resume: {self.path} is not there; send again without --resume", EXIT_USAGE)
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


def run(order: Order, *, source: Literal["kafka", "redis"] | None, resume: bool, as_json: bool) -> None:
    """Send the whole recording and say under which call id.

    Raises:
        CommandError: the order is wrong, the log is away, or Ctrl-C; the latter two say how to go on.
    """
    call_id = _checked(order)
    if resume and order.call_id is None:
        raise CommandError("--resume needs the --call-id that the interrupted send printed", EXIT_USAGE)
    cut = fragments_of(order, call_id)
    where = settings()
    chosen = source_of(where, source)
    where = reaching(where) if chosen == "redis" else where
    journal = journal_of(order, call_id, where.cache_dir)
    journal.write(journal.next_seq() if resume else 0)
    sent = _deliver(open_producer(AppConfig(source=chosen), where), cut, order, call_id, journal)
    journal.path.unlink()
    if as_json:
        write_json([{"call_id": call_id, "stream": order.stream, "tenant": order.tenant, "fragments": sent}])
    else:
        print_out(f"{call_id}: {sent} fragments acknowledged; see it with: undertone show {call_id}")


def _deliver(producer: Producer, cut: Iterator[MediaFragment], order: Order, call_id: str, journal: Journal) -> int:
    """Send what the journal says is left; returns how many fragments the call has."""
    sent = journal.next_seq()
    try:
        with _progress(call_id, length_s(order.paths)) as moved:
            for fragment in send(producer, cut, realtime=order.realtime, first_seq=sent):
                sent = fragment.seq + 1
                journal.write(sent)
                moved(fragment.start_ms / 1000)
        producer.close()
    except KeyboardInterrupt:
        with suppress(SourceUnavailableError):
            producer.close()
        raise CommandError(_interrupted("stopped", sent, order, call_id), EXIT_INTERRUPTED) from None
    except SourceUnavailableError as error:
        raise CommandError(_interrupted(str(error), sent, order, call_id)) from error
    return sent


def _interrupted(why: str, sent: int, order: Order, call_id: str) -> str:
    return f"{why} after {sent} acknowledged fragments; go on with: {_again(order, call_id)}"


def fragments_of(order: Order, call_id: str) -> Iterator[MediaFragment]:
    """The recording, one file as it is, or one file per participant merged into one stream.

    Raises:
        CommandError: a file is missing, or participants or consent do not fit.
        MediaError: no media.
    """
    participants, consent = participants_of(order.paths, order.participants), consent_of(order.consent)
    merged = len(order.paths) > 1
    return fragments(
        merged_l16(order.paths) if merged else order.paths[0],
        call_id=call_id,
        tenant=order.tenant,
        stream=order.stream,
        participants=participants,
        consent=consent,
        content_type=merged_content_type(len(order.paths)) if merged else None,
    )


def send(
    producer: Producer, cut: Iterable[MediaFragment], *, realtime: bool, first_seq: int = 0
) -> Iterator[MediaFragment]:
    """Send from `first_seq` on; yields a fragment when the log has acknowledged it and everything before.

    Raises:
        SourceUnavailableError: the log is away; what was yielded stands in it.
    """
    queued = 0
    started_s = time.monotonic()
    wanted = (fragment for fragment in cut if fragment.seq >= first_seq)
    for due_s, fragment in due(wanted):
        if realtime:
            time.sleep(max(0.0, started_s + due_s - time.monotonic()))
        producer.send(TOPIC_MEDIA, fragment.call_id, fragment.media, fragment_headers(fragment))
        queued += 1
        if realtime or fragment.final or queued >= FLUSH_FRAGMENTS:
            producer.flush()
            queued = 0
            yield fragment


def due(cut: Iterable[MediaFragment]) -> Iterator[tuple[float, MediaFragment]]:
    """Each fragment with the seconds after the first one's start at which its media has been spoken.

    That is when the next one starts; the last is taken to be as long as the one before it.
    """
    waiting: MediaFragment | None = None
    first_ms = length_ms = 0
    for fragment in cut:
        if waiting is None:
            first_ms = fragment.start_ms
        else:
            length_ms = fragment.start_ms - waiting.start_ms
            yield (fragment.start_ms - first_ms) / 1000, waiting
        waiting = fragment
    if waiting is not None:
        yield (waiting.start_ms + length_ms - first_ms) / 1000, waiting


def journal_of(order: Order, call_id: str, cache_dir: Path) -> Journal:
    """Where this send remembers how far it is."""
    files = [[str(path.resolve()), path.stat().st_size] for path in order.paths]
    sent: dict[str, object] = {"files": files, "participants": order.participants, "consent": order.consent}
    return Journal(cache_dir / "sends" / f"{order.tenant}.{call_id}.{order.stream}.json", sent)


@contextmanager
def _progress(call_id: str, total_s: float | None) -> Iterator[Callable[[float], None]]:
    """A bar over the recording's seconds, on standard error."""
    columns = (
        TextColumn("sending {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=aside()) as progress:
        task = progress.add_task(call_id, total=total_s)
        yield lambda position_s: progress.update(task, completed=position_s)
        if total_s is not None:
            progress.update(task, completed=total_s)


def _again(order: Order, call_id: str) -> str:
    """The command that goes on with an interrupted send."""
    words = ["undertone", "send", *map(str, order.paths), "--call-id", call_id]
    options = {"--participants": order.participants, "--consent": order.consent}
    options |= {"--stream": None if order.stream == "main" else order.stream}
    options |= {"--tenant": None if order.tenant == "default" else order.tenant}
    options |= {"--pace": "realtime" if order.realtime else None}
    words += [word for option, value in options.items() if value is not None for word in (option, value)]
    return shlex.join([*words, "--resume"])


def _checked(order: Order) -> str:
    """The call's id, as given or made up from the first file's name and the time."""
    for option, name in (("--stream", order.stream), ("--tenant", order.tenant)):
        if not re.fullmatch(NAME_PATTERN, name):
            raise CommandError(f"{option} {name!r}: 1 to 64 characters of A-Z a-z 0-9 . _ -", EXIT_USAGE)
    if order.call_id is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", order.paths[0].stem)[:64]
        return f"{stem}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    if not re.fullmatch(CALL_ID_PATTERN, order.call_id):
        raise CommandError(f"--call-id {order.call_id!r}: 1 to 128 characters of A-Z a-z 0-9 . _ : -", EXIT_USAGE)
    return order.call_id
