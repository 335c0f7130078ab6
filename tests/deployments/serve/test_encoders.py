import asyncio
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.serve.encoders import PADDING_SHARE_MAX, Network, NetworkReplica, Role, like_lengths, load, run_batch
from models.types import FusedPrediction
from pipelines.settings import AppConfig


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


@pytest.fixture
def _in_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve gives a replica its context, which `serve.batch` reads; here there is no Serve."""
    context = SimpleNamespace(
        _deployment_config=SimpleNamespace(max_ongoing_requests=64),
        app_name="undertone",
        deployment="Fusion",
        replica_tag="one",
        replica_id=SimpleNamespace(unique_id="one"),
    )
    monkeypatch.setattr("ray.serve.context._INTERNAL_REPLICA_CONTEXT", context)


@pytest.mark.asyncio(
    loop_scope="module"
)  # Serve has one queue of a method's batches in a process, which keeps its loop
@pytest.mark.usefixtures("_in_a_replica")
async def test_what_may_be_left_out_is_done_by_a_replica_only_while_it_has_nothing_else_to_do() -> None:
    replica, probe = NetworkReplica("fusion", AppConfig()), load("fusion", AppConfig()).probe

    needed = asyncio.create_task(replica.infer(probe))
    await asyncio.sleep(0)  # it is asked, and waits for its batch
    refused = await replica.infer_if_idle(probe)
    assert isinstance(await needed, FusedPrediction)
    done = await replica.infer_if_idle(probe)

    assert refused is None
    assert isinstance(done, FusedPrediction)


@pytest.mark.parametrize("role", get_args(Role))
def test_a_network_is_warmed_with_inputs_of_the_size_of_an_utterance(role: Role) -> None:
    network = load(role, AppConfig(transcriber="tiny.en"))

    assert all(len(network.run([item])) == 1 for item in network.warm_up)
    assert network.warm_up
    if network.length is not None:
        assert network.length(network.warm_up[0]) > 3 * network.length(network.probe)


@pytest.mark.asyncio(
    loop_scope="module"
)  # Serve has one queue of a method's batches in a process, which keeps its loop
@pytest.mark.usefixtures("_in_a_replica")
async def test_a_replica_is_warm_before_it_serves_and_does_behind_what_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def run(items: list[str]) -> list[str]:
        ran.extend(items)
        return items

    def loaded(_role: Role, _config: AppConfig) -> Network:
        return Network("n", run, "probe", batch_max=1, warm_up=["warm"])

    monkeypatch.setattr("deployments.serve.encoders.load", loaded)
    replica = NetworkReplica("transcriber", AppConfig())
    assert ran == ["warm"]

    uploads = [asyncio.create_task(replica.infer_behind(f"upload {number}")) for number in range(8)]
    await asyncio.sleep(0)
    await replica.infer("live")
    at = ran.index("live")
    await asyncio.gather(*uploads)

    assert at <= 2  # behind the warming and one that was under way
    assert len(ran) == 10
