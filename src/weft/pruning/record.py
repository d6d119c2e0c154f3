"""`pruning.json`: how a base was pruned, and what was kept, beside the pruned checkpoint."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from weft.atomic import write_text
from weft.config import Settings, validate
from weft.guard import RECORDS, read_json

FILE = "pruning.json"

Kind = Literal["structured", "semi", "unstructured"]
Importance = Literal["random", "magnitude"]


def _places(kept: list[int]) -> list[int]:
    if not kept or kept != sorted(set(kept)) or kept[0] < 0:
        raise ValueError("expected numbers from 0, sorted, each once, at least one")
    return kept


class Pruning(Settings):
    """What `pruning.json` says."""

    format: Literal[1] = 1
    """Grows when the file changes meaning."""
    kind: Kind
    """Whole neurons and heads; n of every m weights; single weights."""
    ratio: float | None = Field(default=None, ge=0, lt=1)
    """Fraction pruned of a layer's neurons and heads, or of each row's weights; None for `semi`."""
    pattern: str | None = Field(default=None, pattern=r"^[1-9]\d*:[1-9]\d*$")
    """Of `semi` alone: `n:m` keeps n of every m weights that follow one another in a row."""
    importance: Importance = "magnitude"
    """What stays: the largest (a unit's sum of squares, a weight's size), or a draw."""
    seed: int = 0
    """Source of the draw."""
    layers: list[int] | None = None
    """Layers that were pruned, counted from 0; None is all."""
    base: str
    """The whole base, as the user said it."""
    source: str
    """Its hub id or absolute folder."""
    revision: str | None = None
    base_digest: str = ""
    """Identity of the whole base."""
    digest: str = ""
    """Identity of the pruned checkpoint beside the file."""
    kept: dict[str, dict[int, Annotated[list[int], AfterValidator(_places)]]] = {}
    """Of `structured`: the units that stayed (`neurons`, `heads`: key-value groups) by layer."""
    masked: list[str] = []
    """Of the other kinds: the maps with weights set to 0."""
    notes: list[str] = []
    """What was not pruned as asked, and why."""

    @property
    def pattern_numbers(self) -> tuple[int, int]:
        """The n and the m of the pattern."""
        kept, _, group = (self.pattern or "").partition(":")
        return int(kept), int(group)

    def check(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            ValueError: Says which, and what to do.
        """
        semi = self.kind == "semi"
        if semi != (self.pattern is not None) or semi != (self.ratio is None):
            needed, other = ("pattern", "ratio") if semi else ("ratio", "pattern")
            raise ValueError(
                f"{self.kind} pruning takes a {needed} and no {other}, got ratio {self.ratio} and "
                f"pattern {self.pattern}"
            )
        if self.kind == "structured" and self.layers is not None:
            raise ValueError(
                "layers: structured pruning is the same in all layers, because a config has one "
                "width; leave layers away, or prune semi or unstructured"
            )
        if self.pattern is not None:
            kept, group = self.pattern_numbers
            if kept > group:
                raise ValueError(f"pattern {self.pattern}: cannot keep {kept} of {group} weights")


def read_pruning(folder: Path) -> Pruning:
    """What `pruning.json` in `folder` says.

    Raises:
        ValueError: If it is missing or damaged.
    """
    path = folder / FILE
    if not path.exists():
        raise ValueError(
            f"{folder} has no {FILE}, so it is no pruned base; give the folder that `weft prune` "
            "wrote"
        )
    # Of a large base it names every neuron that stayed.
    return validate(Pruning, read_json(path, RECORDS), str(path))


def write_pruning(pruning: Pruning, folder: Path) -> None:
    """Write `pruning.json`, a key to a line: lists of thousands of neurons stay on one."""
    values = pruning.model_dump(mode="json")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    write_text(folder / FILE, "{\n" + ",\n".join(lines) + "\n}\n")
