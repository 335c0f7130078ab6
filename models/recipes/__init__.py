"""Recipes: functions that return everything needed to train one published result.

To add one: write `def my_recipe(data: Path) -> Recipe` in a file of this folder (the data folder is laid out as
docs/data.md says; sets it lacks are a `DataError`), and add its place to `RECIPES`. The loop in `models/train.py` calls, in
order: `build()`; then per epoch `batches(rng)` and, on each batch, `loss(model, batch)`; then `validate(model)`. Keep
all randomness in the given generator or in torch's global one: both are seeded per epoch, which makes a resumed run
equal to an undisturbed one.
"""

from collections.abc import Callable, Sequence
from inspect import getdoc
from pathlib import Path

from models.families import imported
from models.recipes.recipe import Recipe

RECIPES = {
    "audio_ravdess": "models.recipes.audio:audio_ravdess",
    "debug": "models.recipes.debug:debug",
    "fusion_label_pairs": "models.recipes.fusion:fusion_label_pairs",
    "fusion_mosi": "models.recipes.tables:fusion_mosi",
    "fusion_ravdess_av": "models.recipes.tables:fusion_ravdess_av",
    "text_multitask": "models.recipes.text:text_multitask",
    "video_fer2013": "models.recipes.video:video_fer2013",
}
"""What `undertone train RECIPE` knows: functions of the data folder that give a `Recipe`, by `module:name`."""

FOLDS = {
    "audio_ravdess": "models.recipes.audio:audio_ravdess_folds",
    "fusion_mosi": "models.recipes.tables:fusion_mosi_folds",
    "fusion_ravdess_av": "models.recipes.tables:fusion_ravdess_av_folds",
}
"""What `undertone train RECIPE --folds` knows: functions of the data folder that give one recipe maker per fold."""

WITHOUT_DATA = frozenset({"debug"})
"""Those of them that make their data themselves."""


def described(name: str) -> str:
    """What the recipe of that name in `RECIPES` trains: the first line of what it says of itself."""
    return (getdoc(imported(RECIPES[name])) or "").split("\n")[0]


def make(name: str, data: Path) -> Recipe:
    """The recipe of that name in `RECIPES`.

    Raises:
        KeyError: There is none.
        DataError: The data folder lacks what it needs.
    """
    made: Recipe = imported(RECIPES[name])(data)
    return made


def make_folds(name: str, data: Path) -> Sequence[Callable[[], Recipe]]:
    """What makes the recipe of each fold of that name in `FOLDS`.

    Raises:
        KeyError: There is none.
        DataError: The data folder lacks what it needs.
    """
    made: Sequence[Callable[[], Recipe]] = imported(FOLDS[name])(data)
    return made
