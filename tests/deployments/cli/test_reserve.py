"""What of a consent comes to nothing."""

import pytest

from deployments.cli.reserve import unheard
from pipelines.consent import parse_consent
from pipelines.types import DEFAULT_CONSENT, Channels, Participant

AGENT, CUSTOMER, MIXED = Participant.AGENT, Participant.CUSTOMER, Participant.MIXED


@pytest.mark.parametrize(
    ("heard", "asked"),
    [
        ((AGENT, CUSTOMER), "customer=audio+video+text;agent=text"),
        ((AGENT, CUSTOMER), "customer=text"),
        ((None, CUSTOMER), "customer=audio"),
        ((MIXED,), "mixed=text"),
    ],
)
def test_of_a_consent_that_can_work_nothing_is_said(heard: Channels, asked: str) -> None:
    assert unheard(heard, parse_consent(asked), DEFAULT_CONSENT) == []
    assert unheard(heard, None, DEFAULT_CONSENT) == []


@pytest.mark.parametrize(
    ("heard", "asked", "said"),
    [
        ((MIXED,), "customer=text", ["names customer", "nothing of mixed may be judged"]),
        ((CUSTOMER,), "customer=text;agent=text", ["names agent"]),
        ((AGENT, CUSTOMER), "agent=audio+text;customer=text", ["asks for audio of agent"]),
        ((AGENT,), "agent=audio+video", ["asks for audio, video of agent", "nothing of agent may be judged"]),
        ((CUSTOMER,), "customer=", ["nothing of customer may be judged"]),
    ],
)
def test_what_comes_to_nothing_is_said_in_a_sentence_each(heard: Channels, asked: str, said: list[str]) -> None:
    lines = unheard(heard, parse_consent(asked), DEFAULT_CONSENT)
    assert len(lines) == len(said)
    assert all(words in line for words, line in zip(said, lines, strict=True))


def test_a_policy_that_nobody_has_told_forbids_nothing() -> None:
    assert unheard((AGENT,), parse_consent("agent=audio"), None) == []
