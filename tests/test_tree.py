"""The tree keeps its order: imports point one way, methods stand alone, files stay small."""

import ast
import graphlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "weft"

FOLDERS = (
    "adapters", "optimizers", "penalties", "controllers", "plans", "balances", "mixtures", "merges",
)  # fmt: skip
METHODS = tuple(f"weft.methods.{folder}" for folder in FOLDERS)
"""Folders of which every file but the contract is a method."""

ROOMS = (
    ("system",),
    ("registry", "atomic", "scoped", "guard"),
    ("config", "runs", "client"),
    ("base", "tasks"),
    ("lowrank", "data"),
    ("methods",),
    ("model",),
    ("storage",),
    ("answering", "pruning", "vocabulary"),
    ("training", "merging", "prompting"),
    ("comparison", "generating"),
    ("reporting",),
    ("analysis", "judging"),
    ("catalogue",),
    ("reproduction", "demo", "publishing"),
    ("cli", "serving", "__main__"),
    ("weft",),
)
"""Lowest first. Every module is in the room that comes after `weft.` in its name; it imports from its own
level or a lower one. `weft` itself, last, is the public verbs."""

METHOD_FLOORS = (
    ("weft.methods.gates", "weft.methods.changes"),
    METHODS,
    ("weft.methods.recipes",),
)
"""The order inside the one room whose parts stand on each other by law: gates and changes know of no method, no method
of a recipe."""

MOST_LOOSE = 9
"""Modules beside the rooms, in `src/weft` itself."""
MOST_FILES = 16
"""Python files in a folder that is no registry."""
LONGEST = 400
LONGEST_METHOD = 150
REGISTRIES = {
    *METHODS,
    "weft.methods.gates",
    "weft.tasks.kinds",
    "weft.tasks.inputs",
    "weft.model.heads",
    "weft.model.encoders",
    "weft.analysis.questions",
    "weft.prompting.styles",
    "weft.prompting.templates",
    "weft.answering.metrics",
    "weft.judging.judges",
    "weft.judging.protocols",
    "weft.cli",
    "weft.serving.http.routes",
    "weft.serving.page.views",
}
"""Folders that grow by a file for each thing there is."""
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


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def level_of(module: str) -> int | None:
    return next((at for at, rooms in enumerate(ROOMS) if room_of(module) in rooms), None)


def floor_of(module: str) -> int:
    """Where in `methods` a module stands; below all of it, if elsewhere."""
    return next(
        (at for at, names in enumerate(METHOD_FLOORS) if any(within(module, n) for n in names)), -1
    )


def method_folder(module: str) -> str | None:
    """The folder whose method `module` is; None for `contract`, `__init__` and all others."""
    folder, _, name = module.rpartition(".")
    return folder if folder in METHODS and name != "contract" else None


def misplaced(module: str, tree: ast.Module) -> list[str]:
    """What is wrong with the imports of one file, as sentences."""
    own = level_of(module)
    if own is None:
        return [f"{module} has no place: add its room to ROOMS in tests/test_tree.py"]
    wrong = []
    for target in imported(tree):
        level = level_of(target)
        folder = method_folder(module)
        sibling = folder and floor_of(target) == 1 and target not in (folder, f"{folder}.contract")
        if target.startswith("."):
            wrong.append(f"{module} imports {target!r}: write the absolute name")
        elif level is None:
            wrong.append(f"{target} has no place: add its room to ROOMS in tests/test_tree.py")
        elif level > own or (level == own and floor_of(target) > floor_of(module) >= 0):
            wrong.append(f"{module} imports {target}, which lies above it")
        elif sibling:
            wrong.append(f"{module} imports {target}: of its folder a method imports contract")
    return wrong


def test_imports_point_one_way() -> None:
    assert [line for module, tree in TREES.items() for line in misplaced(module, tree)] == []


def test_an_import_upwards_sideways_or_of_the_unknown_is_reported() -> None:
    def found(module: str, source: str) -> list[str]:
        return misplaced(module, ast.parse(source))

    assert found("weft.lowrank.pool", "from weft.lowrank.route import Route\nimport torch") == []
    assert (
        found("weft.methods.adapters.new", "from weft.methods.adapters.contract import Adapter")
        == []
    )
    assert len(found("weft.lowrank.pool", "from weft.methods.adapters import Adapter")) == 1
    assert (
        len(found("weft.methods.adapters.new", "from weft.methods.adapters.lora import LoRA")) == 1
    )
    assert (
        len(
            found(
                "weft.methods.adapters.new", "def f():\n    import weft.methods.optimizers.contract"
            )
        )
        == 1
    )
    assert len(found("weft.methods.adapters.new", "from .base import Adapter")) == 1
    assert len(found("weft.registry", "from weft import cli")) == ("weft.cli" in FILES)
    assert len(found("weft.somewhere", "")) == 1
    assert len(found("weft.cli.new", "from weft.somewhere import thing")) == 1


def test_no_module_imports_itself_by_a_detour() -> None:
    """Neither a file by others, nor a room by rooms."""
    graph = {
        # A package's __init__ gathers its own files; they may name the package.
        module: {target for target in imported(tree) if not within(module, target)}
        for module, tree in TREES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()
    rooms: dict[str, set[str]] = {}
    for module, targets in graph.items():
        # `weft` hands out the verbs by name, and a version: it is no room that others stand on.
        found = {room_of(target) for target in targets} - {room_of(module), "weft"}
        rooms.setdefault(room_of(module), set()).update(found)
    graphlib.TopologicalSorter(rooms).prepare()


def test_few_modules_lie_loose_and_folders_stay_small() -> None:
    loose = [path.name for path in SOURCE.glob("*.py")]
    assert len(loose) <= MOST_LOOSE, loose
    folders: dict[str, int] = {}
    for module, path in FILES.items():
        folder = module if path.stem == "__init__" else module.rpartition(".")[0]
        folders[folder] = folders.get(folder, 0) + 1
    assert {
        name: n
        for name, n in folders.items()
        if n > MOST_FILES and name not in REGISTRIES and name != "weft"
    } == {}


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

    assert missing("methods/recipes", ("citation",)) == []
    assert missing("tasks/sets", ("citation", "source", "licence", "version")) == []


def test_the_map_of_the_rooms_is_as_the_imports_make_it() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "rooms.py"))
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert drawing["with_diagram"](page) == page, "python docs/rooms.py draws it anew"
    named = set(re.findall(r"`(\w+)`", page.split("## The rooms")[1].split("An arrow")[0]))
    assert drawing["rooms"]().keys() <= named
