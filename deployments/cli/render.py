"""Results as the terminal shows them: values in, Rich renderables out."""

from collections.abc import Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from models.types import SCORE_MAX, SCORE_MIN, Modality
from pipelines.review.participant import ParticipantSummary
from pipelines.review.summary import CallSummary
from pipelines.store.queries import InterimText
from pipelines.types import MissingReason, Participant, UtteranceSentiment

PARTICIPANT_STYLE = {Participant.AGENT: "cyan", Participant.CUSTOMER: "magenta", Participant.MIXED: "blue"}
POLARITY_STYLE = {"negative": "red", "neutral": "bright_black", "positive": "green"}
MODALITY_NAME = {Modality.TEXT: "words", Modality.AUDIO: "voice", Modality.VIDEO: "face"}
NOTHING = "-"
MISSING_NAME: Mapping[MissingReason, str] = {
    "absent": NOTHING,
    "no_face": "no face",
    "no_speech_text": "no words",
    "unreliable_text": "unsure",
    "unusable": "unusable",
    "not_consented": "no consent",
    "encoder_unavailable": "down",
    "timeout": "too slow",
}
BARS = "▁▂▃▄▅▆▇█"
NO_SCORE = "·"
PULL_MIN_SCORE = 0.005
"""A smaller pull would be shown as 0.00."""
CONTRIBUTIONS = "words, voice, face: how far the score would move back if it were left out; these are no terms of a sum"
MISSING_MEANS: Mapping[MissingReason, str] = {
    "absent": "not sent",
    "unreliable_text": "heard without certainty, not judged",
    "unusable": "not to be judged (too short, too quiet)",
    "not_consented": "not allowed, by the call's consent or the tenant's policy",
    "encoder_unavailable": "the network was away",
    "timeout": "the network was late",
}
"""What stands in a transcript in place of a contribution, where its name alone does not say it."""
FIGURES = "talk: time and share of all talk; scores -3 … 3: mean, mean by quarter of the call, change a minute; dBFS: loudness"
TABLE_MIN_WIDTH = 100
"""Columns from which on the words of a transcript have room beside the figures."""
NEUTRAL_BAND = 0.25
"""Scores nearer to 0 than this are shown without a colour."""


def clock(time_ms: int) -> str:
    """`65432` as `1:05.4`: time from the start of the call."""
    minutes, rest_ms = divmod(time_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{rest_ms // 1000:02}.{rest_ms % 1000 // 100}"


def score(value: float | None) -> Text:
    """A score or a change of one, signed and coloured; a dash for None."""
    if value is None:
        return Text(NOTHING, style="bright_black")
    return Text(signed(value), style=_score_style(value))


def signed(value: float) -> str:
    """A score with its sign; what rounds to nothing is `+0.0`, never `-0.0`."""
    return f"{round(value, 1) + 0.0:+.1f}"


def feeling(result: UtteranceSentiment) -> Text:
    """Polarity and emotion with the emotion's probability: `negative, anger 82%`."""
    judged = result.judgement
    if judged is None:
        return Text("not judged", style="bright_black")
    share = judged.emotion_probabilities.get(judged.emotion, 0.0)
    text = Text(judged.polarity, style=POLARITY_STYLE.get(judged.polarity, ""))
    emotion = "" if judged.emotion == judged.polarity else f", {judged.emotion}"  # both know `neutral`
    return text.append(f"{emotion} {share:.0%}", style="default")


def words(result: UtteranceSentiment) -> Text:
    """What was said; dim with the reason when the transcript is not reliable, `(no words)` when there is none."""
    heard = result.transcript
    if heard is None or not heard.text.strip():
        return Text("(no words)", style="bright_black")
    if not heard.reliable:
        return Text(f"{_line(heard.text)} ({heard.unreliable_reason})", style="bright_black")
    return Text(_line(heard.text))


def contribution(result: UtteranceSentiment, modality: Modality) -> Text:
    """How the score changes through `modality`, or why it gave nothing."""
    part = result.modalities.get(modality)
    if part is None:
        return Text(NOTHING, style="bright_black")
    if part.contribution is None:
        return Text(MISSING_NAME[part.missing or "absent"], style="bright_black")
    return score(part.contribution.score)


def utterance(result: UtteranceSentiment) -> RenderableType:
    """One utterance as two rows, for calls that go on: who, when and the words; then what was felt and why."""
    value = None if result.judgement is None else result.judgement.score
    table = _rows()
    who = Text(result.participant, style=PARTICIPANT_STYLE[result.participant])
    table.add_row(clock(result.start_ms), who, words(result))
    table.add_row("", "", Text("  ").join([score(value), feeling(result), *_contributions(result)]))
    return table


def interim(text: InterimText) -> RenderableType:
    """The words so far of an utterance that goes on, as one row in the columns of `utterance`."""
    who = Text(text.participant, style=PARTICIPANT_STYLE[text.participant])
    table = _rows()
    table.add_row(clock(text.start_ms), who, Text(f"{_line(text.text)} …", style="bright_black"))
    return table


class Transcript:
    """A call's utterances: as a table, one a row, where its words have room, else each as two rows."""

    def __init__(self, results: Sequence[UtteranceSentiment]) -> None:
        self._results = results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich asks this, which knows how wide the window is."""
        if options.max_width >= TABLE_MIN_WIDTH:
            yield _transcript_table(self._results)
        else:
            yield from map(utterance, self._results)
        if self._results:
            yield Text(_legend(self._results), style="dim italic")


def _legend(results: Sequence[UtteranceSentiment]) -> str:
    """What a contribution is, and what stands in its place in these results."""
    missing = {
        part.missing or "absent" for result in results for part in result.modalities.values() if not part.contribution
    }
    told = (f"{MISSING_NAME[reason]}: {means}" for reason, means in MISSING_MEANS.items() if reason in missing)
    return "; ".join((CONTRIBUTIONS, *told))


def _transcript_table(results: Sequence[UtteranceSentiment]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("time", justify="right")
    table.add_column("who")
    table.add_column("said", ratio=1, min_width=12)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("felt", min_width=9)
    for name in MODALITY_NAME.values():
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        value = None if result.judgement is None else result.judgement.score
        table.add_row(
            clock(result.start_ms),
            Text(result.participant, style=PARTICIPANT_STYLE[result.participant]),
            words(result),
            score(value),
            feeling(result),
            *(contribution(result, modality) for modality in MODALITY_NAME),
        )
    return table


def sentiment_line(results: Sequence[UtteranceSentiment]) -> RenderableType:
    """A bar per utterance and a line per participant: low and red is bad, high and green is good."""
    lines = []
    for who, style in PARTICIPANT_STYLE.items():
        own = [result for result in results if result.participant is who]
        if own:
            bars = (_bar(None if result.judgement is None else result.judgement.score) for result in own)
            lines.append(Text.assemble((f"{who:<9} ", style), *bars))
    return Group(*lines)


def summary(call: CallSummary) -> Panel:
    """What a supervisor wants to read first: the sentence, then the figures per participant."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("who", "talk", "share", "mean", "1/4", "2/4", "3/4", "4/4", "a min", "dBFS"):
        table.add_column(name, justify="left" if name == "who" else "right", no_wrap=True)
    for part in call.participants:
        table.add_row(*_participant_row(part))
    lines: list[RenderableType] = [Text(call.headline, style="bold")]
    if call.participants:
        lines += [Text(), table, Text(FIGURES, style="dim italic")]
    for part in call.participants:
        lines += _moments(part)
    pulls = sorted(call.negative_by.items(), key=lambda item: -item[1])
    why = ", ".join(f"{MODALITY_NAME[modality]} {-pull:+.2f}" for modality, pull in pulls if pull >= PULL_MIN_SCORE)
    if why:
        lines.append(Text(f"pulled down by: {why} (points of score, mean of the negative utterances)"))
    interruptions = ", ".join(f"{found.participant} at {clock(found.at_ms)}" for found in call.interruptions)
    unknown = "not known (a party was not heard)" if call.participants else "not known"
    silence = unknown if call.silence_ms is None else f"{call.silence_ms / 1000:.0f} s"
    lines.append(Text(f"silence {silence}; interruptions: {interruptions or 'none'}"))
    for modality, counts in call.faults.items():
        reasons = ", ".join(f"{MISSING_NAME.get(reason, reason)}: {count}" for reason, count in counts.items())
        lines.append(Text(f"{MODALITY_NAME[modality]} missing by a fault of the service ({reasons})", style="yellow"))
    return Panel(Group(*lines), title="Call summary" if call.final else "Call so far", title_align="left")


def names_of_models(found: Sequence[UtteranceSentiment]) -> str:
    """Who wrote down the words, and who judged."""
    engines = {result.transcript.engine for result in found if result.transcript is not None}
    bundles = {result.bundle for result in found}
    return f"words by {', '.join(sorted(engines)) or 'nobody'}; judged by {', '.join(sorted(bundles)) or 'nobody'}"


def _contributions(result: UtteranceSentiment) -> list[Text]:
    """`words +0.6`, `voice, face no consent`: what each modality did, those that are missing for one reason together."""
    told: dict[str, tuple[list[str], Text]] = {}
    for modality, name in MODALITY_NAME.items():
        part = result.modalities.get(modality)
        value = contribution(result, modality)
        gave = part is not None and part.contribution is not None
        told.setdefault(name if gave else value.plain, ([], value))[0].append(name)
    return [Text.assemble((f"{', '.join(names)} ", "dim"), value) for names, value in told.values()]


def _rows() -> Table:
    """For calls that go on: when, who, and the rest of the line."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=8, justify="right")
    table.add_column(width=9)
    table.add_column()
    return table


def _participant_row(part: ParticipantSummary) -> tuple[RenderableType, ...]:
    loudness = NOTHING if part.loudness_dbfs is None else f"{part.loudness_dbfs:.0f}"
    return (
        Text(part.participant, style=PARTICIPANT_STYLE[part.participant]),
        f"{part.talk_ms / 1000:.0f} s",
        f"{part.talk_share:.0%}",
        score(part.score_mean),
        *(score(quarter) for quarter in part.score_by_quarter),
        score(part.score_trend_per_min),
        loudness,
    )


def _moments(part: ParticipantSummary) -> list[Text]:
    lines = []
    if part.turn is not None:
        turn = part.turn
        after = f" after {turn.after_participant}'s “{turn.after_words}”" if turn.after_words else ""
        before_to_after = Text.assemble(score(turn.score_before), " to ", score(turn.score_after))
        lines.append(Text.assemble(f"{part.participant} turned at {clock(turn.at_ms)}{after}: ", before_to_after))
    only = part.most_negative == part.most_positive
    moments = (("lowest ", part.most_negative), ("highest ", part.most_positive))
    for name, moment in (("", part.most_negative),) if only else moments:
        if moment is not None:
            said = f" “{moment.words}”" if moment.words else ""
            lines.append(
                Text.assemble(f"{part.participant} {name}", score(moment.score), f" at {clock(moment.start_ms)}{said}")
            )
    return lines


def _bar(value: float | None) -> tuple[str, str]:
    if value is None:
        return NO_SCORE, "bright_black"
    place = (min(max(value, SCORE_MIN), SCORE_MAX) - SCORE_MIN) / (SCORE_MAX - SCORE_MIN)
    return BARS[min(len(BARS) - 1, int(place * len(BARS)))], _score_style(value)


def _line(said: str) -> str:
    """Words as one line."""
    return " ".join(said.split())


def _score_style(value: float) -> str:
    if abs(value) < NEUTRAL_BAND:
        return "bright_black"
    return "green" if value > 0 else "red"
