"""Draws the rooms of src/weft as their imports make them, into docs/architecture.md: `python docs/rooms.py`."""

import ast
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "weft"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- /rooms -->"


def rooms() -> dict[str, set[str]]:
    """Every room, and the rooms that it imports; a loose module is a room, `weft` itself is none."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        targets = set(_imported(ast.parse(path.read_text(encoding="utf-8"))))
        found.setdefault(room, set()).update(targets - {room})
    return {room: targets & found.keys() for room, targets in found.items()}


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "weft":
            names = [f"weft.{name.name}" for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name.split(".")[1] for name in names if name.startswith("weft."))


def reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from others: what a room imports through another is not drawn again.

    Raises:
        graphlib.CycleError: If rooms import each other in a circle.
    """
    below: dict[str, set[str]] = {}
    for room in graphlib.TopologicalSorter(graph).static_order():
        below[room] = set(graph[room]).union(*(below[target] for target in graph[room]))
    return {
        room: {one for one in own if not any(one in below[other] for other in own)}
        for room, own in graph.items()
    }


def diagram() -> str:
    """A Mermaid flow chart, what uses others at the top."""
    graph = rooms()
    arrows = reduced(graph)
    boxes = [f"    {room}" for room in sorted(graph)]
    drawn = [f"    {room} --> {one}" for room in sorted(arrows) for one in sorted(arrows[room])]
    return "\n".join(["```mermaid", "flowchart TD", *boxes, *drawn, "```", ""])


def with_diagram(page: str) -> str:
    """`page` with the diagram as it is now."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + diagram() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_diagram(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
