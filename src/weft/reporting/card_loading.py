"""The lines of code in a model card that load its expert, with PEFT or transformers and with weft."""

from pathlib import Path

from weft.lowrank.checkpoint import CONFIG as PEFT_CONFIG
from weft.model.expert import Card
from weft.model.heads import kind_of
from weft.storage.experts import HEAD
from weft.storage.loading import task_of

HERE = "path/to/this/folder"
"""Stands for the expert's folder in the lines that load it."""


def library_of(folder: Path) -> str:
    """Which library opens the folder: PEFT, transformers where every weight was trained, or weft alone."""
    if (folder / PEFT_CONFIG).is_file():
        return "peft"
    return "weft" if (folder / HEAD).is_file() else "transformers"


def loading_lines(card: Card, library: str) -> list[str]:
    """Paragraphs and blocks of code, one of each for every library that opens the folder."""
    kind = kind_of(card.head)
    revision = f", revision={card.revision!r}" if card.revision else ""
    labels = f", num_labels={task_of(card).num_labels}" if kind.has_classes else ""
    auto = f"from transformers import {kind.auto}, AutoTokenizer"
    found = []
    if library == "peft":
        found += [
            "With PEFT:",
            _code(
                "from peft import PeftModel",
                auto,
                "",
                f'base = {kind.auto}.from_pretrained("{card.source}"{labels}{revision})',
                f'model = PeftModel.from_pretrained(base, "{HERE}")',
                f'tokenizer = AutoTokenizer.from_pretrained("{card.source}"{revision})',
            ),
        ]
    if library == "transformers":
        found += [
            "With transformers:",
            _code(
                auto,
                "",
                f'model = {kind.auto}.from_pretrained("{HERE}")',
                f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")',
            ),
        ]
        own = [
            "from weft.storage.experts import load_full",
            "",
            f'model, expert, card = load_full("{HERE}")',
        ]
    else:
        own = [
            "from weft.base.loading import load_base",
            "from weft.model.model import Model",
            "from weft.storage.experts import load_expert",
            "",
            f'base = load_base("{card.base}"{revision})',
            f'expert, card = load_expert("{HERE}", base)',
            "model = Model(base)",
            "model.add(expert)",
        ]
    return [*found, "With weft:", _code(*own)]


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])
