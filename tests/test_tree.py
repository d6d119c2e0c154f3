"""The tree keeps its order: imports point one way, methods stand alone, files stay small."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "weft"

METHODS = (
    "weft.adapters",
    "weft.optimizers",
    "weft.penalties",
    "weft.controllers",
    "weft.plans",
    "weft.mixtures",
    "weft.merges",
)

LEVELS = (
    (
        "weft.registry",
        "weft.config",
        "weft.atomic",
        "weft.dropout",
        "weft.attention",
        "weft.adamw",
        "weft.scoped",
    ),
    ("weft.digest", "weft.locate", "weft.bases", "weft.base"),
    ("weft.lowrank", "weft.gates"),
    METHODS,
    ("weft.text", "weft.metrics", "weft.tasks", "weft.formats", "weft.sources", "weft.data"),
    ("weft.kinds", "weft.heads", "weft.recipes", "weft.schema", "weft.encoding", "weft.scoring"),
    (
        "weft.expert",
        "weft.recogniser",
        "weft.factoring",
        "weft.mixed",
        "weft.mixing",
        "weft.batching",
        "weft.model",
        "weft.storage",
        "weft.runs",
        "weft.loading",
        "weft.exporting",
        "weft.pruning",
        "weft.counting",
        "weft.catalogue",
    ),
    (
        "weft.inference",
        "weft.recognition",
        "weft.gate_maps",
        "weft.learning",
        "weft.preparation",
        "weft.rows",
        "weft.sampling",
        "weft.assembly",
        "weft.interruption",
        "weft.stepping",
        "weft.beside",
        "weft.finishing",
        "weft.tracking",
        "weft.checkpointing",
        "weft.training",
        "weft.evaluation",
        "weft.generation",
        "weft.prediction",
        "weft.answering",
        "weft.streaming",
    ),
    (
        "weft.grid",
        "weft.jobs",
        "weft.workers",
        "weft.ray_workers",
        "weft.comparison",
        "weft.differences",
        "weft.leaderboard",
        "weft.analysis",
        "weft.demo",
        "weft.demonstration",
    ),
    (
        "weft.serving",
        "weft.reporting",
        "weft.reproduction",
        "weft.progress",
        "weft.tables",
        "weft.cli",
        "weft.__main__",
    ),
    ("weft",),
)
"""Lowest first. A module belongs to the first level that names it or a package around it, and
imports from its own level or a lower one. `weft` itself, last, is the public verbs."""

LONGEST = 300
LONGEST_METHOD = 150
SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
CITATION = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:10\.|https?://|\b(19|20)\d\d\b")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in FILES.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of weft that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if within(name.name, "weft"))
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or "")
            elif within(node.module or "", "weft"):
                for name in node.names:
                    inner = f"{node.module}.{name.name}"
                    # A name of the top package that is no module, its version, has no level.
                    if inner in FILES or node.module != "weft":
                        yield inner if inner in FILES else str(node.module)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def level_of(module: str) -> int | None:
    for number, packages in enumerate(LEVELS):
        # The top is `weft` alone, or it would take in every module without a place.
        if module in packages or any(within(module, name) for name in packages if name != "weft"):
            return number
    return None


def method_folder(module: str) -> str | None:
    """The folder whose method `module` is; None for `base`, `__init__` and all others."""
    folder, _, name = module.rpartition(".")
    return folder if folder in METHODS and name != "base" else None


def misplaced(module: str, tree: ast.Module) -> list[str]:
    """What is wrong with the imports of one file, as sentences."""
    own = level_of(module)
    if own is None:
        return [f"{module} has no place: add it to LEVELS in tests/test_tree.py"]
    wrong = []
    for target in imported(tree):
        level = level_of(target)
        folder = method_folder(module)
        sibling = folder and level == own and target not in (folder, f"{folder}.base")
        if target.startswith("."):
            wrong.append(f"{module} imports {target!r}: write the absolute name")
        elif level is None:
            wrong.append(f"{target} has no place: add it to LEVELS in tests/test_tree.py")
        elif level > own:
            wrong.append(f"{module} imports {target}, which lies above it")
        elif sibling:
            wrong.append(f"{module} imports {target}: of its folder a method imports base")
    return wrong


def test_imports_point_one_way() -> None:
    assert [line for module, tree in TREES.items() for line in misplaced(module, tree)] == []


def test_an_import_upwards_sideways_or_of_the_unknown_is_reported() -> None:
    def found(module: str, source: str) -> list[str]:
        return misplaced(module, ast.parse(source))

    assert found("weft.lowrank.pool", "from weft.lowrank.route import Route\nimport torch") == []
    assert found("weft.adapters.new", "from weft.adapters.base import Adapter") == []
    assert len(found("weft.lowrank.pool", "from weft.adapters import Adapter")) == 1
    assert len(found("weft.adapters.new", "from weft.adapters.lora import LoRA")) == 1
    assert len(found("weft.adapters.new", "def f():\n    import weft.optimizers.base")) == 1
    assert len(found("weft.adapters.new", "from .base import Adapter")) == 1
    assert len(found("weft.registry", "from weft import cli")) == ("weft.cli" in FILES)
    assert len(found("weft.somewhere", "")) == 1
    assert len(found("weft.cli.new", "from weft.somewhere import thing")) == 1


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        # A package's __init__ gathers its own files; they may name the package.
        module: {target for target in imported(tree) if not within(module, target)}
        for module, tree in TREES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_no_file_swallows_every_exception() -> None:
    def names(kind: ast.expr | None) -> set[str]:
        if kind is None:
            return {"Exception"}
        return {node.id for node in ast.walk(kind) if isinstance(node, ast.Name)}

    def raises_again(handler: ast.ExceptHandler) -> bool:
        last = handler.body[-1]
        return isinstance(last, ast.Raise) and last.exc is None

    assert [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and names(node.type) & {"Exception", "BaseException"}
        and not raises_again(node)
    ] == []


def test_files_are_short() -> None:
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in FILES.items()}
    limits = {module: LONGEST_METHOD if method_folder(module) else LONGEST for module in FILES}
    assert {name: n for name, n in lengths.items() if n > limits[name]} == {}


def test_names_say_what_is_inside() -> None:
    folders = [ROOT / name for name in ("src", "tests", "benchmarks")]
    paths = [path for folder in folders for path in folder.rglob("*")]
    assert [path for path in paths if SAY_NOTHING & set(path.stem.lower().split("_"))] == []


def test_every_file_says_what_it_is() -> None:
    empty = {module for module, path in FILES.items() if not path.read_text("utf-8").strip()}
    silent = {module for module, tree in TREES.items() if not ast.get_docstring(tree)}
    assert silent - empty == set()


def test_every_method_cites_its_source() -> None:
    pages = {module: ast.get_docstring(TREES[module]) for module in FILES if method_folder(module)}
    assert [module for module, page in pages.items() if not CITATION.search(page or "")] == []


def test_every_recipe_and_set_cites_its_source() -> None:
    def missing(folder: str, keys: tuple[str, ...]) -> list[str]:
        files = sorted((SOURCE / folder).glob("*.yaml"))
        said = {path.name: yaml.safe_load(path.read_text("utf-8")) for path in files}
        return [f"{name}: {key}" for name in said for key in keys if not said[name].get(key)]

    assert missing("recipes", ("citation",)) == []
    assert missing("tasks", ("citation", "source", "licence", "version")) == []
