"""A stream is looked ahead in only where that is needed, and no track is taken for another's when it sends later."""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.source import source_packets
from pipelines.types import Channels, Participant
from tests.fuzz import bombs
from tests.pipelines import media_files as media
from tests.pipelines.media.media_makers import Sound, dropped, write
from tests.pipelines.media_files import AGENT, BOTH, CUSTOMER

LENGTH_S = 20
LIVE = {"live": "1"}


class Heard:
    """What came of a stream: whose tracks, up to when; what was warned of and refused; and how far it was read for the first packet."""

    def __init__(self, whole: bytes, participants: Channels, decoders: DecoderProcesses | None = None) -> None:
        self.warnings: list[str] = []
        self.until_s: dict[Participant | None, float] = {}
        self.error = ""
        self.read_s_at_first = 0.0
        self._taken = 0
        with ExitStack() as opened:
            stream = ByteStream(self._chunks(whole))
            try:
                for one in source_packets(stream, participants, opened, decoders=decoders, warn=self.warnings.append):
                    self.read_s_at_first = self.read_s_at_first or LENGTH_S * self._taken / len(whole)
                    (who,) = one.tracks.sounds[one.track].participants
                    self.until_s[who] = one.shown_ms / 1000
            except MediaError as error:
                self.error = str(error)

    def _chunks(self, whole: bytes) -> Iterator[bytes]:
        for at in range(0, len(whole), 1000):
            self._taken = at
            yield whole[at : at + 1000]


def tracks(container: str, codec: str, late_s: float, rate: int = 256_000) -> bytes:
    """Two tracks, the second of which begins later."""
    one, other = np.random.default_rng(1).normal(0, 0.1, (2, LENGTH_S * 16_000)).astype(np.float32)
    second = Sound(other, codec, bit_rate=rate, edit=dropped((-1, late_s)))
    return write(container, Sound(one, codec, bit_rate=rate), second, options=LIVE if container == "webm" else None)


def test_a_track_that_was_named_is_waited_for_until_it_sends() -> None:
    heard = Heard(tracks("mpegts", "aac", 4.6), BOTH)
    assert heard.error == ""
    assert heard.warnings == []
    assert min(heard.until_s[AGENT], heard.until_s[CUSTOMER]) > LENGTH_S - 0.2
    # One track for 4.6 s and two for the rest: 2.6 of 20 parts of its bytes lie before the second begins, 11 before 12 s.
    assert heard.read_s_at_first < 4


@pytest.mark.parametrize("participants", [(CUSTOMER,), (CUSTOMER, None)])
def test_a_track_that_nobody_named_is_not_waited_for(participants: Channels) -> None:
    assert 0 < Heard(tracks("mpegts", "aac", 18), participants).read_s_at_first < 4


@pytest.mark.parametrize(("container", "codec"), [("mpegts", "aac"), ("webm", "libopus")])
def test_what_was_heard_for_the_only_track_ends_where_another_sends(container: str, codec: str) -> None:
    heard = Heard(tracks(container, codec, 15), (CUSTOMER,))
    assert heard.until_s[CUSTOMER] == pytest.approx(15, abs=1)
    assert "a sound track that had sent nothing begins at" in heard.error


def test_one_name_for_two_tracks_that_both_send_is_refused_before_anything_is_heard() -> None:
    heard = Heard(tracks("webm", "libopus", 9), (CUSTOMER,))
    assert heard.until_s == {}
    assert "name one participant a track" in heard.error


def test_a_named_track_that_sends_nothing_is_left_out_and_said_until_it_sends() -> None:
    heard = Heard(tracks("mpegts", "aac", 16), BOTH)
    assert list(heard.until_s) == [AGENT]
    assert heard.until_s[AGENT] == pytest.approx(16, abs=1)
    assert any("the sound track of customer sends nothing" in warning for warning in heard.warnings)
    assert "begins at" in heard.error


def test_a_track_of_which_nobody_is_said_to_be_may_send_later() -> None:
    heard = Heard(tracks("mpegts", "aac", 15), (CUSTOMER, None))
    assert heard.error == ""
    assert heard.until_s[CUSTOMER] > LENGTH_S - 0.2


def test_looking_ahead_is_bounded_and_checked_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tracks("mpegts", "aac", 16)
    monkeypatch.setattr("pipelines.media.opening._STREAM_MAX_BYTES", len(whole) // 4)
    processes = DecoderProcesses()
    try:
        heard = Heard(whole, BOTH, processes)
    finally:
        processes.close()
    assert list(heard.until_s) == [AGENT]
    assert heard.read_s_at_first < LENGTH_S / 2


def test_a_file_is_looked_through_before_its_only_track_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "live.webm"
    path.write_bytes(tracks("webm", "libopus", 18))
    with pytest.raises(MediaError, match="name one participant a track"):
        media.cut(path)


def test_tables_of_gigabytes_are_refused_where_they_are_measured() -> None:
    decoders = DecoderProcesses()
    whole = bombs.mp4_index(3, 10_000_000)
    assert len(whole) < 100_000
    with ExitStack() as opened, pytest.raises(MediaError, match="tables take more than"):
        for _ in source_packets(io.BytesIO(whole), (AGENT, None, None), opened, decoders=decoders):
            pass
    decoders.close()
