from collections.abc import Sequence

import pytest

from pipelines.review.compare import Comparison, Tally
from pipelines.types import UtteranceSentiment
from tests.deployments.results import result

Calls = Sequence[tuple[Sequence[UtteranceSentiment], Sequence[UtteranceSentiment]]]


def compare(runs: tuple[str, str], calls: Calls) -> Comparison:
    tally = Tally(runs)
    for first, second in calls:
        tally.add(first, second)
    return tally.comparison()


def test_runs_that_say_the_same_agree() -> None:
    call = [result(0, "a", -2.0), result(2000, "b", 1.0)]
    found = compare(("live", "mine"), [(call, call)])
    assert (found.calls, found.utterances, found.judged, found.only_in) == (1, 2, 2, (0, 0))
    assert (found.polarity_agreement, found.polarity_kappa, found.score_difference_mean_absolute) == (1, 1, 0)
    assert found.changed == []


def test_what_moved_and_what_changed_its_polarity_is_named() -> None:
    before = [result(0, "a", -2.0), result(2000, "b", 1.0), result(4000, "c", 1.5), result(6000, "gone", 0.9)]
    after = [result(0, "a", -1.6), result(2000, "b", -1.0), result(4000, "c", 1.0), result(8000, "new", 0.9)]
    found = compare(("live", "mine"), [(before, after)])
    assert (found.utterances, found.only_in) == (3, (1, 1))
    assert found.polarity_agreement == pytest.approx(2 / 3, abs=1e-4)
    # Observed 2/3; by chance (1/3)(2/3) + (2/3)(1/3) = 4/9: kappa = (2/3 - 4/9) / (5/9) = 0.4.
    assert found.polarity_kappa == pytest.approx(0.4)
    assert found.score_difference_mean == pytest.approx((0.4 - 2 - 0.5) / 3, abs=1e-4)
    assert found.score_difference_mean_absolute == pytest.approx((0.4 + 2 + 0.5) / 3, abs=1e-4)
    assert found.scores_moved == 1
    (changed,) = found.changed
    assert (changed.text, changed.polarities, changed.scores) == ("b", ("positive", "negative"), (1.0, -1.0))


def test_an_utterance_that_one_run_could_not_judge_is_a_change_and_no_agreement() -> None:
    first = [result(0, "a", -2.0), result(2000, "b", 1.0), result(4000, "c", None)]
    found = compare(("live", "mine"), [(first, [result(0, "a", None), *first[1:]])])
    assert (found.utterances, found.judged, found.judged_only_in) == (3, 1, (1, 0))
    assert (found.polarity_agreement, found.emotion_agreement) == (0.5, 0.5)
    assert (found.score_difference_mean, found.changed_polarity) == (0, 1)
    assert [one.polarities for one in found.changed] == [("negative", None)]


def test_agreement_is_whole_only_where_all_agree() -> None:
    alike = [result(number, "a", 1.0) for number in range(0, 60_000, 2)]
    found = compare(("live", "mine"), [(alike, [result(0, "a", -1.0), *alike[1:]])])
    assert found.polarity_agreement == 0.9999


def test_what_lacks_by_a_fault_is_counted_in_either_run() -> None:
    found = compare(("live", "mine"), [([result(0, "a", -2.0), result(2000, "b", -2.0)], [result(0, "a", -2.0)])])
    assert found.faults == ({"audio": {"timeout": 2}}, {"audio": {"timeout": 1}})


def test_nothing_to_compare_gives_no_figures() -> None:
    found = compare(("live", "mine"), [])
    assert (found.calls, found.polarity_agreement, found.polarity_kappa) == (0, None, None)
