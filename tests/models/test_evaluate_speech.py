import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deployments.sample import ANGRY_TO_CONTENT
from models import evaluate, evaluate_speech
from models.data import turns
from models.encoders.speech import DEFAULT, load_transcriber
from models.errors import DataError, EvaluateError
from models.recognition import WordsTask
from models.tasks import Answers
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcript
from tests.benchmarks.engines import real_call
from tests.films import tone


class Dictated:
    """A transcriber whose answers are dictated, as texts and the gates that they failed; it keeps what it was sent."""

    engine = "dictated"

    def __init__(self, *answers: str | tuple[str, str | None]) -> None:
        self._answers = iter(answers)
        self.heard: list[FloatArray] = []

    def transcribe(self, batch: Sequence[FloatArray]) -> list[Transcript]:
        self.heard += batch
        found = []
        for _ in batch:
            answer = next(self._answers)
            text, unreliable = answer if isinstance(answer, tuple) else (answer, None)
            found.append(Transcript(text, "en", (), self.engine, unreliable))
        return found


def words(answers: Answers) -> WordsTask:
    task = answers.tasks["words"]
    assert isinstance(task, WordsTask)
    return task


def write(folder: Path, name: str, text: str, seconds: float = 0.5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.wav", tone(SAMPLE_RATE_HZ, seconds=seconds), SAMPLE_RATE_HZ)
    (folder / f"{name}.txt").write_text(text)


@pytest.mark.parametrize(
    ("written", "counted"),
    [
        ("And, Mr. Dashwood -- had THEN leisure!", "and mister dashwood had then leisure"),
        ("It's twenty-five dollars; I'm gonna pay.", "it is $25 i am going to pay"),
        ("Um, [Music] (laughs) hello ... ", "hello"),
        ("ill-disposed", "ill disposed"),
        (" . , ! ♪", ""),
    ],
)
def test_words_are_counted_without_case_punctuation_and_ways_of_writing(written: str, counted: str) -> None:
    assert evaluate_speech.normalised(written) == counted


def test_what_is_written_is_held_against_what_is_said(tmp_path: Path) -> None:
    write(tmp_path, "a", "he was not an ill disposed young man")
    write(tmp_path, "b", "he might even have been made amiable himself")
    transcriber = Dictated(
        "He was not an ill-disposed young man.", ("he might have been made a bull himself", "low_confidence")
    )

    task = words(evaluate_speech.librivox(transcriber, tmp_path, "all"))

    assert task.names == ("a", "b")
    assert task.written == ("he was not an ill disposed young man", "he might have been made a bull himself")
    assert task.reliable.tolist() == [True, False]


def test_a_text_without_a_word_cannot_be_judged(tmp_path: Path) -> None:
    write(tmp_path, "a", "[Music]")
    with pytest.raises(EvaluateError, match="nothing to judge"):
        evaluate_speech.librivox(Dictated("you"), tmp_path, "all")
    write(tmp_path, "b", "door")

    found = evaluate_speech.librivox(Dictated("door"), tmp_path, "all")

    assert (words(found).names, found.skipped) == (("b",), 1)


def test_by_telephone_the_transcriber_hears_no_high_tones(tmp_path: Path) -> None:
    folder = tmp_path / "speech" / "librivox"
    folder.mkdir(parents=True)
    soundfile.write(folder / "a.wav", tone(16_000) + tone(16_000, hz=6_000), 16_000)
    (folder / "a.txt").write_text("door")
    wide, narrow = Dictated("door"), Dictated("door")

    evaluate_speech.librivox(wide, tmp_path, "all")
    evaluate_speech.librivox_telephone(narrow, tmp_path, "all")

    high = [np.abs(np.fft.rfft(one.heard[0]))[2_500:].max() for one in (wide, narrow)]  # from 5 kHz
    assert high[0] > 100 * high[1]


def test_a_long_sound_is_cut_where_it_is_quiet_and_its_words_are_joined(tmp_path: Path) -> None:
    samples = np.concatenate([tone(16_000, seconds=12), np.zeros(8_000, dtype=np.float32), tone(16_000, seconds=9)])
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    (tmp_path / "a.txt").write_text("one part another part")
    transcriber = Dictated("One part,", "another part.")

    task = words(evaluate_speech.librivox(transcriber, tmp_path, "all"))

    assert task.written == (evaluate_speech.normalised("one part another part"),)
    assert 12 * 16_000 < len(transcriber.heard[0]) < 12.5 * 16_000
    np.testing.assert_allclose(np.concatenate(transcriber.heard), samples, atol=1e-4)


def test_pieces_of_endless_noise_are_as_long_as_a_call_s_at_most() -> None:
    noise = np.random.default_rng(0).standard_normal(70 * SAMPLE_RATE_HZ).astype(np.float32)

    found = evaluate_speech.pieces(noise)

    assert np.array_equal(np.concatenate(found), noise)
    assert all(5 <= len(one) / SAMPLE_RATE_HZ <= 15 for one in found[:-1])


@pytest.mark.parametrize(
    ("answers", "reliable"),
    [
        (["well", "yes"], True),
        (["well", ("yes", "repetition")], False),
        (["well", ("", "no_speech")], True),
        ([("", "no_speech"), ("", "no_speech")], False),
    ],
)
def test_a_sound_is_reliable_where_every_piece_with_words_is(
    tmp_path: Path, answers: list[str | tuple[str, str | None]], *, reliable: bool
) -> None:
    write(tmp_path, "a", "well yes", seconds=20)
    assert words(evaluate_speech.librivox(Dictated(*answers), tmp_path, "all")).reliable.tolist() == [reliable]


def test_of_sounds_without_speech_every_word_is_invented_in_brackets_too(tmp_path: Path) -> None:
    transcriber = Dictated("Thank you.", ("[Music]", "no_speech"), "♪", *[""] * 400)

    task = words(evaluate_speech.sounds(transcriber, tmp_path, "all"))

    assert task.written[:4] == ("Thank you.", "[Music]", "", "")
    assert task.reliable[:3].tolist() == [True, False, True]
    assert not any(task.said)


def test_an_evaluation_of_speech_names_the_engine(tmp_path: Path) -> None:
    table = ANGRY_TO_CONTENT.with_suffix(".txt").read_text().splitlines()
    (tmp_path / "call.txt").write_text("\n".join(table[:3]))
    (tmp_path / "call.flac").write_bytes(ANGRY_TO_CONTENT.read_bytes())

    found = evaluate.run("speech", "embedded", "sample", tmp_path, "all")

    assert json.loads(json.dumps(found)) == found
    assert list(found) == ["dataset", "split", "engine", "n", "skipped", "tasks"]
    assert found["engine"] == load_transcriber(DEFAULT).engine
    assert (found["n"], found["skipped"], found["tasks"]["words"]["words"]) == (2, 0, 25)
    assert found["tasks"]["words"]["metrics"]["wer"] <= 0.08


def test_a_set_that_is_not_there_is_named_before_anything_is_transcribed(tmp_path: Path) -> None:
    for judge in (evaluate_speech.librivox, evaluate_speech.ravdess, evaluate_speech.sample):
        with pytest.raises(DataError, match="expected"):
            judge(Dictated(), tmp_path, "all")


@pytest.mark.slow  # minutes: a hundred sounds
def test_in_sounds_without_speech_no_word_is_believed(tmp_path: Path) -> None:
    found = evaluate.run("speech", "embedded", "sounds", tmp_path)

    assert found["n"] >= 90
    assert found["tasks"]["words"]["metrics"]["reliable_words"] == 0


@pytest.mark.slow
def test_the_sample_call_is_understood() -> None:
    metrics = evaluate.run("speech", "embedded", "sample", ANGRY_TO_CONTENT.parent)["tasks"]["words"]["metrics"]

    assert metrics["wer"] <= 0.03
    assert metrics["reliable_share"] == 1
    assert len(turns.read(ANGRY_TO_CONTENT.parent, "all").clips) == 17


@pytest.mark.slow
def test_real_speech_is_understood_and_believed(data_dir: Path) -> None:
    plain, narrow = (
        evaluate.run("speech", "embedded", name, data_dir)["tasks"]["words"]["metrics"]
        for name in ("librivox", "librivox_telephone")
    )

    assert plain["wer"] <= 0.06  # one error in 71 words was measured, and three by telephone
    assert narrow["wer"] <= 0.085
    assert (plain["reliable_share"], narrow["reliable_share"]) == (1, 1)


@pytest.mark.slow
def test_the_gates_let_a_real_call_through(data_dir: Path) -> None:
    heard = load_transcriber(DEFAULT).transcribe(list(real_call(data_dir)))

    assert len(heard) > 40
    assert np.mean([one.unreliable is None for one in heard]) >= 0.95
