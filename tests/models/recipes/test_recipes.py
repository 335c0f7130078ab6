from pathlib import Path

import pytest

from models.errors import DataError
from models.families import imported
from models.recipes import FOLDS, RECIPES, make, make_folds


@pytest.mark.parametrize("place", [*RECIPES.values(), *FOLDS.values()])
def test_every_recipe_is_a_documented_function(place: str) -> None:
    assert imported(place).__doc__


def test_a_recipe_is_made_by_its_name(tmp_path: Path) -> None:
    assert make("debug", tmp_path).name == "debug"


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"debug"}))
def test_a_recipe_without_its_data_says_what_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        make(name, tmp_path)


def test_folds_without_their_data_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        make_folds("fusion_mosi", tmp_path)
