import subprocess
import sys

import pytest

from models.bundles import EMBEDDED
from models.errors import CheckpointError
from models.families import FAMILIES, Family, family_in, family_of, imported, load, load_as
from models.fusion.attention import AttentionFusion
from models.types import Modality


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_everything_that_the_table_names_is_there(family: Family) -> None:
    for name in filter(None, (family.config, family.network, family.encoder)):
        assert family.named(name).__name__ == name
    for place in filter(None, (family.prepare, family.prepare_timed, family.reads)):
        assert callable(imported(place))
    assert bool(family.prepare) is (family.modality is not None)


@pytest.mark.parametrize("name", ["audio", "text"])
def test_what_a_call_without_pictures_needs_is_prepared_without_torch(name: str) -> None:
    code = f"""
import sys
from models.families import FAMILIES, imported
imported(FAMILIES[{name!r}].prepare), imported(FAMILIES[{name!r}].prepare_timed)
sys.exit('torch' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_family_serves_as_its_own_part_only() -> None:
    assert family_in(EMBEDDED / "text.safetensors", "text").modality is Modality.TEXT
    for name, part in (("text", "audio"), ("text", "fusion"), ("fusion", "text"), ("fusion_mosi", "fusion")):
        with pytest.raises(CheckpointError, match=f"cannot serve as {part}"):
            family_of(name, part)
    with pytest.raises(CheckpointError, match="no family of networks is called 'smell'"):
        family_of("smell")


def test_weights_written_under_older_names_load() -> None:
    fusion = load_as(AttentionFusion, EMBEDDED / "fusion.safetensors")
    assert float(fusion.network.weight.weight.detach().abs().sum()) > 0
    assert float(fusion.network.bias.detach().abs().sum()) > 0
    assert {key for key, _ in load(EMBEDDED / "fusion_mosi.safetensors").named_parameters()} >= {"fusion.bias"}
