"""How far a `send` has come, in a file, so that an interrupted one can go on."""

import json
from dataclasses import dataclass
from pathlib import Path

from deployments.cli.console import EXIT_NOT_FOUND, EXIT_USAGE, CommandError
from deployments.cli.recordings import Recording


@dataclass(frozen=True, slots=True)
class Place:
    """`next_seq` is the first fragment that the log has not acknowledged, `word` what the stream is reserved by."""

    next_seq: int
    word: str


@dataclass(frozen=True, slots=True)
class Journal:
    """The file, and what it is that is sent."""

    path: Path
    sent: dict[str, object]

    def read(self) -> Place:
        """Where to go on.

        Raises:
            CommandError: no send of this call was interrupted, or it was of something else.
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
        return Place(int(kept["next_seq"]), str(kept.get("word", "")))  # journals of before have none

    def write(self, place: Place) -> None:
        """Remember, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        kept = {"next_seq": place.next_seq, "word": place.word, "sent": self.sent}
        unfinished.write_text(json.dumps(kept))
        unfinished.replace(self.path)


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
