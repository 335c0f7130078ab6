from typer.testing import CliRunner

from deployments.cli.main import app
from models.recipes import FOLDS, RECIPES
from tests.deployments.cli.running import json_lines


def test_every_recipe_is_listed_with_what_it_trains(cli: CliRunner) -> None:
    rows = json_lines(cli, "recipes")
    assert [row["recipe"] for row in rows] == sorted(RECIPES)
    assert {row["recipe"] for row in rows if row["folds"]} == set(FOLDS)
    assert all(row["what"] for row in rows)

    shown = cli.invoke(app, ["recipes"]).stdout
    for row in rows:
        assert row["recipe"] in shown
        assert row["what"].split()[0] in shown
