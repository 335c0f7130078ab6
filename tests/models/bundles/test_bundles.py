import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import checkpoint
from models.bundles import INDEX, load_bundle, load_encoder, load_fusion, seal
from models.encoders.text import SPECIAL, TextConfig, TextNetwork
from models.errors import BundleError, CheckpointError
from models.fusion.attention import FusionConfig, FusionNetwork
from models.types import Modality

TEXT = TextConfig(vocabulary=(*SPECIAL, "hello"), width=8, layers=1, heads=2, hidden=8, pieces_max=8)
FUSION = FusionConfig(embeddings=(4, 5, 8), width=8, heads=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "text.safetensors", TextNetwork(TEXT).state_dict(), TEXT, name="text")
    checkpoint.save(tmp_path / "fusion.safetensors", FusionNetwork(FUSION).state_dict(), FUSION, name="fusion")
    seal(tmp_path, "mine", "7")
    return tmp_path


def test_a_sealed_bundle_loads_what_it_holds(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.label == "mine@7"
    assert set(bundle.parts) == {"text", "fusion"}
    features = load_encoder(bundle, Modality.TEXT).encode(["hello"])
    (fused,) = load_fusion(bundle).fuse([{Modality.TEXT: features[0]}])
    assert np.isfinite(fused.prediction.score)


def test_a_modality_that_the_bundle_lacks_is_named(folder: Path) -> None:
    with pytest.raises(BundleError, match="has no video: it holds fusion, text"):
        load_encoder(load_bundle(folder), Modality.VIDEO)


def test_a_changed_checkpoint_is_refused(folder: Path) -> None:
    path = folder / "text.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="changed or cut off"):
        load_bundle(folder)


def test_a_checkpoint_that_changes_after_the_check_is_refused(folder: Path) -> None:
    bundle = load_bundle(folder)
    content = bytearray((folder / "text.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "text.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_encoder(bundle, Modality.TEXT)


def _change(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda index: index["parts"]["text"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_change("file", "../text.safetensors"), "own folder"),
        (_change("file", "/etc/passwd"), "own folder"),
        (_change("file", "gone.safetensors"), "cannot read"),
        (_change("sha256", "abc"), "64 hex digits"),
        (lambda index: index["parts"].__setitem__("speech", index["parts"]["text"]), "unknown part"),
        (lambda index: index.__setitem__("format", 3), "format 3"),
        (lambda index: index.pop("version"), "version"),
        (lambda index: index.__setitem__("parts", {}), "no checkpoint"),
        (lambda index: index.__setitem__("parts", 3), "garbles"),
        (lambda index: index["parts"].__setitem__("text", "text.safetensors"), "garbles"),
    ],
)
def test_a_garbled_index_is_refused(folder: Path, change: Callable[[dict[str, Any]], object], complaint: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(BundleError, match=complaint):
        load_bundle(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 60_000, "x" * 70_000])
def test_an_index_that_is_no_index_is_refused(folder: Path, content: str) -> None:
    (folder / INDEX).write_text(content)
    with pytest.raises(BundleError):
        load_bundle(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "text.safetensors"
    (folder / "text.safetensors").rename(elsewhere)
    (folder / "text.safetensors").symlink_to(elsewhere)
    with pytest.raises(BundleError, match="own folder"):
        load_bundle(folder)


def test_a_folder_without_index_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="name `embedded` or a folder"):
        load_bundle(tmp_path / "nowhere")


def test_importing_bundles_imports_no_torch() -> None:
    code = "import sys, models.bundles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
