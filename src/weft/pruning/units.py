"""Units: the neurons and the groups of heads that structured pruning takes from a trunk.

unit                                            rows of                     columns of
neuron                                          ffn_in (gate and up, or     ffn_out
                                                both halves of a fused one)
group: a key-value head and its query heads     query, key, value           output
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import layer_index, resolve, roles_of

NEURONS = "neurons"
HEADS = "heads"

_ROLES = {
    NEURONS: {"ffn_in": "out", "ffn_out": "in"},
    HEADS: {"query": "out", "key": "out", "value": "out", "output": "in"},
}
_WIDTHS = {"distilbert": "hidden_dim", "gpt2": "n_inner"}
"""What configs call the number of feed-forward neurons, where it is not `intermediate_size`."""
_FREE_HEADS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose config says the size of a head apart from their number."""


@dataclass(frozen=True)
class Cut:
    """The side of one map on which units are cut out."""

    module: str
    side: Literal["out", "in"]
    width: int
    """Rows or columns of one unit that follow one another."""
    blocks: int = 1
    """How often all units stand on that side, one set after the other: 2 in a fused gate."""

    def places(self, kept: Tensor, units: int) -> Tensor:
        """The rows or columns that belong to the units `kept`, of so many; sorted if those are."""
        first = torch.arange(self.blocks)[:, None, None] * units + kept[None, :, None]
        return (first * self.width + torch.arange(self.width)).flatten()


@dataclass(frozen=True)
class Group:
    """The units of one layer; each stays in all these maps, or goes from all."""

    what: str
    layer: int
    units: int
    cuts: tuple[Cut, ...]


def groups_of(trunk: PreTrainedModel) -> list[Group]:
    """What structured pruning can take from a trunk: the neurons by layer, then the heads by layer.

    Raises:
        ValueError: If the roles of this architecture's maps are not known.
    """
    config = trunk.config
    widths: dict[int | None, int] = {}
    if {"ffn_in", "ffn_out"} <= set(roles_of(trunk)):
        widths = {
            layer_index(name): frozen_linear(trunk, name).in_features
            for name in resolve(trunk, "ffn_out")
        }
    said = getattr(config, _width_setting(config), 0)
    if not widths or (said is not None and set(widths.values()) != {said}):
        # A trunk whose config says its width otherwise could be pruned, but not loaded again.
        raise ValueError(
            f"structured pruning does not know the maps of model type {config.model_type!r}; prune "
            "unstructured or semi"
        )
    groups = [_group(trunk, NEURONS, layer or 0, units) for layer, units in widths.items()]
    if config.model_type in _FREE_HEADS:
        heads = config.num_key_value_heads
        groups += [_group(trunk, HEADS, layer or 0, heads) for layer in widths]
    return groups


def counts_kept(config: Any, units: Mapping[str, int], ratio: float) -> dict[str, int]:
    """How many of so many units stay in every layer: at least one, and as many as a config allows."""
    kept = {what: max(1, number - round(ratio * number)) for what, number in units.items()}
    if config.model_type == "llama":
        # Its config refuses numbers of heads that do not divide the hidden size, whatever a head's.
        while kept[HEADS] < units[HEADS] and config.hidden_size % _heads(config, kept[HEADS]):
            kept[HEADS] += 1
    return kept


def config_values(trunk: PreTrainedModel, kept: Mapping[str, int]) -> dict[str, int]:
    """What the config of a trunk with so many units a layer says otherwise."""
    config = trunk.config
    said = {_width_setting(config): kept[NEURONS]}
    if HEADS in kept:
        key = frozen_linear(trunk, resolve(trunk, "key")[0])
        said |= {
            "num_attention_heads": _heads(config, kept[HEADS]),
            "num_key_value_heads": kept[HEADS],
            # Said aloud: left open, it would be hidden size / heads.
            "head_dim": key.out_features // config.num_key_value_heads,
        }
    return said


def notes_on(config: Any, units: Mapping[str, int], ratio: float) -> list[str]:
    """What cannot be pruned as asked, and why."""
    if HEADS not in units:
        return [
            f"all attention heads are kept: a {config.model_type} config takes hidden size / heads "
            "as the size of a head, so it cannot say fewer heads of the same size"
        ]
    number, kept = units[HEADS], counts_kept(config, units, ratio)[HEADS]
    asked = number - round(ratio * number)
    if kept == asked:
        return []
    return [
        f"{kept} of {number} groups of attention heads are kept, not {asked}: one must stay, and "
        f"the number of heads must divide a llama's hidden size, {config.hidden_size}"
    ]


def _group(trunk: PreTrainedModel, what: str, layer: int, units: int) -> Group:
    cuts = []
    for role, side in _ROLES[what].items():
        for name in resolve(trunk, role, layers=[layer]):
            linear = frozen_linear(trunk, name)
            out = side == "out"
            times = (linear.out_features if out else linear.in_features) // units
            width, blocks = (1, times) if what == NEURONS else (times, 1)
            cuts.append(Cut(name, "out" if out else "in", width, blocks))
    return Group(what, layer, units, tuple(cuts))


def _width_setting(config: Any) -> str:
    return _WIDTHS.get(config.model_type, "intermediate_size")


def _heads(config: Any, groups: int) -> int:
    return groups * (config.num_attention_heads // config.num_key_value_heads)
