from collections.abc import Sequence

import numpy as np
import pytest

from models.encoders.whisper_decoding import (
    Piece,
    clean,
    frames,
    heard,
    is_unsure,
    language_of,
    transcribe,
    unreliable_reason,
    window_s,
    words_of,
)
from models.errors import WhisperError
from models.types import FloatArray, Transcript, Word

SECOND = np.full(16_000, 0.01, np.float32)


@pytest.mark.parametrize(
    ("text", "no_speech", "log_probability", "compression", "gate"),
    [
        ("Thank you.", 0.9, -1.5, 1.0, "no_speech"),
        ("you", 0.9, -0.5, 1.0, "no_speech"),  # what tiny.en writes for silence
        ("Ha!", 0.5, -0.6, 1.0, "no_speech"),
        ("Thank you.", 0.9, -0.2, 1.0, None),  # sure of it
        ("Thank you.", 0.4, -0.8, 1.0, None),
        ("no no no no", 0.0, -0.2, 3.0, "repetition"),
        ("Blurred words", 0.0, -1.5, 1.0, "low_confidence"),
        (" ... ", 0.0, -0.2, 1.0, "no_speech"),
    ],
)
def test_gates(text: str, no_speech: float, log_probability: float, compression: float, gate: str | None) -> None:
    assert unreliable_reason(text, no_speech, log_probability, compression, SECOND) == gate


@pytest.mark.parametrize(
    ("text", "seconds", "gate"),
    [
        ("Thank you.", 29.9, "no_speech"),
        ("Thank you.", 10, None),
        ("2018", 2.6, None),
        ("没有。", 4, None),
        ("A.", 2, None),
        ("Yes.", 6, None),
    ],
)
def test_hardly_a_word_in_a_long_sound_is_no_speech(text: str, seconds: float, gate: str | None) -> None:
    samples = np.full(int(16_000 * seconds), 0.01, np.float32)
    assert unreliable_reason(text, 0.0, -0.2, 1.0, samples) == gate


def test_a_space_begins_a_word_and_nothing_else_does() -> None:
    pieces = [
        Piece(" My", 1, 0.0, 0.2, 0.5),
        Piece(" e", 1, 0.2, 0.3, 0.9),
        Piece("-mail", 2, 0.3, 0.5, 0.6),
        Piece(",", 1, 0.5, 0.6, 1.0),
        Piece(' "', 1, 0.6, 0.6, 1.0),
        Piece("ok", 1, 0.6, 0.9, 0.0),
        Piece('."', 1, 0.9, 0.9, 0.5),
    ]
    words = words_of(pieces, "en", SECOND)
    assert [(word.text, word.start_ms, word.end_ms) for word in words] == [
        ("My", 0, 200),
        ("e-mail,", 200, 600),
        ('"ok."', 600, 900),
    ]
    assert [word.confidence for word in words] == pytest.approx([0.5, (0.9 + 2 * 0.6 + 1.0) / 4, 0.5])


def test_a_language_without_spaces_has_a_word_a_piece() -> None:
    pieces = [Piece("你好", 2, 0.0, 0.2, 1.0), Piece("吗", 1, 0.2, 0.3, 1.0), Piece("?", 1, 0.3, 0.3, 1.0)]
    assert [word.text for word in words_of(pieces, "zh", SECOND)] == ["你好", "吗?"]


def test_words_lie_in_the_sound_and_do_not_end_before_they_begin() -> None:
    pieces = [Piece(" a", 1, 0.9, 0.7, 1.2), Piece(" b", 1, 1.5, 9.0, -0.1), Piece(" ", 1, 0.0, 0.0, 1.0)]
    assert words_of(pieces, "en", SECOND) == (Word("a", 900, 900, 1.0), Word("b", 1000, 1000, 0.0))


def test_an_unlikely_language_is_english() -> None:
    assert language_of({"en": 0.2, "cy": 0.4, "de": 0.3}) == "en"
    assert language_of({"en": 0.2, "cy": 0.1, "de": 0.7}) == "de"


def test_what_is_heard_is_finite_and_within_full_scale() -> None:
    assert clean(np.array([np.nan, np.inf, -np.inf, 2.0, -0.5], np.float32)).tolist() == [0.0, 0.0, 0.0, 1.0, -0.5]


@pytest.mark.parametrize(("seconds", "window"), [(0.1, 15), (12, 15), (12.1, 20), (17, 20), (17.1, 30), (29.9, 30)])
def test_a_window_holds_the_utterance_and_silence_behind_it(seconds: float, window: int) -> None:
    assert window_s(np.zeros(int(16_000 * seconds), np.float32)) == window


@pytest.mark.parametrize(
    ("text", "unreliable", "seconds"),
    [
        ("Kids are talking by the door.", None, [15]),
        ("No, no, no, thank you, thank you.", None, [15]),
        ("Kids are talking. Kids are talking!", None, [15, 30]),
        ("So the dogs sit, the dogs sit.", None, [15, 30]),
        ("Kids are talking by the door.", "low_confidence", [15, 30]),
        ("", "no_speech", [15]),
    ],
)
def test_what_a_short_window_leaves_unsure_is_heard_again_in_30_s(
    text: str, unreliable: str | None, seconds: list[int]
) -> None:
    asked: list[int] = []

    def decode(batch: Sequence[FloatArray], window: int) -> list[Transcript]:
        asked.append(window)
        return [Transcript(text, "en", (), f"in {window} s", unreliable) for _ in batch]

    (found,) = transcribe([SECOND], decode, 8, "none")
    assert (asked, found.engine) == (seconds, f"in {seconds[-1]} s")


@pytest.mark.parametrize(("text", "unsure"), [("你好世界你好世界", True), ("你好, 世界", False)])
def test_a_language_without_spaces_goes_round_by_its_characters(text: str, *, unsure: bool) -> None:
    assert is_unsure(Transcript(text, "zh", (), "one")) is unsure


def test_a_text_that_may_be_believed_is_not_lost_to_a_second_hearing_that_may_not() -> None:
    twice = "Thank you so much, thank you so much."

    def decode(batch: Sequence[FloatArray], window: int) -> list[Transcript]:
        return [
            Transcript(
                *((twice, "en", ()) if window < 30 else ("", "en", ())), "one", None if window < 30 else "no_speech"
            )
            for _ in batch
        ]

    assert transcribe([SECOND], decode, 8, "none")[0].text == twice


def test_of_a_batch_only_what_is_unsure_is_heard_again_in_its_place() -> None:
    asked: list[tuple[int, int]] = []

    def decode(batch: Sequence[FloatArray], window: int) -> list[Transcript]:
        asked.append((window, len(batch)))
        unsure = window == 15
        return [
            Transcript(
                f"{len(samples) // 16_000} {window}",
                "en",
                (),
                "one",
                "repetition" if unsure and len(samples) > 32_000 else None,
            )
            for samples in batch
        ]

    found = transcribe([np.tile(SECOND, length) for length in (1, 3, 14, 2)], decode, 8, "none")
    assert [one.text for one in found] == ["1 15", "3 30", "14 20", "2 15"]
    assert asked == [(15, 3), (20, 1), (30, 1)]


def test_a_batch_is_heard_a_window_at_a_time_and_keeps_its_order() -> None:
    asked: list[tuple[int, int]] = []

    def decode(batch: Sequence[FloatArray], window: int) -> list[Transcript]:
        asked.append((window, len(batch)))
        return [Transcript(str(len(samples) // 16_000), "en", (), "one") for samples in batch]

    lengths = [20, 1, 14, 2, 25, 3]
    found = transcribe([np.tile(SECOND, length) for length in lengths], decode, 2, "none")
    assert [int(one.text) for one in found] == lengths
    assert asked == [(15, 2), (15, 1), (20, 1), (30, 2)]


def test_what_is_too_short_or_too_quiet_is_not_decoded_and_what_is_no_utterance_is_refused() -> None:
    assert heard(
        [SECOND[:1599], SECOND[:1600], SECOND, SECOND * 0.09, SECOND * np.nan, SECOND * np.inf, SECOND[:0]]
    ) == [1, 2]
    assert (frames(SECOND), frames(SECOND[:160])) == (100, 2)
    for wrong in (np.zeros((2, 16_000), np.float32), np.zeros(16_000 * 30 + 1, np.float32)):
        with pytest.raises(WhisperError, match="at most 30 s"):
            heard([SECOND, wrong])
