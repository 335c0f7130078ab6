import os
from pathlib import Path

import pytest

from tests.chaos.chaos import differences, failed, run
from tests.deployments.results import result

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

CALLS_MIN = 12


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_twelve_faults_lose_nothing_double_nothing_and_change_nothing(kafka: str, tmp_path: Path) -> None:
    assert kafka  # a broker of its own is started where this one could be had
    data = Path(os.environ["UNDERTONE_DATA"]) if os.environ.get("UNDERTONE_DATA") else None
    found = run(7, 12, media_s=6, data=data, folder=tmp_path, calls=CALLS_MIN, pause_s=(0.2, 1.2))
    assert sum(found["faults"].values()) == 12
    assert found["calls"] == CALLS_MIN
    assert found["utterances"] > CALLS_MIN
    assert not failed(found), found


def test_what_is_lost_doubled_or_changed_is_seen() -> None:
    calm = [result(0, "a", -1.0), result(2000, "b", 1.0)]
    assert differences([calm], [calm]) == {"lost": 0, "doubled": 0, "changed": 0}
    assert differences([calm], [calm[:1]]) == {"lost": 1, "doubled": 0, "changed": 0}
    assert differences([calm], [[*calm, calm[1]]]) == {"lost": 0, "doubled": 1, "changed": 0}
    assert differences([calm], [[*calm, result(900, "c", 1.0)]]) == {"lost": 0, "doubled": 1, "changed": 0}
    assert differences([calm], [[result(0, "a", -1.1), calm[1]]]) == {"lost": 0, "doubled": 0, "changed": 1}
