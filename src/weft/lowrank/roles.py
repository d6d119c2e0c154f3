"""Targets: from what a user says to the linear maps of a trunk.

A target is a role (`query key value output ffn_in ffn_out`), `all-linear`, a module's name or the
end of one (`attention.self.query`), or `re:` and a regular expression for whole names. Roles make
one config fit every architecture; which maps they mean is one table, below.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel

from weft.lowrank.attach import canonical
from weft.registry import unknown

ROLES = ("query", "key", "value", "output", "ffn_in", "ffn_out")
ALL_LINEAR = "all-linear"
_GATED = 2
_LISTED = 12
"""Names of maps that an error shows."""

_FUSED = r"w?qkv|qkv_proj|query_key_value|c_attn|in_proj_qkvz?"
_NAMES = {
    "query": rf"q_?(proj|lin)|query_proj|project_q|wq|q_[ab]_proj|{_FUSED}",
    "key": rf"k_?(proj|lin)|key_proj|project_k|wk|kv_proj|kv_[ab]_proj(_with_mqa)?|{_FUSED}",
    "value": rf"v_?(proj|lin)|value_proj|project_v|wv|kv_proj|kv_[ab]_proj(_with_mqa)?|{_FUSED}",
    "output": r"o_proj|out_lin|attention_out|o_[ab]_proj",
    "ffn_in": r"(intermediate|dense)\.dense|lin1|wi(_\d)?|c_fc|fc_?1|fc_in|(gate_|up_|gate_up_)proj|w[13]"
    r"|dense_h_to_4h|ffn(\.0)?",
    "ffn_out": r"output\.dense|lin2|wo|c_proj|fc_?2|fc_out|down_proj|w2|dense_4h_to_h|ffn_output|ffn\.2",
}
"""What the maps that play a role are called at the end of their names, in every family that transformers has."""
_IN_ATTENTION = {
    "query": r"query(_key)?|q|in_proj",
    "key": r"key|query_key|k|in_proj",
    "value": r"value|v|in_proj",
    "output": r"o|out_proj|wo|c_proj|dense|output",
}
"""And those that say too little alone: inside attention they do."""
_ATTENTION = re.compile(r"attn|attention|(?:^|[._])att(?:[._]|$)")
_ASIDE = re.compile(
    r"norm|rout|(?:^|\.)gate\.|adapter|bottleneck|index|compressor|hyper|layout_|_global|[ew]2[ew]_"
)
"""Parts of a layer beside attention and feed-forward: small networks whose maps play none of the roles."""

_UNREACHED = re.compile(
    r"rout|indexer|expert_gate|_global$|[ew]2[ew]_|\.dt_proj$|_coefs$|\.layout_", re.IGNORECASE
)
"""Maps that an adapter would be lost on: choices without a gradient, weights used without their module, and maps that
texts never come to (other inputs' or global attention's)."""

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")

Roles = Mapping[str, tuple[str, ...]]
"""By role, the maps that play it, named inside a layer."""


def roles_of(trunk: nn.Module) -> dict[str, tuple[str, ...]]:
    """By role, the maps that play it, named inside a layer; a role that no map plays is left out.

    Maps are known by their names. Where those say nothing, shape and place do: a map that widens outside of attention
    and the one that narrows what it made are the feed-forward block's; one three times as wide as what it reads,
    in attention, is query, key and value, and the other map there the output.
    """
    inside: dict[str, nn.Linear] = {}
    for name, module in _linears(trunk).items():
        if (own := _inside_layer(name)) is not None:
            inside.setdefault(own, module)
    found = {role: tuple(name for name in inside if _is_named(role, name)) for role in ROLES}
    named = {name for maps in found.values() for name in maps}
    unnamed = {name: map_ for name, map_ in inside.items() if name not in named}
    for role, maps in _by_shape(unnamed).items():
        found[role] = found[role] or maps
    return {role: maps for role, maps in found.items() if maps}


def role_of(roles: Roles, module_name: str) -> str | None:
    """The role that the map `module_name` plays: `query` for a fused map, None for none."""
    inside = _inside_layer(module_name)
    found = [role for role, maps in roles.items() if inside in maps]
    return found[0] if found else None


def layer_index(name: str) -> int | None:
    """Number of the layer that the module `name` is in, from 0; None outside the layers."""
    found = _LAYER.search(canonical(name) + ".")
    return int(found[1]) if found else None


def layer_of(name: str) -> str | None:
    """The layer that the module `name` is in, as a module is called (encoder.layer.3); None outside the layers."""
    number = layer_index(name)
    return None if number is None else f"{canonical(name).partition(f'.{number}.')[0]}.{number}"


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
    if not any(layer_index(name) is not None for name in linears):
        raise ValueError(
            f"a {trunk.config.model_type} trunk has no linear maps (torch.nn.Linear) inside its layers, so "
            "nothing can be woven into it; take another base, or a recipe without adapters (head, full)"
        )
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise ValueError(f"no targets given; name roles ({', '.join(ROLES)}) or {ALL_LINEAR}")
    model_type = trunk.config.model_type
    roles = roles_of(trunk)
    kept = _names_in(layers, linears)
    chosen: set[str] = set()
    for target in wanted:
        if target in ROLES and target not in roles:
            raise ValueError(_no_role(model_type, target, roles, linears))
        matches = matcher(target, roles)
        if not any(matches(name) for name in linears):
            raise ValueError(f"{model_type}: {unknown('target', target, _known(roles, linears))}")
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


def _is_named(role: str, name: str) -> bool:
    """Whether a map named `name` inside a layer plays `role`, as its name says."""
    plain = name.lower().removesuffix(".linear")
    if _ASIDE.search(plain):
        return False
    attends = _ATTENTION.search(plain) is not None
    if role in _IN_ATTENTION:
        return _ends(plain, f"{_NAMES[role]}|{_IN_ATTENTION[role]}" if attends else _NAMES[role])
    # Attention may have a gate that is called as the feed-forward block's.
    return not attends and _ends(plain, _NAMES[role])


def _ends(name: str, pattern: str) -> bool:
    return re.search(rf"(?:^|\.)(?:{pattern})$", name) is not None


def _by_shape(maps: Mapping[str, nn.Linear]) -> dict[str, tuple[str, ...]]:
    """Roles of maps whose names say nothing."""
    attending = {name: one for name, one in maps.items() if _ATTENTION.search(name.lower())}
    others = {
        name: one
        for name, one in maps.items()
        if name not in attending and not _ASIDE.search(name.lower())
    }
    found: dict[str, tuple[str, ...]] = {}
    blocks: dict[str, list[str]] = {}
    for name in others:
        blocks.setdefault(name.rpartition(".")[0], []).append(name)
    for names in blocks.values():
        *first, last = names
        narrow = others[last]
        # A gated block reads with two maps, or with one of twice the width.
        widths = {others[name].out_features for name in first}
        reads = {others[name].in_features for name in first}
        if (
            1 <= len(first) <= _GATED
            and reads == {narrow.out_features}
            and narrow.in_features > narrow.out_features
            and widths in ({narrow.in_features}, {_GATED * narrow.in_features})
        ):
            found["ffn_in"] = (*found.get("ffn_in", ()), *first)
            found["ffn_out"] = (*found.get("ffn_out", ()), last)
    fused = [name for name, one in attending.items() if one.out_features == 3 * one.in_features]
    if len(fused) == 1 and len(attending) == 2:
        found |= dict.fromkeys(("query", "key", "value"), (fused[0],))
        found["output"] = tuple(name for name in attending if name != fused[0])
    return found


def _no_role(model_type: str, role: str, roles: Roles, linears: Mapping[str, nn.Linear]) -> str:
    maps = list(dict.fromkeys(own for name in linears if (own := _inside_layer(name)) is not None))
    shown = ", ".join([*maps[:_LISTED], *(["..."] if len(maps) > _LISTED else [])])
    played = f"those it has: {', '.join(roles)}" if roles else "none of its maps is known by a role"
    return (
        f"no linear map of a {model_type} layer plays the role {role!r} ({played}); give names of its maps "
        f"({shown}), or {ALL_LINEAR}"
    )


def matcher(target: str, roles: Roles) -> Callable[[str], bool]:
    """Whether a linear map's name is meant by `target`."""
    if target == ALL_LINEAR:
        return lambda name: layer_index(name) is not None and not _UNREACHED.search(name)
    if target in roles:
        maps = roles[target]
        return lambda name: _inside_layer(name) in maps
    if target.startswith("re:"):
        try:
            pattern = re.compile(target.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"target {target!r} is no regular expression: {error}") from None
        return lambda name: pattern.fullmatch(name) is not None
    return lambda name: name == target or name.endswith(f".{target}")


def _known(roles: Roles, linears: Mapping[str, nn.Linear]) -> set[str]:
    """Everything a target may be, layer numbers left out."""
    return {ALL_LINEAR, *roles, *(_inside_layer(name) or name for name in linears)}
