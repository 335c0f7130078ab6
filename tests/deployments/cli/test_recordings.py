import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deployments.cli.console import EXIT_USAGE, CommandError
from deployments.cli.recordings import Recording, consent_of, due, fragments_of, length_s, participants_of
from deployments.sample import ANGRY_TO_CONTENT
from models.types import Modality
from pipelines.errors import MediaError
from pipelines.types import DEFAULT_CONSENT, MediaFragment, Participant

AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER


def wav(path: Path, samples: int, level: int, *, rate_hz: int = 16_000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.full(samples * channels, level, "<i2").tobytes())
    return path


def test_files_of_raw_sound_are_known_by_their_extension(tmp_path: Path) -> None:
    sln, ulaw = tmp_path / "a.sln16", tmp_path / "c.ULAW"
    sln.write_bytes(np.full(32_000, 500, "<i2").tobytes())
    ulaw.write_bytes(b"\x80" * 8000)  # the loudest that mu-law has

    assert length_s([sln, ulaw]) == 2.0
    assert participants_of([sln], "customer") == participants_of([ulaw], "customer") == (CUSTOMER,)
    assert {one.content_type for one in fragments_of(Recording((ulaw,), "customer"), "a-17")} == {"audio/PCMU"}
    with pytest.raises(MediaError, match=r"a\.sln16 .* convert it to WAV or FLAC"):
        list(fragments_of(Recording((sln, ulaw), "agent,customer"), "a-17"))


def test_a_file_is_mixed_when_nobody_says_otherwise_and_the_hint_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mono = wav(tmp_path / "a.wav", 1600, 0)
    for path, hint in ((mono, "--participants customer"), (ANGRY_TO_CONTENT, "--participants agent,customer")):
        (first, *_) = fragments_of(Recording((path,)), "a")
        assert first.participants == (Participant.MIXED,)
        assert hint in " ".join(capsys.readouterr().err.split())
    list(fragments_of(Recording((mono,), "customer"), "a"))
    assert not capsys.readouterr().err


def test_of_several_files_it_is_not_guessed_who_is_in_which(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="--participants agent,customer") as caught:
        participants_of([wav(tmp_path / "a.wav", 1600, 0)] * 2, None)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(("text", "expected"), [("agent,customer", (AGENT, CUSTOMER)), ("customer", (CUSTOMER,))])
def test_participants_are_taken_as_they_are_named(text: str, expected: tuple[Participant, ...]) -> None:
    assert participants_of([ANGRY_TO_CONTENT], text) == expected


def test_participants_must_fit_the_channels_and_the_files(tmp_path: Path) -> None:
    mono = wav(tmp_path / "a.wav", 1600, 0)

    for paths, text in (([mono, mono], "agent"), ([mono, mono], None), ([mono], "boss")):
        with pytest.raises(CommandError, match="--participants"):
            participants_of(paths, text)


def test_a_file_that_is_missing_or_no_media_is_named(tmp_path: Path) -> None:
    text = tmp_path / "song.mp4"
    text.write_text("no media at all")

    with pytest.raises(CommandError, match="no such file"):
        participants_of([tmp_path / "gone.wav"], None)
    with pytest.raises(CommandError, match="is a folder"):
        participants_of([tmp_path], None)
    for participants in (None, "customer"):
        with pytest.raises(MediaError, match=r"song\.mp4"):
            list(fragments_of(Recording((text,), participants), "a-17"))


def test_the_length_is_that_of_the_longest_file(tmp_path: Path) -> None:
    paths = [wav(tmp_path / "a.wav", 16_000, 0), wav(tmp_path / "b.wav", 32_000, 0)]

    assert length_s(paths) == pytest.approx(2.0)


def test_consent_is_as_named_or_left_to_the_tenant() -> None:
    assert consent_of(None) is None
    assert consent_of("agent=text") == {AGENT: frozenset({Modality.TEXT})}
    with pytest.raises(CommandError, match="--consent"):
        consent_of("everything")


def test_in_real_time_a_fragment_is_due_when_it_has_been_spoken() -> None:
    assert [due_s for due_s, _ in due(fragments_at(5000, 6000, 7500))] == [1.0, 2.5, 4.0]
    assert [due_s for due_s, _ in due(fragments_at(300))] == [0.0]
    assert list(due([])) == []


def fragments_at(*starts_ms: int) -> Iterator[MediaFragment]:
    for seq, start_ms in enumerate(starts_ms):
        yield MediaFragment(
            call_id="c",
            tenant="default",
            stream="main",
            seq=seq,
            start_ms=start_ms,
            content_type="audio/x-matroska",
            participants=(Participant.CUSTOMER,),
            consent=DEFAULT_CONSENT,
            final=False,
            media=b"x",
        )


def test_an_empty_file_is_said_to_be_empty_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    for named in (None, "customer"):
        with pytest.raises(CommandError, match=r"empty\.wav is empty$"):
            participants_of([tmp_path / "empty.wav"], named)
