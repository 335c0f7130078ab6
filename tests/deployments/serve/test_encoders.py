from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deployments.serve.encoders import PADDING_SHARE_MAX, Network, like_lengths, run_batch


@given(st.lists(st.integers(1, 2000), max_size=64))
def test_batches_of_like_lengths_hold_everything_once_and_little_padding(lengths: list[int]) -> None:
    groups = like_lengths(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        area = max(lengths[index] for index in group) * len(group)
        assert area - sum(lengths[index] for index in group) <= PADDING_SHARE_MAX * area


def test_an_input_that_is_refused_costs_its_neighbours_nothing() -> None:
    class NetworkInputError(ValueError):
        pass

    def double(items: list[int]) -> list[int]:
        if 13 in items:
            raise NetworkInputError("13 is refused")
        return [2 * item for item in items]

    outputs: list[Any] = run_batch(Network("double", double, 1), [1, 13, 2])
    assert outputs[0] == 2
    assert outputs[2] == 4
    assert type(outputs[1]) is ValueError  # the caller need not import the network to read it
    assert str(outputs[1]) == "13 is refused"


def test_outputs_keep_the_order_of_their_inputs() -> None:
    echo = Network("echo", list, "", len)
    words = ["a" * size for size in (9, 1, 50, 2, 48, 1)]
    assert run_batch(echo, words) == words
