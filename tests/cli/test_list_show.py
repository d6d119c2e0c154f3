import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import pytest

from tests.voice import without_voice
from weft.base.locate import ALIASES
from weft.catalogue.pages import LISTS, PAGES, described, equation
from weft.cli import list as list_file
from weft.methods.adapters import adapters
from weft.methods.merges import merges
from weft.methods.mixtures import mixtures
from weft.methods.recipes import recipe_file, recipes
from weft.tasks.kinds import kinds
from weft.tasks.sets import sets

Say = Callable[..., Any]


def test_the_command_takes_every_list() -> None:
    """The command repeats their names, so that its help imports no method."""
    assert get_args(list_file.What) == (*LISTS, "users")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("recipes", recipes.names()),
        ("tasks", sets.names()),
        ("kinds", kinds.names()),
        ("bases", ALIASES.names()),
        ("adapters", adapters.names()),
    ],
)
def test_a_list_has_every_file_with_its_summary(what: str, names: list[str], say: Say) -> None:
    entries = say("list", what, "--json").json
    assert [entry["name"] for entry in entries] == names
    assert [entry["name"] for entry in entries if not entry["summary"]] == []


@pytest.mark.parametrize("what", LISTS)
def test_every_list_prints(what: str, say: Say) -> None:
    said = say("list", what)
    entries = LISTS[what]()
    assert said.code == 0
    assert [entry["name"] for entry in entries if entry["name"] not in said.out] == []
    assert entries or said.out == f"no {what} yet\n"


def test_licences_and_citations_are_listed() -> None:
    assert [
        row["name"] for row in LISTS["tasks"]() if not (row["licence"] and row["citation"])
    ] == []
    assert [row["name"] for row in LISTS["bases"]() if not row["licence"]] == []
    assert [row["name"] for row in LISTS["adapters"]() if not row["citation"]] == []


# What is looked up by its name alone; the page of a base is counted in its model.
LOOKED_UP = [["--version"], ["--help"], *(["list", what] for what in LISTS)]
LOOKED_UP += [["show", "recipe", name] for name in recipes.names()]
LOOKED_UP += [["show", "adapter", name] for name in adapters.names()]
LOOKED_UP += [["show", "mixture", name] for name in mixtures.names()]
LOOKED_UP += [["show", "merge", name] for name in merges.names()]
LOOKED_UP += [["show", "task", name] for name in sets.names()]
WALK = """
import json, sys
from weft.cli import app
for asked in json.load(sys.stdin):
    try:
        app(asked)
    except SystemExit as end:
        heavy = {"torch", "transformers", "datasets", "accelerate", "pandas"} & sys.modules.keys()
        if end.code or heavy:
            sys.exit(f"weft {' '.join(asked)}: code {end.code}, imported {heavy}")
"""


def test_what_is_looked_up_imports_no_torch() -> None:
    """By the commands, as a user asks: what they print with is as light as what they print."""
    assert {what for _, what, *_ in LOOKED_UP[2 + len(LISTS) :]} == PAGES.keys() - {"base"}
    asked = [*LOOKED_UP, *([*one, "--json"] for one in LOOKED_UP[2:])]
    ran = subprocess.run(
        [sys.executable, "-c", WALK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, without_voice(ran.stderr)) == (0, "")
    assert ran.stdout.count('"name": "lora"') >= 2


@pytest.mark.parametrize(
    ("recipe", "base", "count"),
    [
        # Rank 8 on query and value of 6, 12 and 24 layers: 2 x layers x 8 x (hidden + hidden).
        ("rslora", "distilbert", 147_456),
        ("rslora", "bert-base", 294_912),
        ("rslora", "bert-large", 786_432),
        # On all maps of 6, 12 and 24 layers: layers x 8 x (4 x (hidden + hidden) + 2 x (hidden + 4 hidden)).
        ("lora", "distilbert", 663_552),
        ("lora", "bert-base", 1_327_104),
        ("lora", "bert-large", 3_538_944),
        ("head", "bert-base", 0),
        # BERT base as published has 109,482,240 with its pooler of 590,592.
        ("full", "bert-base", 108_891_648),
    ],
)
def test_parameters_are_counted_without_weights(
    recipe: str, base: str, count: int, say: Say
) -> None:
    page = say("show", "recipe", recipe, "--base", base, "--json").json
    assert page["parameters"]["trained"] == count


def test_a_recipe_s_page_says_what_its_rate_is_where(say: Say) -> None:
    page = say("show", "recipe", "lora", "--base", "bert-large", "--json").json
    assert page["rate"] == (
        "0.001; on query, value 0.002 at width 384, which falls with the width to the power 0.75"
    )
    assert page["rate on this base"].startswith("0.000479: the recipe's 0.001 at width 384")
    assert page["rate on this base"].endswith("here 1024")


def test_a_recipe_s_page_has_its_equation_settings_and_source(say: Say) -> None:
    page = say("show", "recipe", "rslora", "--json").json
    defaults = {setting["name"]: setting["default"] for setting in page["settings"]}
    assert page["equation"].startswith("dW = s B A,")
    assert defaults == {
        "rank": "8",
        "alpha": "16",
        "dropout": "0.0",
        "rank_stabilised": "True",
        "zero": "B",
    }
    assert [setting["name"] for setting in page["settings"] if not setting["meaning"]] == []
    assert page["citation"] == "arXiv:2312.03732"
    assert page["file"].endswith("weft/methods/recipes/rslora.yaml")


@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_has_a_page(recipe: str, say: Say) -> None:
    said = say("show", "recipe", recipe, "--base", "minilm")
    assert said.code == 0, said.err
    assert described("recipe", recipe)["equation"]
    assert recipe_file(recipe).citation in said.out


@pytest.mark.parametrize(
    ("what", "name"),
    [("task", name) for name in sets.names()]
    + [("base", name) for name in ALIASES.names()]
    + [("adapter", name) for name in adapters.names()]
    + [("merge", name) for name in merges.names()],
)
def test_every_page_prints(what: str, name: str, say: Say) -> None:
    assert what in PAGES
    said = say("show", what, name)
    assert said.code == 0, said.err
    assert said.out.startswith(f"{what}: {name}\n")


def test_a_page_that_counts_nothing_refuses_a_base(say: Say) -> None:
    said = say("show", "task", "squad", "--base", "bert-base")
    assert said.code == 2
    assert "leave it away" in said.err


def test_the_equation_is_the_first_indented_block() -> None:
    assert equation("LoRA: x.\n\n    a = b\n      + c\n\nText.\n\n    later\n") == "a = b\n  + c"
    assert equation("No block.") == ""


@pytest.mark.parametrize("name", ["lor", "contract", "__init__"])
def test_a_name_that_is_no_methods_is_refused(name: str, say: Say) -> None:
    for what in ("adapter", "mixture", "merge"):
        said = say("show", what, name)
        assert said.code == 2
        assert f"no {what} named {name!r}" in said.err
