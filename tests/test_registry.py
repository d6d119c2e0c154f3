"""A package of somebody else's adds methods by entry points; what is wrong with it is said by its name."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import weft
from weft.cli import app
from weft.methods.adapters import adapters
from weft.methods.adapters.contract import Factored
from weft.methods.optimizers import optimizers
from weft.methods.recipes import recipes
from weft.registry import Registry

Package = Callable[..., Path]

ADAPTER = '''"""Halved: half of a plain product.

    dW = B A / 2

Nobody 2020, https://example.org/halved.
"""

import torch
from torch import nn

from weft.methods.adapters import contract


class Halved(contract.Factored):
    """Half of a product."""

    def start(self, weight, generator):
        out, inside = weight.shape
        self.A = nn.Parameter(torch.randn(self.rank, inside, generator=generator))
        self.B = nn.Parameter(torch.zeros(out, self.rank))

    def factors(self, weight):
        return self.A, self.B / 2
'''
RECIPE = """
summary: "Half of a product: dW = B A / 2"
paper: "Nobody 2020"
citation: "https://example.org/halved"
adapter: halved
settings: {rank: 3}
targets: [query, value]
training: {learning_rate: 1.0e-2}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Lay a package out as an installer does: its module, and what importlib.metadata reads of it."""

    def install(points: dict[str, dict[str, str]], name: str = "halved", **files: str) -> Path:
        site = tmp_path / f"site-{name}"
        (site / name).mkdir(parents=True)
        for file, text in {"__init__.py": "", **files}.items():
            (site / name / file.replace("__yaml", ".yaml")).write_text(text)
        info = site / f"{name}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        groups = [
            "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in own.items())])
            for group, own in points.items()
        ]
        (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
        monkeypatch.syspath_prepend(str(site))
        return site

    yield install
    for module in [
        name for name in sys.modules if name.partition(".")[0] in {"halved", "one", "two"}
    ]:
        del sys.modules[module]


@pytest.fixture
def halved(package: Package) -> Path:
    """A package with an adapter and the recipe that trains it."""
    points = {
        "weft.adapters": {"halved": "halved.method:Halved"},
        "weft.recipes": {"halved": "halved:mine.yaml"},
    }
    return package(points, **{"method.py": ADAPTER, "mine__yaml": RECIPE})


def test_a_package_s_adapter_is_listed_trains_and_comes_back(
    halved: Path, run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    said = CliRunner().invoke(app, ["list", "adapters", "--json"])
    (entry,) = [one for one in json.loads(said.stdout) if one["name"] == "halved"]
    assert entry["summary"] == "Halved: half of a plain product."
    assert entry["citation"] == "https://example.org/halved."
    assert adapters.file("halved") == halved / "halved" / "method.py"

    folder = weft.train(run_of("topic", recipe="halved"), out=tmp_path / "run")
    inputs = ["the good dog", "a red book"]
    loaded = weft.load(folder.path, device="cpu")
    assert loaded.card.recipe["name"] == "halved"
    found = weft.predict(loaded, inputs)
    # What PEFT's files hold is the product that the method states, at the rank its recipe says.
    stored = load_file(folder.expert / "adapter_model.safetensors")
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    A, B = stored[f"{query}.lora_A.weight"], stored[f"{query}.lora_B.weight"]
    adapter = loaded.model.expert(loaded.name).adapters["encoder.layer.0.attention.self.query"]
    assert isinstance(adapter, Factored)
    assert A.shape[0] == 3
    assert B.abs().max() > 0
    torch.testing.assert_close(B @ A, adapter.B @ adapter.A / 2)
    assert found == weft.predict(folder.path, inputs, device="cpu")


def test_names_and_files_are_found_without_importing_the_method(halved: Path) -> None:
    assert "halved" in adapters.names()
    assert adapters.file("halved").is_file()
    assert "halved.method" not in sys.modules
    adapters.load("halved")
    assert "halved.method" in sys.modules


def test_a_name_that_is_taken_is_refused_and_the_others_go_on(package: Package) -> None:
    package({"weft.adapters": {"lora": "halved.method:Halved"}}, **{"method.py": ADAPTER})
    sentence = r"package halved 0.3 brings adapter 'lora', and so does weft itself: uninstall one"
    for ask in (adapters.names, lambda: adapters.load("lora"), lambda: adapters.file("lora")):
        with pytest.raises(ValueError, match=sentence):
            ask()
    assert adapters.load("dora").__name__ == "DoRA"
    said = CliRunner().invoke(app, ["list", "adapters"])
    assert said.exit_code == 2
    assert "weft: package halved 0.3 brings adapter 'lora'" in said.stderr


def test_two_packages_of_one_name_are_at_odds(package: Package) -> None:
    for name in ("one", "two"):
        package({"weft.optimizers": {"same": f"{name}.method:X"}}, name)
    with pytest.raises(
        ValueError, match=r"brings optimizer 'same', and so does package (one|two) 0.3"
    ):
        optimizers.load("same")


@pytest.mark.parametrize(
    ("value", "files", "message"),
    [
        ("halved.nowhere:X", {}, "ModuleNotFoundError: No module named 'halved.nowhere'"),
        ("halved.method:X", {"method.py": ADAPTER}, "has no attribute 'X'"),
        ("halved.method:torch.nn.Linear", {"method.py": ADAPTER}, "is no concrete Adapter"),
        ("halved.method", {"method.py": "import absent_library"}, "No module named 'absent_libra"),
        ("halved.method", {"method.py": "x = = 1"}, "SyntaxError: invalid syntax"),
        ("halved.method", {"method.py": "x = 1"}, "must define one .*Adapter"),
    ],
)
def test_a_broken_package_is_named(
    package: Package, value: str, files: dict[str, str], message: str
) -> None:
    package({"weft.adapters": {"odd": value}}, **files)
    with pytest.raises(
        ValueError, match=rf"package halved 0.3 brings adapter 'odd' as {value}.*{message}"
    ):
        adapters.load("odd")
    assert "odd" in adapters.names()


def test_a_module_that_defines_one_method_is_enough(package: Package) -> None:
    package({"weft.adapters": {"halved": "halved.method"}}, **{"method.py": ADAPTER})
    assert adapters.load("halved").__name__ == "Halved"


def test_a_recipe_file_that_a_package_lacks_is_said(package: Package) -> None:
    package({"weft.recipes": {"gone": "halved:gone.yaml"}})
    with pytest.raises(ValueError, match=r"halved 0.3 brings recipe 'gone'.*has no file gone.yaml"):
        recipes.read("gone")


def test_what_was_added_by_hand_says_where_it_is() -> None:
    own: Registry[Factored] = Registry("weft.methods.adapters", Factored)
    kind = type("Mine", (Factored,), {"__module__": __name__})
    own.add("mine", kind)
    assert own.load("mine") is kind
    assert own.file("mine") == Path(__file__)
