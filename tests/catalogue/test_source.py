"""What files say of themselves without being imported is what an import of them says."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.catalogue.pages import LISTS, settings
from weft.catalogue.source import Source
from weft.methods.adapters import adapters
from weft.methods.merges import merges
from weft.methods.mixtures import mixtures
from weft.methods.recipes import recipe_file, recipes, settings_types
from weft.model.heads import heads
from weft.tasks.kinds import kinds
from weft.tasks.sets import sets

ALONE = """
import json, sys
from weft.catalogue.pages import LISTS, PAGES
asked = json.load(sys.stdin)
found = {
    "lists": {name: entries() for name, entries in LISTS.items()},
    "pages": {f"{what} {name}": PAGES[what](name, None) for what, name in asked},
}
print(json.dumps(found))
print(sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """All lists and pages as a process makes them that has imported nothing before."""
    asked = [("recipe", name) for name in recipes.names()]
    asked += [("adapter", name) for name in adapters.names()]
    asked += [("mixture", name) for name in mixtures.names()]
    asked += [("merge", name) for name in merges.names()]
    asked += [("task", name) for name in sets.names()]
    ran = subprocess.run(
        [sys.executable, "-c", ALONE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    said, heavy = ran.stdout.splitlines()
    assert heavy == "[]"
    return json.loads(said)


def test_settings_are_those_of_the_classes_themselves(alone: dict[str, Any]) -> None:
    found = {name: page.get("settings", []) for name, page in alone["pages"].items()}
    expected = {f"recipe {name}": _of_recipe(name) for name in recipes.names()}
    expected |= {
        f"adapter {name}": settings(adapters.load(name).spec_type, {}) for name in adapters.names()
    }
    expected |= {
        f"mixture {name}": settings(mixtures.load(name).settings_type, {})
        for name in mixtures.names()
    }
    expected |= {
        f"merge {name}": settings(merges.load(name).settings_type, {}) for name in merges.names()
    }
    assert {name: found[name] for name in expected} == expected


def _of_recipe(name: str) -> list[dict[str, str]]:
    file = recipe_file(name)
    return [entry for kind in settings_types(file) for entry in settings(kind, file.settings)]


def test_pages_and_rates_are_those_of_the_modules_themselves(alone: dict[str, Any]) -> None:
    for registry, kind in (
        (adapters, "adapter"),
        (mixtures, "mixture"),
        (merges, "merge"),
    ):
        for name in registry.names():
            module = sys.modules[registry.load(name).__module__]
            assert alone["pages"][f"{kind} {name}"]["page"] == inspect.getdoc(module)
    for name in merges.names():
        page, kind = alone["pages"][f"merge {name}"], merges.load(name)
        assert (page["keeps"], page["loses"]) == (kind.keeps, kind.loses)
    rates = {name: mixtures.load(name).learning_rate for name in mixtures.names()}
    assert {name: alone["pages"][f"mixture {name}"]["learning_rate"] for name in rates} == rates


def test_lists_of_classes_are_those_of_the_classes_themselves(alone: dict[str, Any]) -> None:
    def first_line(kind: type) -> str:
        return (kind.__doc__ or "").strip().partition("\n")[0]

    assert alone["lists"]["kinds"] == [
        {"name": name, "summary": first_line(kinds.load(name))} for name in kinds.names()
    ]
    assert alone["lists"]["heads"] == [
        {"name": name, "summary": first_line(kind), "mirrors": kind.auto}
        for name in heads.names()
        if (kind := heads.load(name))
    ]


def test_the_lists_are_the_same_where_everything_is_imported(alone: dict[str, Any]) -> None:
    assert alone["lists"] == {name: entries() for name, entries in LISTS.items()}


ADAPTER = "weft.methods.adapters.contract:Adapter"


@pytest.fixture
def method(tmp_path: Path) -> Callable[[str], Source]:
    """A method's file that says this, below an import that would fail."""

    def written(text: str) -> Source:
        path = tmp_path / "method.py"
        path.write_text(
            f"import nowhere_to_be_found\nfrom weft.methods.adapters import contract\n{text}"
        )
        return Source("weft.method", path)

    return written


def test_only_what_a_name_stands_on_is_run(method: Callable[[str], Source]) -> None:
    file = method("HALF = 2\nWHOLE: int = 2 * HALF\nraise SystemExit\n")
    assert file.WHOLE == 4
    with pytest.raises(AttributeError, match="has no 'other' at its top level"):
        _ = file.other


def test_what_stands_on_a_heavy_import_imports_it(method: Callable[[str], Source]) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        _ = method("SIZE = nowhere_to_be_found.SIZE\n").SIZE


def test_attributes_are_found_where_they_are_set(method: Callable[[str], Source]) -> None:
    text = "class Part(contract.Factored):\n    own = 1\nclass Whole(Part):\n    more = 2 * 2\n"
    found = method(text).kept(ADAPTER)
    assert found.name == "Whole"
    assert [found.attribute(name) for name in ("more", "own", "low_rank")] == [4, 1, True]
    with pytest.raises(AttributeError, match="sets no 'less'"):
        found.attribute("less")


@pytest.mark.parametrize(
    "text",
    [
        "class Other:\n    pass\n",
        "class A(contract.Adapter): ...\nclass B(contract.Factored): ...\n",
    ],
)
def test_a_file_without_one_class_of_the_contract_is_refused(
    text: str, method: Callable[[str], Source]
) -> None:
    with pytest.raises(TypeError, match="must define one Adapter"):
        method(text).kept(ADAPTER)
