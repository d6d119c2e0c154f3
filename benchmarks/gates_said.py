"""What a mixture's gates say of rows whose expert is known: for `gates.py`.

By task the mean gate on the row's own expert, and the share of places where it is the largest; a place is a real token
at a map. Of gates that are equal none is the largest, so a chance of 1 / experts counts for each of them.
"""

import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from weft.answering.evaluation import rows_of
from weft.answering.inference import outputs_of
from weft.atomic import write_text
from weft.methods.gates.gate import Gate
from weft.methods.gates.trace import GateTrace, traced
from weft.model.mixed import Mix
from weft.runs import RunFolder
from weft.storage.loading import load_mixture_model

MOST_ROWS = 30
"""Validation rows of a task."""
NAME = "gates-said.json"


@dataclass
class Said(GateTrace):
    """Adds up what gates say of one expert."""

    expert: int = 0
    gate: float = 0.0
    largest: float = 0.0
    places: int = 0

    def record(self, module: str, logits: Tensor, found: Gate) -> None:
        gates = self.tokens(found.gates).double()
        own = gates[:, self.expert]
        ties = (gates == gates.max(-1, keepdim=True).values).double()
        self.gate += own.sum().item()
        self.largest += (ties[:, self.expert] / ties.sum(-1)).sum().item()
        self.places += len(own)


def said_by(run: RunFolder) -> dict[str, dict[str, Any]]:
    """By task `own_gate`, `arg_max` and `places`; asked once, and kept in the run's folder."""
    path = run.path / NAME
    if not path.is_file():
        write_text(path, json.dumps(_asked(run), indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def _asked(run: RunFolder) -> dict[str, dict[str, Any]]:
    found = {}
    for name, loaded in load_mixture_model(run.path, device="cpu").runs.items():
        mix = loaded.model.expert(loaded.members[0])
        assert isinstance(mix, Mix)
        _, records = rows_of(
            loaded.run, loaded.card, loaded.model.base, "validation", max_examples=MOST_ROWS
        )
        said = Said(expert=mix.mixture.experts.index(name))
        with traced(said):
            outputs_of(loaded, records)
        found[name] = {
            "own_gate": said.gate / said.places,
            "arg_max": said.largest / said.places,
            "places": said.places,
        }
    return found
