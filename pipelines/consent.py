"""What may be analysed of whom, as the `consent` header and the settings write it (docs/architecture.md#who-may-be-judged-by-what).

A tenant's policy is the most that may be analysed; a fragment's own header may ask for less of it. It is applied in `media/call_stream.py`, and per modality in `ingest/analyse.py`.
"""

from models.types import Modality
from pipelines.errors import BadFragmentError
from pipelines.types import Consent, Participant

_PARTICIPANTS = frozenset(participant.value for participant in Participant)
_MODALITIES = frozenset(modality.value for modality in Modality)
UNLIMITED: Consent = {participant: frozenset(Modality) for participant in Participant}
"""A policy that leaves it to the fragment's own header."""


def parse_consent(text: str) -> Consent:
    """`customer=audio+video+text;agent=text` as a policy; a participant that is not named is not analysed at all.

    It replaces the default policy as a whole: an agent's voice and face are analysed only where it names them.

    Raises:
        BadFragmentError: anything that is not written so.
    """
    consent: dict[Participant, frozenset[Modality]] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, listed = entry.partition("=")
        modalities = [modality.strip() for modality in listed.split("+") if modality.strip()]
        if (
            not equals
            or name.strip() not in _PARTICIPANTS
            or name.strip() in consent
            or not all(modality in _MODALITIES for modality in modalities)
        ):
            raise BadFragmentError(
                "bad_header",
                f"holds {entry[:80]!r}: write customer=audio+video+text;agent=text with each of "
                f"{', '.join(Participant)} at most once and modalities of {', '.join(Modality)}",
                header="consent",
            )
        consent[Participant(name.strip())] = frozenset(Modality(modality) for modality in modalities)
    return consent


def granted(asked: Consent | None, policy: Consent) -> Consent:
    """What is allowed of what a call asks for: no more than its tenant's `policy`, which holds where nothing is asked."""
    if asked is None:
        return policy
    return {who: asked[who] & policy[who] for who in asked.keys() & policy.keys()}


def unseen(policy: Consent) -> Consent:
    """The same policy for all modalities but the face."""
    return {who: allowed - {Modality.VIDEO} for who, allowed in policy.items()}


def format_consent(consent: Consent) -> str:
    """The policy as `parse_consent` reads it."""
    return ";".join(f"{participant}={'+'.join(sorted(consent[participant]))}" for participant in sorted(consent))
