"""What a hostile input is pushed through, and what it may do: be demuxed, or be refused by name."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipelines.errors import BadFragmentError, MediaError
from pipelines.log.records import fragment_headers, parse_record
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.demux import PICTURES_APART_MAX_S, Demuxed, Demuxer
from pipelines.media.fragment import fragments
from pipelines.media.picture_buffer import decoded
from pipelines.settings import MediaLimits, StreamSettings
from pipelines.types import (
    FRAGMENT_MAX_BYTES,
    SAMPLES_PER_MS,
    START_MAX_MS,
    Coordinates,
    MediaFragment,
    Participant,
    Record,
)
from tests.fuzz.cases import Case

_SETTINGS = StreamSettings()
_DECODERS = DecoderProcesses()
"""A file is cut as in the gateway."""
_SLACK_MS = 2000
"""Decoders and resamplers hold a little back."""
_PIECES_MAX = 1000
"""Beyond these a file that says to last for days is not read on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input: as a fragment, and as a file that was cut. Refusals carry their reason."""

    fragment: str
    file: str


def push(case: Case, step: Callable[[], None]) -> Outcome:
    """Takes one input both ways, and calls `step` whenever a fragment is done: each has its own time.

    Raises:
        AssertionError: what came out breaks the contract of blocks, pictures or fragments.
    """
    fragment = _as_fragment(case)
    step()
    return Outcome(fragment, _as_file(case, step))


def _as_fragment(case: Case) -> str:
    record = Record(Coordinates(0, 1), b"call", case.media, case.headers, 0)
    try:
        fragment = parse_record(record, MediaLimits())
    except BadFragmentError as error:
        return _refusal(error)
    demuxer = Demuxer(_SETTINGS)
    neighbour = replace(fragment, media=case.valid, final=False, content_type=_valid_type(case, fragment.content_type))
    times = max(fragment.start_ms - 600, 0), fragment.start_ms + 600
    if case.before:
        _feed(demuxer, replace(neighbour, seq=fragment.seq - 1, start_ms=times[0]), times)
    outcome = _feed(demuxer, fragment, times)
    if case.after:
        _feed(demuxer, replace(neighbour, seq=fragment.seq + 1, start_ms=times[1]), times)
    _check(demuxer.finish(), times)
    return outcome


def _valid_type(case: Case, said: str) -> str:
    return {"l16": "audio/L16;rate=16000", "headers": "audio/L16;rate=16000"}.get(case.format, said)


def _as_file(case: Case, step: Callable[[], None]) -> str:
    content_type = dict(case.headers).get("content-type", b"").decode("utf-8", "replace")
    count = empty = 0
    demuxer = Demuxer(_SETTINGS)
    try:
        for count, piece in enumerate(_cut(case, content_type), 1):
            assert len(piece.media) <= FRAGMENT_MAX_BYTES, "a fragment is too large"
            assert 0 <= piece.start_ms <= START_MAX_MS, f"a fragment starts at {piece.start_ms} ms"
            parsed = parse_record(
                Record(Coordinates(0, piece.seq), b"call", piece.media, fragment_headers(piece), 0), MediaLimits()
            )
            step()
            empty += _feed(demuxer, parsed, (0, START_MAX_MS)) == "empty"
            step()
            if count == _PIECES_MAX:
                break
        _check(demuxer.finish(), (0, START_MAX_MS))
    except (MediaError, BadFragmentError) as error:
        return _refusal(error)
    assert count, "neither a fragment nor an error"
    return "empty" if empty == count else "demuxed"


def _cut(case: Case, content_type: str) -> Iterator[MediaFragment]:
    chunks = (case.media[at : at + 5000] for at in range(0, len(case.media), 5000))
    return fragments(
        chunks if case.piped else io.BytesIO(case.media),
        call_id="call",
        tenant="default",
        stream="main",
        participants=(Participant.CUSTOMER,),
        consent=None,
        content_type=content_type,
        decoders=_DECODERS,
    )


def _feed(demuxer: Demuxer, fragment: MediaFragment, times: tuple[int, int]) -> str:
    try:
        demuxed = demuxer.feed(fragment)
    except (MediaError, BadFragmentError) as error:
        _check(demuxer.finish(), times)  # as the stream does before it goes on
        return _refusal(error)
    _check(demuxed, times)
    return "demuxed" if demuxed.blocks or demuxed.pictures or demuxed.damaged or fragment.final else "empty"


def _check(demuxed: Demuxed, times: tuple[int, int]) -> None:
    """Whatever came in, what comes out is sound and pictures; `times` are those at which its fragments may start."""
    earliest_ms, latest_ms = times[0], times[1] + 2 * _SETTINGS.limits.fragment_max_s * 1000
    times_ms = [] if demuxed.start_sample is None else [demuxed.start_sample // SAMPLES_PER_MS]
    assert demuxed.damaged >= 0
    for block in demuxed.blocks:
        assert block.samples.dtype == np.float32
        assert block.samples.ndim == 1
        assert np.isfinite(block.samples).all(), "sound that is no number"
        assert not block.samples.size or np.abs(block.samples).max() <= 1, "sound beyond full scale"
        times_ms += [at // SAMPLES_PER_MS for at in (block.start_sample, block.start_sample + len(block.samples))]
    frames, damaged = decoded(demuxed.pictures, _SETTINGS)
    assert damaged >= 0
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 3
        assert max(frame.pixels.shape) <= _SETTINGS.video.side_max_px
        # A still picture may be followed by one that is decoded beside this fragment's sound and shown long after.
        assert earliest_ms - _SLACK_MS <= frame.time_ms <= latest_ms + PICTURES_APART_MAX_S * 1000, (
            "a picture of no time"
        )
    for time_ms in times_ms:
        assert earliest_ms - _SLACK_MS <= time_ms <= latest_ms + _SLACK_MS, f"{time_ms} ms is no time of this stream"


def _refusal(error: MediaError | BadFragmentError) -> str:
    """The kind of a message: its numbers, names and advice left out."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|fragment \d+ of stream main|the stream", "…", str(error))
    text = re.sub(r"\d[\d.x]*", "N", re.split(r"[;:] ", text.replace("…: ", "… "))[0])
    return f"{error.reason}: {' '.join(text.replace('…', '').split())[:60]}"
