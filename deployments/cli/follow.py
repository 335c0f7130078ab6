"""A call on standard output while it happens."""

from collections.abc import Iterable

from rich.console import Group
from rich.live import Live

from deployments.cli import render
from deployments.cli.client import Event
from deployments.cli.console import stderr, stdout, write_json
from pipelines.store.queries import InterimText
from pipelines.types import Participant, UtteranceSentiment

STATE_CHANGES = {"call-stalled": "nothing comes of the call any more: stalled", "call-live": "the call goes on"}


def follow(events: Iterable[Event], *, as_json: bool) -> list[UtteranceSentiment]:
    """Print the results among `events` as they come, and interim texts; returns the results.

    As JSON both are one object a line. On a terminal the words so far stand below the results until their utterance is
    judged; a table that goes into a file is without them.
    """
    return _follow_as_json(events) if as_json else _follow(events)


def _follow_as_json(events: Iterable[Event]) -> list[UtteranceSentiment]:
    found: list[UtteranceSentiment] = []
    for event in events:
        _print_state(event)
        if event.interim is not None:
            write_json([event.interim])
        if event.utterance is not None:
            found.append(event.utterance)
            write_json([event.utterance])
    return found


def _follow(events: Iterable[Event]) -> list[UtteranceSentiment]:
    found: list[UtteranceSentiment] = []
    speaking: dict[tuple[str, Participant], InterimText] = {}
    # The two kinds come on ways of their own: an interim text may be late.
    judged_ms: dict[tuple[str, Participant], int] = {}
    with Live(console=stdout(), auto_refresh=False, transient=True) as live:
        for event in events:
            _print_state(event)
            text = event.interim
            if text is not None and text.start_ms > judged_ms.get((text.stream, text.participant), -1):
                speaking[text.stream, text.participant] = text
            result = event.utterance
            if result is not None:
                found.append(result)
                who = (result.stream, result.participant)
                judged_ms[who] = max(result.start_ms, judged_ms.get(who, -1))
                if who in speaking and speaking[who].start_ms <= result.start_ms:
                    del speaking[who]
            if live.console.is_terminal:  # first, since what is printed comes above what is shown then
                live.update(Group(*map(render.interim, speaking.values())), refresh=True)
            if result is not None:
                live.console.print(render.utterance(result))
    return found


def _print_state(event: Event) -> None:
    if event.kind in STATE_CHANGES:
        stderr().print(STATE_CHANGES[event.kind])
