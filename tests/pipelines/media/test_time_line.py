"""However it is cut, whatever is lost below the silence that ends speech, wherever it was joined: the same utterances."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pipelines.media.utterances import utterances_of
from pipelines.settings import StreamSettings
from tests.conftest import missing
from tests.pipelines import media_files as media
from tests.pipelines.media.media_cases import CUSTOMER, FOLDER, TOLERANCE_S, Spans, clean_sounds
from tests.pipelines.media.media_makers import Sound, dropped, write

few = settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # making smaller what fails takes a minute
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LIVE = {"live": "1"}
KINDS: dict[str, Callable[..., bytes]] = {
    "opus": lambda samples, **more: write("webm", Sound(samples, **more), options=LIVE),
    "pcm": lambda samples, **more: write("matroska", Sound(samples, "pcm_s16le", 16_000, **more), options=LIVE),
}
PAUSES = ((0.1, 1.0), (4.5, 4.9), (8.2, 8.9))
"""Where nobody speaks, in seconds."""


@pytest.fixture
def clean(data_dir: Path) -> Any:
    """(N,) of the clean customer, at 16 kHz."""
    if not (data_dir / FOLDER).is_dir():
        missing(f"no {data_dir / FOLDER}; its inputs are part of the data folder")
    return clean_sounds(data_dir / FOLDER).customer


def check(cuts: Any, right: Spans = CUSTOMER) -> None:
    found = [(one.start_ms / 1000, one.end_ms / 1000) for one in utterances_of(cuts, StreamSettings())]
    assert len(found) == len(right), found
    assert np.abs(np.array(found) - np.array(right)).max() <= TOLERANCE_S, found


def spans(*, longest_s: float) -> st.SearchStrategy[list[tuple[float, float]]]:
    """At most one burst in each stretch of speech, away from its edges, and one in each pause."""
    within = [(start + 0.3, end - 0.3) for start, end in CUSTOMER]
    return st.tuples(*(_burst(start, end, longest_s) for start, end in (*within, *PAUSES))).map(
        lambda found: [one for one in found if one[1] > one[0]]
    )


def _burst(start_s: float, end_s: float, longest_s: float) -> st.SearchStrategy[tuple[float, float]]:
    longest = min(longest_s, end_s - start_s)
    return st.tuples(st.floats(start_s, end_s - longest), st.floats(0, longest)).map(
        lambda one: (one[0], one[0] + one[1])
    )


@pytest.mark.parametrize("kind", KINDS)
@few
@given(fragment_ms=st.integers(100, 3000))
def test_any_cutting_gives_the_same_utterances(clean: Any, kind: str, fragment_ms: int) -> None:
    check(media.cut(iter([KINDS[kind](clean)]), fragment_ms=fragment_ms))


@pytest.mark.parametrize("kind", KINDS)
@few
@given(bursts=spans(longest_s=0.4), fragment_ms=st.integers(300, 3000))
def test_any_burst_lost_below_the_silence_that_ends_speech_gives_the_same_utterances(
    clean: Any, kind: str, bursts: list[tuple[float, float]], fragment_ms: int
) -> None:
    check(media.cut(iter([KINDS[kind](clean, edit=dropped(*bursts))]), fragment_ms=fragment_ms))


@pytest.mark.parametrize("kind", KINDS)
@few
@given(bursts=spans(longest_s=0.57))
def test_a_burst_just_below_that_silence_gives_the_same_utterances(
    clean: Any, kind: str, bursts: list[tuple[float, float]]
) -> None:
    check(media.cut(iter([KINDS[kind](clean, edit=dropped(*bursts))])))


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=st.integers(0, 1 << 20), share=st.floats(0.01, 0.05))
def test_any_single_packets_lost_give_the_same_utterances(clean: Any, kind: str, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)

    def alone(packets: list[Any]) -> list[Any]:
        lost = set(np.flatnonzero(rng.random(len(packets)) < share).tolist())
        return [packet for n, packet in enumerate(packets) if n not in lost or n - 1 in lost]

    check(media.cut(iter([KINDS[kind](clean, edit=alone)])))


@pytest.mark.parametrize("kind", KINDS)
@few
@given(at=st.tuples(*(st.floats(*pause) for pause in PAUSES)), used=st.sets(st.integers(0, 2), min_size=1))
def test_any_joining_gives_the_same_utterances(
    clean: Any, kind: str, at: tuple[float, float, float], used: set[int]
) -> None:
    pieces = np.split(clean, [round(at[n] * 16_000) for n in sorted(used)])
    check(media.cut(iter([b"".join(KINDS[kind](piece) for piece in pieces)])))
