"""Recipes: functions that return everything needed to train one published result.

To add one: write `def my_recipe(data: Path) -> Recipe` (the data folder is laid out as docs/data.md says; sets it
lacks are a `DataError`), and add it to `RECIPES` in this file. The loop in `models/train.py` calls, in
order: `build()`; then per epoch `batches(rng)` and, on each batch, `loss(model, batch)`; then `validate(model)`. Keep
all randomness in the given generator or in torch's global one: both are seeded per epoch, which makes a resumed run
equal to an undisturbed one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from models.recipes.audio import audio_ravdess, audio_ravdess_folds
from models.recipes.debug import debug
from models.recipes.fusion import fusion_label_pairs
from models.recipes.recipe import Recipe
from models.recipes.tables import fusion_mosi, fusion_mosi_folds, fusion_ravdess_av, fusion_ravdess_av_folds
from models.recipes.text import text_multitask
from models.recipes.video import video_fer2013

RECIPES: dict[str, Callable[[Path], Recipe]] = {
    "audio_ravdess": audio_ravdess,
    "debug": debug,
    "fusion_label_pairs": fusion_label_pairs,
    "fusion_mosi": fusion_mosi,
    "fusion_ravdess_av": fusion_ravdess_av,
    "text_multitask": text_multitask,
    "video_fer2013": video_fer2013,
}
"""What `undertone train RECIPE` knows."""

FOLDS: dict[str, Callable[[Path], Sequence[Callable[[], Recipe]]]] = {
    "audio_ravdess": audio_ravdess_folds,
    "fusion_mosi": fusion_mosi_folds,
    "fusion_ravdess_av": fusion_ravdess_av_folds,
}
"""What `undertone train RECIPE --folds` knows: a function of the data folder that gives one recipe maker per fold."""
