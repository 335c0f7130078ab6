import pytest

from models.encoders.words import CHARACTERS_MAX, UNKNOWN_MS, SpokenText, prepare, prepare_spoken, prepare_timed
from models.errors import TextInputError
from models.types import Spoken, Transcript, Word


def said(text: str, *words: tuple[str, int], participant: str = "mixed") -> Spoken:
    timed = tuple(Word(word, start_ms, start_ms + 90, 0.9) for word, start_ms in words)
    return Spoken(Transcript(text, "en", timed, "test"), participant, ("well",))


def test_a_text_is_tidied_and_bounded() -> None:
    assert prepare("  Don\N{RIGHT SINGLE QUOTATION MARK}t\n cafe\N{COMBINING ACUTE ACCENT} ") == "Don't caf\u00e9"
    assert len(prepare("x" * 10_000_000)) == CHARACTERS_MAX
    assert prepare(prepare("a  b")) == prepare_spoken(said("a  b")).text == "a b"


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_a_text_without_words_is_refused(text: str) -> None:
    for spoken in (said(text), said(text, ("hello", 0))):
        with pytest.raises(TextInputError, match="no word"):
            prepare_timed(spoken)


@pytest.mark.parametrize("participant", ["agent", "customer", "mixed"])
def test_who_speaks_and_what_was_said_before_go_with_the_text(participant: str) -> None:
    spoken = said(" yes ", participant=participant)
    assert prepare_spoken(spoken) == prepare_timed(spoken).prepared == SpokenText("yes", participant, ("well",))
    assert len(prepare_spoken(spoken)) == 3


def test_somebody_unheard_of_is_refused() -> None:
    with pytest.raises(TextInputError, match="agent, customer, mixed"):
        prepare_spoken(said("yes", participant="robot"))


def test_each_character_has_the_time_of_its_word() -> None:
    timed = prepare_timed(said(" so  it is ", ("so", 10), ("it", 200), ("is", 300)))
    assert timed.prepared.text == "so it is"
    assert timed.times_ms.tolist() == [10, 10, 10, 200, 200, 200, 300, 300]


def test_a_word_that_the_text_does_not_have_is_passed_over() -> None:
    timed = prepare_timed(said("yes no", ("hm", 5), ("yes", 10), (" ", 20), ("maybe", 30), ("no", 40)))
    assert timed.times_ms.tolist() == [10, 10, 10, 10, 40, 40]


def test_what_stands_before_the_first_word_counts_to_it() -> None:
    assert prepare_timed(said("- yes", ("yes", 70))).times_ms.tolist() == [70] * 5


def test_without_times_none_is_made_up() -> None:
    assert set(prepare_timed(said("yes")).times_ms.tolist()) == {UNKNOWN_MS}
