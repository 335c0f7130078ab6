"""Parts of a bundle that are no file of its folder: in a wheel, in another folder, on a hub."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoint
from models.bundles import INDEX, Bundle, load_bundle, load_encoder, seal
from models.encoders.text import SPECIAL, TextConfig, TextNetwork
from models.errors import BundleError, CheckpointError
from models.families import FAMILIES, Family
from models.types import Encoder, Features, Modality

TEXT = TextConfig(vocabulary=(*SPECIAL, "hello"), width=8, layers=1, heads=2, hidden=8, pieces_max=8)


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, str]:
    """A text checkpoint in a folder of its own, and its SHA-256."""
    torch.manual_seed(0)
    path = tmp_path / "elsewhere" / "weights" / "words.safetensors"
    return path, checkpoint.save(path, TextNetwork(TEXT).state_dict(), TEXT, name="text")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    made.mkdir()
    return made


def write(folder: Path, entry: dict[str, Any]) -> Bundle:
    index = {"format": 2, "name": "mine", "version": "1", "parts": {"text": entry}}
    (folder / INDEX).write_text(json.dumps(index))
    return load_bundle(folder)


def answers(bundle: Bundle) -> list[Features]:
    return load_encoder(bundle, Modality.TEXT).encode(["hello"])


@pytest.fixture
def wheel(tmp_path: Path, weights: tuple[Path, str]) -> Iterator[str]:
    """An installed distribution that holds the checkpoint as `words_weights/words.safetensors`."""
    site = tmp_path / "site"
    (site / "words_weights").mkdir(parents=True)
    (site / "words_weights" / "words.safetensors").write_bytes(weights[0].read_bytes())
    (site / "words_weights" / "stray.safetensors").write_bytes(weights[0].read_bytes())
    information = site / "words_weights-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: words-weights\nVersion: 1.2\n")
    (information / "RECORD").write_text("words_weights/words.safetensors,,\n../outside.safetensors,,\n")
    sys.path.insert(0, str(site))
    yield "words-weights"
    sys.path.remove(str(site))


def test_a_file_of_an_installed_wheel_serves(folder: Path, wheel: str, weights: tuple[Path, str]) -> None:
    entry = {"distribution": wheel, "path": "words_weights/words.safetensors", "sha256": weights[1]}

    bundle = write(folder, entry)

    assert len(answers(bundle)) == 1
    assert bundle.part("text").sha256 == weights[1]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"distribution": "no-such-wheel"}, "not installed: `uv pip install no-such-wheel`"),
        ({"path": "words_weights/stray.safetensors"}, "has no file"),
        ({"path": "../outside.safetensors"}, "below its source"),
        ({"path": "/etc/passwd"}, "below its source"),
        ({"sha256": "0" * 64}, "changed or cut off"),
    ],
)
def test_what_the_wheel_does_not_hold_is_refused(
    folder: Path, wheel: str, weights: tuple[Path, str], change: dict[str, str], complaint: str
) -> None:
    entry = {"distribution": wheel, "path": "words_weights/words.safetensors", "sha256": weights[1]}
    with pytest.raises(BundleError, match=complaint):
        write(folder, entry | change)


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_folder_of_this_machine_serves(folder: Path, weights: tuple[Path, str], is_absolute: bool) -> None:  # noqa: FBT001
    source = weights[0].parents[1]
    if not is_absolute:
        source.rename(folder / "inside")
    entry = {
        "folder": str(source) if is_absolute else "inside",
        "files": {"weights/words.safetensors": weights[1]},
    }
    assert len(answers(write(folder, entry))) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"files": {}}, "0 files"),
        ({"files": {f"{number}.safetensors": "0" * 64 for number in range(65)}}, "65 files"),
        ({"files": {"../words.safetensors": "0" * 64}}, "below its source"),
        ({"files": {"weights/gone.safetensors": "0" * 64}}, "cannot read"),
        ({"files": {"weights": "0" * 64}}, "no regular file"),
        ({"files": {"weights/words.safetensors": "short"}}, "64 hex digits"),
        ({"files": {"link.safetensors": "0" * 64}}, "is a link"),
        ({"folder": "../elsewhere"}, "leads out"),
    ],
)
def test_a_folder_with_other_files_is_refused(
    folder: Path, weights: tuple[Path, str], change: dict[str, Any], complaint: str
) -> None:
    source = weights[0].parents[1]
    (source / "link.safetensors").symlink_to(weights[0])
    entry = {"folder": str(source), "files": {"weights/words.safetensors": weights[1]}}
    with pytest.raises(BundleError, match=complaint):
        write(folder, entry | change)


def test_a_part_without_a_single_checkpoint_needs_a_family(folder: Path, weights: tuple[Path, str]) -> None:
    source = weights[0].parent
    (source / "more.safetensors").write_bytes(weights[0].read_bytes())
    files = {"words.safetensors": weights[1], "more.safetensors": weights[1]}
    with pytest.raises(BundleError, match="name one, or a `family`"):
        write(folder, {"folder": str(source), "files": files})


class Pretrained:
    """An encoder whose weights another project wrote."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, batch: Sequence[Any]) -> list[Features]:
        raise NotImplementedError

    def probe(self) -> str:
        return ""


def read_pretrained(files: dict[str, Path], name: str, device: str) -> Encoder:
    assert files["config.json"].read_text() == "{}"
    assert device == "cpu"
    return Pretrained(name)


def test_a_family_may_read_what_another_project_wrote(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = Family("", "", "", "Pretrained", Modality.TEXT, reads=f"{__name__}:read_pretrained")
    monkeypatch.setitem(FAMILIES, "foreign", foreign)
    (tmp_path / "config.json").write_text("{}")
    sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    entry = {"family": "foreign", "folder": str(tmp_path), "files": {"config.json": sha256}}

    bundle = write(folder, entry)

    assert load_encoder(bundle, Modality.TEXT).name == f"foreign@{bundle.part('text').sha256[:8]}"
    with pytest.raises(CheckpointError, match="no family of networks is called 'alien'"):
        write(folder, entry | {"family": "alien"})


def test_sealing_anew_keeps_the_parts_that_lie_elsewhere(folder: Path, weights: tuple[Path, str]) -> None:
    entry = {"folder": str(weights[0].parent), "files": {"words.safetensors": weights[1]}}
    write(folder, entry)

    bundle = seal(folder, "mine", "2")

    assert (bundle.label, len(answers(bundle))) == ("mine@2", 1)
    assert json.loads((folder / INDEX).read_text())["format"] == 2


def test_a_network_cannot_serve_as_another_part(folder: Path, weights: tuple[Path, str]) -> None:
    (folder / "audio.safetensors").write_bytes(weights[0].read_bytes())
    with pytest.raises(CheckpointError, match="'text' cannot serve as audio"):
        load_encoder(seal(folder, "mine", "1"), Modality.AUDIO)
