from typing import get_args

import pytest
from rich.console import RenderableType

from deployments.cli import render
from deployments.cli.console import stdout
from models.types import Modality
from pipelines.review.summary import summarise
from pipelines.types import MissingReason, ModalityOut, Participant
from tests.deployments.results import result


def seen(renderable: RenderableType) -> str:
    console = stdout()
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


ANGRY = result(65_432, "nobody helps me", -2.1)
CONTENT = result(80_000, "thank you so much", 1.9)


def test_a_time_is_shown_with_tenths_and_with_hours_only_when_there_are_any() -> None:
    assert [render.clock(t) for t in (0, 9_999, 65_432, 3_600_000)] == ["0:00.0", "0:09.9", "1:05.4", "1:00:00.0"]


def test_a_score_that_rounds_to_nothing_has_no_minus() -> None:
    assert [render.signed(value) for value in (-0.04, 0.04, -0.0, -0.06, 1.96, -3.0)] == [
        *("+0.0", "+0.0", "+0.0", "-0.1", "+2.0", "-3.0")
    ]
    assert "-0.0" not in seen(render.utterance(result(0, "well", -0.01)))


def test_an_utterance_shows_who_when_what_how_and_why() -> None:
    shown = seen(render.utterance(ANGRY))

    for part in ("1:05.4", "customer", "nobody helps me", "-2.1", "negative, anger 80%", "words -2.1"):
        assert part in shown
    assert "voice too slow" in shown
    assert "face no face" in shown


def test_every_reason_for_a_missing_modality_has_a_name() -> None:
    assert set(render.MISSING_NAME) == set(get_args(MissingReason))


def test_a_transcript_has_a_row_for_every_utterance() -> None:
    shown = seen(render.Transcript([ANGRY, CONTENT]))

    assert "nobody helps me" in shown
    assert "thank you so much" in shown
    assert "+1.9" in shown
    assert "how far the score would move back if it were left out" in shown


def test_a_transcript_says_what_stands_in_place_of_a_contribution() -> None:
    missing = {Modality.VIDEO: ModalityOut(used=False, missing="not_consented")}
    shown = " ".join(seen(render.Transcript([ANGRY.model_copy(update={"modalities": missing})])).split())

    assert "no consent: not allowed" in shown
    assert "too slow:" not in shown
    assert "too slow: the network was late" in " ".join(seen(render.Transcript([ANGRY])).split())


def test_words_that_may_not_be_believed_come_with_their_reason() -> None:
    assert "hallo hallo (no_speech)" in seen(render.words(result(0, "hallo hallo", None, reliable=False)))


def test_what_could_not_be_judged_says_so() -> None:
    assert "not judged" in seen(render.utterance(result(0, "", None)))
    assert "(no words)" in seen(render.utterance(result(0, "", None)))


def test_the_sentiment_line_rises_from_the_lowest_bar_to_the_highest() -> None:
    scores = [-3.0, 0.0, 3.0, None]
    line = seen(render.sentiment_line([result(n * 1000, "so", score) for n, score in enumerate(scores)]))

    assert line.split() == ["customer", "▁▅█·"]


def test_the_sentiment_line_has_a_line_for_each_participant() -> None:
    agent = result(0, "hello", 0.5, Participant.AGENT)

    assert [line.split()[0] for line in seen(render.sentiment_line([ANGRY, agent])).splitlines()] == [
        "agent",
        "customer",
    ]


def test_the_summary_shows_its_sentence_and_its_figures() -> None:
    call = summarise([ANGRY], final=True)
    shown = seen(render.summary(call))

    assert call.headline.split(".")[0][:40] in shown
    assert "Call summary" in shown
    assert "words -2.10" in shown
    assert "silence not known (a party was not heard)" in shown
    assert "customer at -2.1 at 1:05.4 “nobody helps me”" not in shown
    assert "customer -2.1 at 1:05.4 “nobody helps me”" in shown  # its lowest and its highest are the same


def test_who_said_two_things_has_a_lowest_and_a_highest() -> None:
    shown = seen(render.summary(summarise([ANGRY, CONTENT], final=True)))

    assert "customer lowest -2.1" in shown
    assert "customer highest +1.9" in shown


def test_a_summary_of_nothing_has_no_table() -> None:
    shown = seen(render.summary(summarise([], final=False)))

    assert "dBFS" not in shown
    assert render.names_of_models([]) == "words by nobody; judged by nobody"


def test_a_summary_of_nothing_can_be_shown() -> None:
    assert "No speech that may be analysed yet." in seen(render.summary(summarise([], final=False)))


def test_words_cannot_steer_the_terminal_or_the_markup() -> None:
    shown = seen(render.utterance(result(0, "\x1b[2J [bold]hi[/bold]", 1.0)))

    assert "\x1b" not in shown
    assert "[bold]hi[/bold]" in shown


def test_a_summary_says_what_lacks_by_a_fault_and_nothing_else() -> None:
    assert "voice missing by a fault of the service (too slow: 2)" in seen(
        render.summary(summarise([ANGRY, CONTENT], final=True))
    )
    assert "fault" not in seen(render.summary(summarise([], final=True)))


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_transcript_is_readable_at_any_width(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    said = "This is the third time that I have called"
    lines = seen(render.Transcript([result(65_432, said, -2.1)])).splitlines()

    assert max(map(len, lines)) <= int(columns)
    assert any(said in line for line in lines)
    assert any("negative, anger 80%" in line for line in lines)


def test_what_is_missing_for_one_reason_is_said_once() -> None:
    missing = {
        modality: ModalityOut(used=False, missing="not_consented") for modality in (Modality.AUDIO, Modality.VIDEO)
    }
    shown = seen(render.utterance(ANGRY.model_copy(update={"modalities": {**ANGRY.modalities, **missing}})))

    assert "words -2.1  voice, face no consent" in shown
