import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoint import config_from, load, restore, save
from models.errors import CheckpointError


@dataclass(frozen=True)
class Shape:
    inputs: int = 3
    outputs: int = 4
    names: tuple[str, ...] = ("a", "b")

    def __post_init__(self) -> None:
        if not 0 < self.inputs < 1000:
            raise ValueError("inputs out of range")


def network(shape: Shape) -> nn.Linear:
    return nn.Linear(shape.inputs, shape.outputs)


def write(path: Path, **changed: Any) -> str:
    arguments: dict[str, Any] = {"weights": network(Shape()).state_dict(), "config": Shape(), "name": "voice"} | changed
    return save(path, **arguments)


def test_what_is_saved_comes_back_as_float32_with_its_description(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    weights = {"weight": torch.tensor([[1.0, -0.5, 2.0]] * 4), "bias": torch.full((4,), 1e-7), "count": torch.tensor(3)}
    sha256 = save(path, weights, Shape(names=("x",)), name="voice", about={"seed": 1})

    loaded, metadata = load(path, sha256)

    assert loaded["weight"].dtype == loaded["bias"].dtype == torch.float32
    torch.testing.assert_close(loaded, weights)
    assert (metadata.name, metadata.about, metadata.sha256) == ("voice", {"seed": 1}, sha256)
    assert metadata.version == f"voice@{sha256[:8]}"
    assert config_from(Shape, metadata) == Shape(names=("x",))
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_matrices_take_two_bytes_or_one_and_vectors_four(tmp_path: Path) -> None:
    weights = {"half": torch.randn(64, 64), "quarter": torch.randn(64, 64), "vector": torch.randn(64)}
    save(tmp_path / "a.safetensors", weights, Shape(), name="voice", int8_keys=frozenset({"quarter"}))

    size_bytes = (tmp_path / "a.safetensors").stat().st_size

    assert 0 <= size_bytes - (64 * 64 * 3 + 64 * 4 * 2) < 1000


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_an_eight_bit_row_is_off_by_at_most_half_a_step(tmp_path_factory: Any, seed: int, size: float) -> None:
    matrix = size * torch.from_numpy(np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32))
    path = tmp_path_factory.mktemp("int8") / "a.safetensors"
    save(path, {"m": matrix}, Shape(), name="voice", int8_keys=frozenset({"m"}))

    loaded, _ = load(path)

    step = matrix.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((loaded["m"] - matrix).abs() <= step * 0.501).all())


def test_a_row_of_zeros_survives_eight_bits(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"m": torch.zeros(2, 3)}, Shape(), name="voice", int8_keys=frozenset({"m"}))

    assert load(tmp_path / "a.safetensors")[0]["m"].eq(0).all()


def test_another_hash_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors")

    with pytest.raises(CheckpointError, match="Fetch it again"):
        load(tmp_path / "a.safetensors", "0" * 64)


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(CheckpointError, match=r"not an Undertone checkpoint|damaged"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x04K\x01.", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}", b"PK\x03\x04" + b"\0" * 99],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="not an Undertone checkpoint"):
        load(path)


def test_a_missing_file_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="train it first"):
        load(Path("/nowhere/a.safetensors"))


@pytest.mark.parametrize("text", ["[]", "{}", json.dumps({"format": 1, "name": "x", "config": 3, "about": {}})])
def test_safetensors_of_another_maker_are_refused(tmp_path: Path, text: str) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"undertone": text})

    with pytest.raises(CheckpointError, match="not an Undertone checkpoint"):
        load(tmp_path / "a.safetensors")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"format": 2, "name": "x", "config": {}, "about": {}})
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"undertone": text})

    with pytest.raises(CheckpointError, match="upgrade"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_diverged_network_is_not_saved(tmp_path: Path, value: float) -> None:
    with pytest.raises(CheckpointError, match="diverged"):
        write(tmp_path / "a.safetensors", weights={"weight": torch.full((2, 2), value)})
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    "change",
    [{"weight": torch.zeros(4, 2)}, {"extra": torch.zeros(1)}, {"bias": torch.zeros(1_000)}],
    ids=["shape", "unknown", "size"],
)
def test_weights_that_do_not_fit_are_refused_by_name(change: dict[str, Tensor]) -> None:
    weights = network(Shape()).state_dict() | change

    with pytest.raises(CheckpointError, match=next(iter(change))):
        restore(lambda: network(Shape()), weights)


def test_a_missing_tensor_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"bias.*absent"):
        restore(lambda: network(Shape()), {"weight": torch.zeros(4, 3)})


def test_an_absurd_architecture_is_refused_without_taking_its_memory() -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        restore(lambda: nn.Linear(10**6, 10**6), network(Shape()).state_dict())


@pytest.mark.parametrize("config", [{"inputs": 0}, {"width": 3}, {"inputs": "many"}])
def test_a_description_of_another_network_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    text = json.dumps({"format": 1, "name": "voice", "config": config, "about": {}})
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"undertone": text})
    _, metadata = load(tmp_path / "a.safetensors")

    with pytest.raises(CheckpointError, match="does not describe a Shape"):
        config_from(Shape, metadata)


def test_a_restored_network_answers_as_the_saved_one(tmp_path: Path) -> None:
    module = network(Shape())
    path = tmp_path / "a.safetensors"
    write(path, weights=module.state_dict())
    weights, metadata = load(path)
    config = config_from(Shape, metadata)

    restored = restore(lambda: network(config), weights)

    assert not restored.training
    torch.testing.assert_close(restored(torch.ones(1, 3)), module(torch.ones(1, 3)), atol=1e-2, rtol=0)
