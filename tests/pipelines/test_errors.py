"""Every error the stream names is one kind of its own, with a reason that counters and clients may rely on."""

import inspect

import pytest

from pipelines import errors
from pipelines.errors import DEAD_LETTER_REASONS, BadFragmentError, MediaError, StoreUnavailableError, UndertoneError

NAMED = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, UndertoneError)]


@pytest.mark.parametrize("error", [one for one in NAMED if one is not UndertoneError])
def test_each_is_also_the_built_in_error_that_it_is_a_kind_of(error: type[UndertoneError]) -> None:
    assert issubclass(error, ValueError | LookupError | ConnectionError | RuntimeError)


def test_reasons_are_words_and_no_two_errors_share_one() -> None:
    reasons = [vars(one)["reason"] for one in NAMED if "reason" in vars(one)]
    assert all(reason.isidentifier() and reason.islower() for reason in reasons)
    assert len(set(reasons)) == len(reasons)


def test_what_a_record_may_be_refused_for_is_a_reason_of_dead_letters() -> None:
    assert MediaError.reason in DEAD_LETTER_REASONS
    assert BadFragmentError("oversize", "too long").reason in DEAD_LETTER_REASONS


def test_a_store_that_is_unavailable_says_why() -> None:
    assert StoreUnavailableError("no answer").cause == "away"
    assert StoreUnavailableError("full", "out_of_memory").cause == "out_of_memory"
