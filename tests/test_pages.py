"""What the pages say is what the code does: commands, variables, exit codes and the form of a result."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with Ray, without types
import pytest
from typer.main import get_command

from deployments.cli.console import COMMAND_NAMES, EXIT_CODES
from deployments.cli.main import app
from deployments.http.bodies import Accepted, LiveMetadata
from deployments.http.media import _CLOSE_BY_STATUS, _POLICY_VIOLATION
from pipelines.log.records import parse_record
from pipelines.settings import MediaLimits, Settings
from pipelines.types import Coordinates, Participant, Record, UtteranceSentiment
from tests.deployments.results import result
from tests.test_docs import ROOT, tracked
from tools.result_schema import schema

README_MAX_LINES = 120
COMMAND: Any = get_command(app)
ROW = re.compile(r"^\| `(UNDERTONE_[A-Z_]+)` \| (?:`([^`]*)`)? ?\|", re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def typed() -> Iterator[tuple[Path, str]]:
    """Every line that begins with the command line, of every block of code on every page, and of the launcher's hints."""
    for path in tracked("*.md"):
        for block in re.findall(r"^```.*?^```", path.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                yield path, line.strip()


def options(words: list[str]) -> tuple[Any, list[str]]:
    """The command that is meant, and its options."""
    command = COMMAND
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, [word.partition("=")[0] for word in words if word.startswith("--")]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_MAX_LINES


def test_no_page_shows_a_command_that_needs_anything_on_the_path() -> None:
    wrong = [
        f"{path.name}: {line}" for path, line in typed() if re.match(r"(uv run|undertone|\w+=\S+ undertone)\b", line)
    ]
    assert wrong == []


def test_every_command_on_a_page_is_one_with_those_options() -> None:
    found = [(path, line) for path, line in typed() if re.match(r"(\S+=\S+ )?\./undertone ", line)]
    assert len(found) > 30
    for path, line in found:
        words = shlex.split(line.split("./undertone ", 1)[1], comments=True)
        words = list(takewhile(lambda word: word not in {"|", ">", "&"}, words))
        command, asked = options(words)
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert not getattr(command, "commands", None), f"{path.name}: {line}"
        assert set(asked) <= {*known, "--help"}, f"{path.name}: {line}"


def test_every_example_of_a_command_is_one_with_those_options() -> None:
    def all_of(command: Any) -> Iterator[Any]:
        yield command
        for below in getattr(command, "commands", {}).values():
            yield from all_of(below)

    examples = [
        example
        for command in all_of(COMMAND)
        for example in re.findall(r"undertone ([^·]*)", (command.epilog or "").partition("\n")[0])
    ]
    assert len(examples) > 30
    for example in examples:
        command, asked = options(re.split(r"\s+", example.split(" > ")[0].strip()))
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {one.rstrip(",:") for one in asked} <= known, example


def test_hints_know_every_command_by_its_name() -> None:
    assert sorted(COMMAND_NAMES) == sorted(COMMAND.commands)


def test_every_variable_is_on_its_page_with_its_default_and_none_else() -> None:
    def read(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="get" | "getenv"), args=[ast.Constant(value=str(name)), *_]):
                    yield name
                case ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name))):
                    yield name
                case ast.Call(func=ast.Name(id="getenv"), args=[ast.Constant(value=str(name)), *_]):
                    yield name

    settings = {f"UNDERTONE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    elsewhere = {name for path in tracked("*.py") for name in read(path) if name.startswith("UNDERTONE_")}
    told = dict(ROW.findall(page("environment")))

    assert set(told) == settings.keys() | elsewhere
    assert len(ROW.findall(page("environment"))) == len(told)
    for name, field in settings.items():
        default = field.get_default(call_default_factory=True)
        plain = str(default.get_secret_value() if hasattr(default, "get_secret_value") else default or "")
        assert told[name].replace("~", str(Path.home())) == plain, name


def test_the_exit_codes_are_those_of_the_page_and_of_help() -> None:
    told = re.findall(r"^\| (\d+) \| (.*) \|$", page("command_line"), re.MULTILINE)
    assert {int(code): means.replace("`", "") for code, means in told} == EXIT_CODES
    for code, means in EXIT_CODES.items():
        assert f"{code} {means}" in COMMAND.epilog


def test_the_protocol_of_live_media_on_the_page_has_every_field_and_every_way_it_closes() -> None:
    protocol = page("api").partition("## Live media")[2]
    asked = next(line for line in protocol.splitlines() if line.startswith("| client | text | one JSON object"))
    answered = next(line for line in protocol.splitlines() if '"fragments"' in line)
    closes = {*_CLOSE_BY_STATUS.values(), _POLICY_VIOLATION}

    assert set(re.findall(r"`([a-z_]+)`", asked)) == LiveMetadata.model_fields.keys() - {"call_id"}
    assert set(re.findall(r'"([a-z_]+)": …', answered)) == Accepted.model_fields.keys()
    assert set(map(int, re.findall(r"\b(10\d\d) \(", protocol))) == closes


def test_the_schema_on_the_page_is_that_of_the_type() -> None:
    assert (ROOT / "docs" / "result.schema.json").read_text() == schema(), "make schema writes it anew"


def test_the_schema_takes_real_results_and_refuses_what_is_none() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    example = json.loads((ROOT / "docs" / "result.example.json").read_text())
    assert UtteranceSentiment.model_validate(example).judgement
    for one in (
        example,
        result(0, "nobody helps me", -2.0).model_dump(mode="json"),
        result(0, "", None, Participant.AGENT, reliable=False).model_dump(mode="json"),
    ):
        assert list(validator.iter_errors(one)) == []
        for wrong in ({"v": 2}, {"participant": "boss"}, {"start_ms": -1}, {"modalities": {}, "mood": "bad"}):
            assert not validator.is_valid({**one, **wrong})


def test_every_key_of_a_result_is_on_the_page() -> None:
    told = set(re.findall(r"`([a-z_]+)`", page("wire_format")))
    assert set(UtteranceSentiment.model_fields) <= told


def test_the_producer_on_the_page_writes_fragments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[tuple[str, bytes, bytes, Any]] = []

    class Producer:
        """Kafka's, whose broker keeps what it is sent."""

        def __init__(self, bootstrap_servers: str) -> None:
            assert bootstrap_servers

        def send(self, topic: str, value: bytes, key: bytes, headers: Any) -> None:
            sent.append((topic, value, key, headers))

        def flush(self) -> None:
            pass

    monkeypatch.setattr("kafka.KafkaProducer", Producer)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "call.raw").write_bytes(bytes(80_000))
    (code,) = re.findall(r"^```python\n(from kafka.*?)^```", page("wire_format"), re.MULTILINE | re.DOTALL)
    exec(code, {})  # noqa: S102  # the page's own

    records = [
        Record(Coordinates(0, at), key, value, tuple(headers), 0) for at, (_, value, key, headers) in enumerate(sent)
    ]
    found = [parse_record(record, MediaLimits()) for record in records]
    assert {topic for topic, *_ in sent} == {"call-media"}
    assert [(one.seq, one.start_ms, one.final, len(one.media)) for one in found] == [
        *((0, 0, False, 32_000), (1, 1000, False, 32_000), (2, 2000, True, 16_000))
    ]
