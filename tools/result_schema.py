"""Prints the JSON Schema of a result, which stands in docs/result.schema.json (`make schema` writes it anew)."""
# ruff: noqa: INP001 # a script, not a package

import json

from pipelines.types import UtteranceSentiment


def schema() -> str:
    """JSON Schema 2020-12 of what `UtteranceSentiment` is written as."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A result of Undertone: one utterance, docs/wire_format.md",
    }
    return json.dumps({**UtteranceSentiment.model_json_schema(mode="serialization"), **head}, indent=2) + "\n"


if __name__ == "__main__":
    print(schema(), end="")  # noqa: T201
