"""Targets: from what a user says to the linear maps of a trunk.

A target is a role (`query key value output ffn_in ffn_out`), `all-linear`, a module's name or the
end of one (`attention.self.query`), or `re:` and a regular expression for whole names. Roles make
one config fit every architecture; which maps they mean is one table, below.
"""

import re
from collections.abc import Callable, Sequence

from torch import nn
from transformers import PreTrainedModel

from weft.lowrank.attach import canonical
from weft.registry import unknown

ROLES = ("query", "key", "value", "output", "ffn_in", "ffn_out")
ALL_LINEAR = "all-linear"

_BERT = {
    "query": ("attention.self.query",),
    "key": ("attention.self.key",),
    "value": ("attention.self.value",),
    "output": ("attention.output.dense",),
    "ffn_in": ("intermediate.dense",),
    "ffn_out": ("output.dense",),
}
_LLAMA = {
    "query": ("self_attn.q_proj",),
    "key": ("self_attn.k_proj",),
    "value": ("self_attn.v_proj",),
    "output": ("self_attn.o_proj",),
    "ffn_in": ("mlp.gate_proj", "mlp.up_proj"),
    "ffn_out": ("mlp.down_proj",),
}
# By model type and role: the names, inside a layer, of the maps that play the role.
_MAPS: dict[str, dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    "distilbert": {
        "query": ("attention.q_lin",),
        "key": ("attention.k_lin",),
        "value": ("attention.v_lin",),
        "output": ("attention.out_lin",),
        "ffn_in": ("ffn.lin1",),
        "ffn_out": ("ffn.lin2",),
    },
    # Query, key and value are one map, so each of the three means the whole of it.
    "modernbert": {
        **dict.fromkeys(("query", "key", "value"), ("attn.Wqkv",)),
        "output": ("attn.Wo",),
        "ffn_in": ("mlp.Wi",),
        "ffn_out": ("mlp.Wo",),
    },
    "gpt2": {
        **dict.fromkeys(("query", "key", "value"), ("attn.c_attn",)),
        "output": ("attn.c_proj",),
        "ffn_in": ("mlp.c_fc",),
        "ffn_out": ("mlp.c_proj",),
    },
}

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def roles_of(model_type: str) -> dict[str, tuple[str, ...]]:
    """By role, the maps that play it, named inside a layer; empty for an unknown architecture."""
    return dict(_MAPS.get(model_type, {}))


def role_of(model_type: str, module_name: str) -> str | None:
    """The role that the map `module_name` plays: `query` for a fused map, None for none."""
    inside = _inside_layer(module_name)
    if inside is None:
        return None
    found = [role for role, maps in roles_of(model_type).items() if inside in maps]
    return found[0] if found else None


def layer_index(name: str) -> int | None:
    """Number of the layer that the module `name` is in, from 0; None outside the layers."""
    found = _LAYER.search(canonical(name) + ".")
    return int(found[1]) if found else None


def resolve(
    trunk: PreTrainedModel,
    targets: Sequence[str] | str,
    *,
    layers: Sequence[int] | None = None,
) -> list[str]:
    """Names of the linear maps that `targets` mean, in the order of the modules, each once.

    Names are those of the plain trunk, whether or not it is wrapped.

    Args:
        trunk: A base's trunk, or its skeleton.
        targets: Roles, `all-linear`, names, ends of names, or `re:` expressions; one or several.
        layers: Layer numbers to keep, from 0; None keeps all.

    Raises:
        ValueError: If there is no target, one matches nothing, or a layer does not exist.
    """
    linears = _linears(trunk)
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise ValueError(f"no targets given; name roles ({', '.join(ROLES)}) or {ALL_LINEAR}")
    model_type = trunk.config.model_type
    kept = _names_in(layers, linears)
    chosen: set[str] = set()
    for target in wanted:
        matches = _matcher(target, model_type)
        if not any(matches(name) for name in linears):
            raise ValueError(
                f"{model_type}: {unknown('target', target, _known(model_type, linears))}"
            )
        found = {name for name in kept if matches(name)}
        if not found:
            raise ValueError(f"target {target!r} matches nothing in layers {list(layers or [])}")
        chosen |= found
    return [name for name in kept if name in chosen]


def adapter_parameters(
    trunk: PreTrainedModel,
    targets: Sequence[str] | str,
    rank: int,
    *,
    layers: Sequence[int] | None = None,
) -> int:
    """Trained numbers of a plain LoRA: `rank (in + out)` summed over the maps `targets` mean."""
    linears = _linears(trunk)
    maps = [linears[name] for name in resolve(trunk, targets, layers=layers)]
    return sum(rank * (linear.in_features + linear.out_features) for linear in maps)


def _linears(trunk: nn.Module) -> dict[str, nn.Linear]:
    return {
        canonical(name): module
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Linear)
    }


def _inside_layer(name: str) -> str | None:
    """What follows the layer number in a module's name."""
    plain = canonical(name)
    found = _LAYER.search(plain)
    return plain[found.end() :] if found else None


def _names_in(layers: Sequence[int] | None, linears: dict[str, nn.Linear]) -> list[str]:
    if layers is None:
        return list(linears)
    numbers = {number for name in linears if (number := layer_index(name)) is not None}
    absent = [number for number in layers if number not in numbers]
    if absent or not layers:
        raise ValueError(
            f"layers {list(layers)}: expected some of the layers 0 to {max(numbers, default=-1)}"
        )
    return [name for name in linears if layer_index(name) in layers]


def _matcher(target: str, model_type: str) -> Callable[[str], bool]:
    """Whether a linear map's name is meant by `target`."""
    if target == ALL_LINEAR:
        return lambda name: layer_index(name) is not None
    if target in ROLES:
        if model_type not in _MAPS:
            raise ValueError(
                f"roles such as {target!r} are not known for model type {model_type!r} (only for "
                f"{', '.join(sorted(_MAPS))}); give names of modules, or {ALL_LINEAR}"
            )
        maps = _MAPS[model_type][target]
        return lambda name: _inside_layer(name) in maps
    if target.startswith("re:"):
        try:
            pattern = re.compile(target.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"target {target!r} is no regular expression: {error}") from None
        return lambda name: pattern.fullmatch(name) is not None
    return lambda name: name == target or name.endswith(f".{target}")


def _known(model_type: str, linears: dict[str, nn.Linear]) -> set[str]:
    """Everything a target may be, layer numbers left out."""
    return {ALL_LINEAR, *roles_of(model_type), *(_inside_layer(name) or name for name in linears)}
