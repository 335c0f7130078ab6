"""What is settled before a recording goes into the log: whose the stream is, and who of those who are heard may be judged by what."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from deployments.cli.console import CommandError
from models.types import Modality
from pipelines.types import CallRef, Channels, Consent, Participant

if TYPE_CHECKING:  # imports redis, which `undertone --help` spares
    from pipelines.store.store import Store


async def reserve(store: "Store", call: CallRef, stream: str, word: str) -> None:
    """Take the stream for the send that keeps `word`, as the gateway does for an upload, of which the store keeps a hash: nobody else's media goes into it.

    Raises:
        CallDeletedError: the call was deleted.
        CommandError: it has media already, or is another sender's.
    """
    found = await store.archive.call(call)
    is_new = found is None or stream not in found.streams
    kept = hashlib.sha256(word.encode()).hexdigest()
    if await store.ledger.reserve_stream(call, stream, kept, first=is_new) is None:
        raise CommandError(
            f"{call} has a stream {stream!r} already, and nothing was sent: name another --call-id, or for more of the same call "
            "another --stream; a send of it that was interrupted goes on with --resume"
        )


def unheard(heard: Channels, asked: Consent | None, policy: Consent | None) -> list[str]:
    """What of `asked`, the consent of a call in which `heard` speak, comes to nothing, in a sentence each.

    `policy` is the most that the tenant lets be judged; None where nobody has told.
    """
    if asked is None:
        return []
    parties = {who for who in heard if who is not None}
    lines = [
        f"--consent names {who}, who is on no channel of this recording: --participants says {_listed(parties)}"
        for who in sorted(asked.keys() - parties)
    ]
    for who in sorted(asked.keys() & parties if policy is not None else ()):
        refused = asked[who] - (policy or {}).get(who, frozenset())
        if refused:
            lines.append(
                f"--consent asks for {_listed(refused)} of {who}, which the tenant's policy does not let be judged: it is left out"
            )
    if not any(_allowed(who, asked, policy) for who in parties):
        lines.append(f"nothing of {_listed(parties)} may be judged: nothing will come of this recording")
    return lines


def _allowed(who: Participant, asked: Consent, policy: Consent | None) -> frozenset[Modality]:
    wanted = asked.get(who, frozenset())
    return wanted if policy is None else wanted & policy.get(who, frozenset())


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
