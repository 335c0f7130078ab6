"""What decodes in a process of its own is bounded there, and nothing of it is lost here."""

import io
import operator
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import BadFragmentError, MediaError
from pipelines.log.records import parse_participants
from pipelines.media import decoder_process
from pipelines.media.byte_stream import ByteStream
from pipelines.media.decoder_process import IDLE_MAX, DecoderKilledError, DecoderProcesses
from tests.eventually import wait_until
from tests.pipelines.hostile_pictures import h264_bomb
from tests.pipelines.media_files import film

PIXELS_MAX = 5120 * 2880
pytestmark = pytest.mark.slow  # starts processes of its own


@pytest.fixture
def processes() -> Iterator[DecoderProcesses]:
    found = DecoderProcesses()
    yield found
    found.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_opening_that_takes_too_long_ends_its_process_and_the_next_one_opens(processes: DecoderProcesses) -> None:
    pid = processes.run(os.getpid, cpu_max_s=1)
    began_s = time.process_time()
    with pytest.raises(DecoderKilledError, match="more than 1 s of processor time"):
        processes.check_opening(io.BytesIO(h264_bomb(20_000)), "the film", PIXELS_MAX, cpu_max_s=1)

    assert (
        time.process_time() - began_s < 10
    )  # of forty that it would take here; the film itself is made in less than one
    assert not is_alive(pid)
    processes.check_opening(
        io.BytesIO(film("mp4", picture_codec="mpeg4", seconds=1.0)), "the film", PIXELS_MAX, cpu_max_s=5
    )


def test_no_module_of_the_current_folder_is_loaded(
    processes: DecoderProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "multiprocessing", "av", "pipelines"):
        (tmp_path / f"{name}.py").write_text("open('loaded', 'w').close()")
    monkeypatch.chdir(tmp_path)
    assert processes.run(os.getcwd, cpu_max_s=5) == str(tmp_path)
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_a_file_is_left_where_it_stood(processes: DecoderProcesses, container: str) -> None:
    whole = film(container, picture_codec="libx264", seconds=1.0)
    file = io.BytesIO(b"before" + whole)
    file.seek(6)
    processes.check_opening(file, "the film", PIXELS_MAX, cpu_max_s=5)
    assert file.tell() == 6

    stream = ByteStream(whole[at : at + 500] for at in range(0, len(whole), 500))
    if container != "mp4":  # which is spooled, since it cannot be read in order
        processes.check_opening(stream, "the film", PIXELS_MAX, cpu_max_s=5)
    assert b"".join(iter(stream.read, b"")) == whole


def test_no_more_of_a_stream_is_read_than_opening_it_takes(processes: DecoderProcesses) -> None:
    whole, read = film("matroska", picture_codec="libx264", seconds=20.0, size=(320, 240)), 0

    def chunks() -> Iterator[bytes]:
        nonlocal read
        for at in range(0, len(whole), 500):
            read = at
            yield whole[at : at + 500]

    processes.check_opening(ByteStream(chunks()), "the film", PIXELS_MAX, cpu_max_s=5)
    assert 0 < read < len(whole) / 2


def test_what_is_no_media_is_told_as_ever(processes: DecoderProcesses) -> None:
    with pytest.raises(MediaError, match="the upload is no media that FFmpeg can open") as refused:
        processes.check_opening(io.BytesIO(b"no media at all" * 100), "the upload", PIXELS_MAX, cpu_max_s=5)
    assert type(refused.value) is MediaError


def test_an_error_comes_with_all_that_it_says(processes: DecoderProcesses) -> None:
    with pytest.raises(BadFragmentError) as here:
        parse_participants("bob")
    with pytest.raises(BadFragmentError) as there:
        processes.run(parse_participants, "bob", cpu_max_s=5)
    assert vars(there.value) == vars(here.value)
    assert str(there.value) == str(here.value)


def test_a_crash_ends_the_decoding_and_nothing_else(processes: DecoderProcesses) -> None:
    with pytest.raises(DecoderKilledError, match="SIGABRT"):
        processes.run(os.abort, cpu_max_s=5)
    with pytest.raises(RuntimeError, match="code 3"):  # of which the media is not to blame
        processes.run(os._exit, 3, cpu_max_s=5)
    assert processes.run(abs, -1, cpu_max_s=5) == 1


def test_memory_is_bounded(processes: DecoderProcesses) -> None:
    with pytest.raises(DecoderKilledError, match="more than 4 GiB"):
        processes.run(bytes, decoder_process.MEMORY_MAX_BYTES, cpu_max_s=5)


def test_a_process_that_waits_for_ever_is_ended(processes: DecoderProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "WAIT_MAX_S", 0.0)
    with pytest.raises(DecoderKilledError, match="has not ended"):
        processes.run(time.sleep, 600, cpu_max_s=1)


def test_a_process_does_one_piece_after_the_other_each_with_time_of_its_own(processes: DecoderProcesses) -> None:
    first = processes.run(os.getpid, cpu_max_s=1)
    while processes.run(time.process_time, cpu_max_s=1) < 2.5:
        processes.run(sum, range(1_000_000), cpu_max_s=1)
    assert processes.run(os.getpid, cpu_max_s=1) == first


def test_what_fails_where_the_file_is_read_ends_the_decoding(processes: DecoderProcesses) -> None:
    pid = processes.run(os.getpid, cpu_max_s=1)

    def broken_off() -> Iterator[bytes]:
        yield film("matroska", picture_codec="libx264", seconds=1.0)[:500]
        raise ConnectionResetError("the sender went away")

    with pytest.raises(ConnectionResetError, match="went away"):
        processes.check_opening(ByteStream(broken_off()), "the film", PIXELS_MAX, cpu_max_s=5)
    assert not is_alive(pid)


def test_a_decoder_may_read_its_file_and_do_nothing_else_with_it(processes: DecoderProcesses) -> None:
    file = io.BytesIO(b"media")
    assert processes.run(operator.methodcaller("_ask", "read", 3), cpu_max_s=5, file=file) == b"med"
    with pytest.raises(DecoderKilledError, match="'close'"):
        processes.run(operator.methodcaller("_ask", "close"), cpu_max_s=5, file=file)
    assert not file.closed


def test_idle_processes_are_few_and_end_with_their_owner() -> None:
    processes = DecoderProcesses()

    def pids(depth: int) -> Any:
        """As many processes at once."""

        class Nested(io.BytesIO):
            def tell(self) -> int:
                found.append(processes.run(os.getpid, cpu_max_s=5) if depth == 1 else pids(depth - 1))
                return 0

        processes.run(operator.methodcaller("tell"), cpu_max_s=5, file=Nested())
        return processes.run(os.getpid, cpu_max_s=5)

    found: list[int] = []
    pids(IDLE_MAX + 2)
    assert len(processes._idle) == IDLE_MAX
    processes.close()
    assert not any(is_alive(pid) for pid in found)
    processes.run(os.getpid, cpu_max_s=5)  # by a thread that was late
    assert processes._idle == []


def test_a_process_ends_when_nobody_is_there_to_give_it_work() -> None:
    processes = DecoderProcesses()
    pid = processes.run(os.getpid, cpu_max_s=5)
    (process,) = processes._idle
    process._pipe.close()
    wait_until(lambda: process._process.poll() is not None)
    assert not is_alive(pid)
