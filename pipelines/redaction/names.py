"""Names of people, found by Presidio with a model of spaCy: the optional extra `undertone[names]`."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from pipelines.errors import UndertoneError

LANGUAGE = "en"
SCORE_MIN = 0.5

PersonFinder = Callable[[str], list[tuple[int, int]]]
"""The places `[start, end)` of people's names in a text."""


@cache
def person_finder(model: str) -> PersonFinder:
    """Load the recogniser with a spaCy model, an installed package or a folder. Nothing is downloaded.

    Raises:
        UndertoneError: Presidio or the model is not installed.
    """
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise UndertoneError("names are to be redacted and Presidio is not installed: pip install 'undertone[names]'")
    if not Path(model).is_dir() and importlib.util.find_spec(model) is None:
        raise UndertoneError(
            f"names are to be redacted and there is no spaCy model {model!r}: install it, or name a folder"
        )
    engine, one_at_a_time = _engine(model), Lock()

    def find(text: str) -> list[tuple[int, int]]:
        with one_at_a_time:
            found = engine.analyze(text, language=LANGUAGE, entities=["PERSON"], score_threshold=SCORE_MIN)
        return sorted((one.start, one.end) for one in found)

    return find


def _engine(model: str) -> Any:
    from presidio_analyzer import AnalyzerEngine  # noqa: PLC0415  # an optional extra, which takes seconds to import
    from presidio_analyzer.nlp_engine import NlpEngineProvider  # noqa: PLC0415

    models = [{"lang_code": LANGUAGE, "model_name": model}]
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    return AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[LANGUAGE])
