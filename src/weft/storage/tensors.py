"""Between an expert and the tensors of its folder: what they are called, and whether they fit.

A *plain* expert is one whose state PEFT's format holds: LoRA's A, B and alpha, and DoRA's
magnitudes. They are stored as they are, so that it goes on training from the same bits. Every other
variant is stored twice: as its exact factors, and as its own (native) state.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from weft import guard
from weft.base.loading import Base
from weft.lowrank.attach import canonical, frozen_linear, original
from weft.lowrank.peft.tensors import read_tensors
from weft.lowrank.peft.writing import PeftFolder
from weft.methods.adapters.contract import Adapter
from weft.methods.recipes import Recipe
from weft.model.expert import Expert, make_adapters
from weft.model.head import Head, trained_dtype

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""A (rank, in) and B (out, rank) by module."""

MOST_RANKS = 1 << 16
"""Largest rank that a file can say, so that what is built for it before its tensors are compared stays small."""

MAGNITUDE = "m"
"""What DoRA calls its row norms."""

# Of |A| |B|: factors are a few products away from the state, each exact to the type's rounding.
_CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12}


def linear_shapes(trunk: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear map of a trunk by name, wrapped or not."""
    return {
        canonical(name): (module.out_features, module.in_features)
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Linear)
    }


def is_plain(expert: Expert) -> bool:
    """Whether PEFT's format holds all that the adapters are."""
    return all(adapter.peft_alpha() is not None for adapter in expert.adapters.values())


def plain_state(
    expert: Expert, extra: dict[str, Tensor], biases: dict[str, Tensor] | None = None
) -> PeftFolder:
    """The state of a plain expert as PEFT stores it, beside the `extra` tensors of whole modules and single biases."""
    factors, alphas, magnitudes = {}, {}, {}
    for module, adapter in expert.adapters.items():
        state, alpha, rows = adapter.state_dict(), adapter.peft_alpha(), adapter.peft_magnitude()
        A, B = state.pop("A"), state.pop("B")
        if rows is not None:
            magnitudes[module] = state.pop(MAGNITUDE)
        if state or alpha is None:
            raise TypeError(
                f"{type(adapter).__name__} says that PEFT holds its state, but there is more: "
                f"{sorted(state)}"
            )
        factors[module], alphas[module] = (A, B), alpha
    prefix = expert.head.prefix if expert.head else ""
    return PeftFolder(factors, alphas, extra, prefix, magnitudes=magnitudes, biases=biases or {})


def exact_state(
    expert: Expert, base: Base, extra: dict[str, Tensor], biases: dict[str, Tensor] | None = None
) -> PeftFolder:
    """`A'`, `B'` with the whole scale in it, and the alpha that adds none, beside whole modules and single biases.

    Raises:
        NotLowRank: If the variant has none.
        ValueError: If its factors are not its change of the weight.
    """
    dtype = trained_dtype(base)
    found = {}
    with torch.no_grad():
        for module, adapter in expert.adapters.items():
            weight = frozen_linear(base.trunk, module).weight.to(dtype)
            A, B = adapter.factors(weight)
            check_same(module, (A, B), adapter.delta(weight), "its variant's own delta")
            found[module] = (A.contiguous(), B.contiguous())
    alphas = {module: float(A.shape[0]) for module, (A, _) in found.items()}
    prefix = expert.head.prefix if expert.head else ""
    return PeftFolder(found, alphas, extra, prefix, biases=biases or {})


def check_same(module: str, factors: tuple[Tensor, Tensor], delta: Tensor, what: str) -> None:
    """Refuse factors whose product is not `delta`.

    Raises:
        ValueError: Names the module and the relative distance.
    """
    A, B = factors
    distance = torch.linalg.norm(B @ A - delta) / (
        torch.linalg.norm(A) * torch.linalg.norm(B)
    ).clamp_min(1e-30)
    if not distance <= _CLOSE[delta.dtype]:
        raise ValueError(
            f"the factors of {module} differ from {what} by {distance:.1e} of their size"
        )


def plain_adapters(
    peft: PeftFolder, modules: Iterable[str], base: Base, recipe: Recipe, folder: Path
) -> dict[str, Adapter]:
    """Adapters of a plain variant with the state of a PEFT folder, in the order of `modules`.

    Raises:
        ValueError: If the recipe's variant is not plain, or the folder is of another one.
    """
    assert recipe.adapter is not None
    assert recipe.spec is not None
    found = {}
    for module in modules:
        A, B = peft.factors[module]
        weight = frozen_linear(base.trunk, module).weight
        spec = recipe.spec.model_copy(update={"rank": A.shape[0]})
        adapter = recipe.adapter(weight, spec, torch.Generator())
        own, alpha = adapter.peft_alpha(), peft.alphas[module]
        if own is None:
            raise ValueError(
                f"{folder}: a {recipe.name} expert needs native.safetensors, which is missing"
            )
        if own != alpha:
            # Scales may differ by module: in folders that others trained, and in sums of experts.
            scale = spec.model_dump()["alpha"] / own
            adapter = recipe.adapter(
                weight, spec.model_copy(update={"alpha": alpha * scale}), torch.Generator()
            )
        rows = peft.magnitudes.get(module)
        if (rows is None) != (adapter.peft_magnitude() is None):
            raise ValueError(
                f"{folder}: {'lacks' if rows is None else 'holds'} the magnitudes of DoRA, but its "
                f"recipe is {recipe.name}"
            )
        state = {"A": A, "B": B} | ({} if rows is None else {MAGNITUDE: rows})
        adapter.to(trained_dtype(base)).load_state_dict(state)
        found[module] = adapter
    return found


def native_state(expert: Expert) -> dict[str, Tensor]:
    """All parameters and buffers, each once, as `<module>.<name>` and `shared.<name>`."""
    modules = list(expert.adapters)
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in expert.state_dict(keep_vars=True).items():
        part, _, rest = name.partition(".")
        if part == "_adapters":
            number, _, rest = rest.partition(".")
            part = modules[int(number)]
        elif part != "shared":
            continue
        if id(value) not in seen:
            seen.add(id(value))
            found[f"{part}.{rest}"] = value
    return found


def native_metadata(expert: Expert) -> dict[str, str]:
    """What must be known to build the adapters again before their state is loaded."""
    return {
        "ranks": json.dumps({module: adapter.rank for module, adapter in expert.adapters.items()})
    }


def native_adapters(
    path: Path, factors: Factors, base: Base, recipe: Recipe
) -> tuple[dict[str, Adapter], nn.Module | None]:
    """Adapters with the state in the file `path`, and what they share.

    Args:
        path: What `native_state` and `native_metadata` were written to.
        factors: The exact factors stored beside it, in the order of the modules.
        base: The base.
        recipe: Whose variant it is.

    Raises:
        ValueError: If the file is damaged, belongs to other settings, or is not of the same expert
            as `factors`.
    """
    assert recipe.adapter is not None
    assert recipe.spec is not None
    tensors = read_tensors(path)
    ranks = _stored_ranks(path)
    if set(ranks) != set(factors):
        raise ValueError(f"{path} is of another expert than adapter_model.safetensors beside it")
    dtype = trained_dtype(base)
    weights = {module: frozen_linear(base.trunk, module).weight for module in factors}
    # Names and shapes only: what decomposes W0 to start is not decomposed again to be overwritten.
    shapes = {module: torch.empty_like(value, device="meta") for module, value in weights.items()}
    adapters, shared = make_adapters(recipe, shapes, ranks, torch.Generator(), dtype)
    own = native_state(Expert("", adapters, None, shared=shared))
    _check_names(set(tensors), own, path)
    _check_shapes(tensors, own, path)
    for part in (*adapters.values(), *([] if shared is None else [shared])):
        part.to_empty(device=base.trunk.device)
    own = native_state(Expert("", adapters, None, shared=shared))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])
        for module, adapter in adapters.items():
            A, B = (side.to(weights[module].device, dtype) for side in factors[module])
            check_same(
                module, (A, B), adapter.delta(weights[module].to(dtype)), f"the state in {path}"
            )
    return adapters, shared


def _stored_ranks(path: Path) -> dict[str, int]:
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("ranks", "{}")
    ranks = guard.parse_json(text, f"{path}: ranks")
    if not isinstance(ranks, dict) or not all(
        type(rank) is int and 0 < rank <= MOST_RANKS for rank in ranks.values()
    ):
        raise ValueError(
            f"{path}: ranks: expected a number from 1 to {MOST_RANKS} by module, got {text[:80]}"
        )
    return ranks


def whole_modules(expert: Expert, base: Base) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Head and copies of base modules, by name below the task class; and the biases that are trained alone, by module.

    Modules outside the trunk are whole, with what in them is frozen, because PEFT loads whole modules. Of a copy that
    differs from the base's module in its bias alone only that is stored, where adapters are, as PEFT does.

    Raises:
        ValueError: If a copy under an adapter differs in more than its bias, which PEFT's format cannot say.
    """
    found: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    below = ""
    if expert.head is not None:
        below = expert.head.below
        found = expert.head.state()
        tops = {name.partition(".")[0] for name in found if not name.startswith(below)}
        found |= {
            name: value.detach().clone()
            for name, value in expert.head.module.named_parameters(remove_duplicate=False)
            if name.partition(".")[0] in tops and name not in found
        }
    for module, own in expert.copies.items():
        state = own.state_dict()
        if expert.adapters and _differ(own, original(base.trunk, module)) <= {"bias"}:
            biases[module] = state["bias"]
        elif module in expert.adapters:
            raise ValueError(
                f"{module} has an adapter and a trained copy of its weight, which PEFT's format cannot hold; train one"
            )
        else:
            found |= {f"{below}{module}.{name}": value for name, value in state.items()}
    return found, biases


def _differ(own: nn.Module, base: nn.Module) -> set[str]:
    """The parameters of a copy that are not the base's; all of them where it has no bias."""
    values = base.state_dict()
    if "bias" not in values:
        return {"weight"}
    return {name for name, v in own.state_dict().items() if not torch.equal(v, values[name].to(v))}


def take_copies(
    tensors: dict[str, Tensor],
    modules: Mapping[str, bool],
    base: Base,
    prefix: str,
    path: Path,
) -> dict[str, nn.Module]:
    """Private copies of base modules, their state taken out of `tensors`.

    Args:
        tensors: By name below the task class.
        modules: Which, and of each whether its bias may be all that is stored.
        base: The base.
        prefix: What the task class calls the trunk.
        path: The file, for errors.

    Raises:
        ValueError: If a tensor is missing or has another shape than the base's.
    """
    found: dict[str, nn.Module] = {}
    for module, alone in modules.items():
        twin = copy.deepcopy(original(base.trunk, module)).to(trained_dtype(base))
        below = f"{prefix}.{module}." if prefix else f"{module}."
        own = twin.state_dict()
        state = {
            name.removeprefix(below): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(below)
        }
        if alone and set(state) == {"bias"}:
            state = {**own, **state}
        _check_names(set(state), own, path, below)
        _check_shapes(state, own, path, below)
        twin.load_state_dict(state)
        found[module] = twin.requires_grad_(True)
    return found


def take_head(tensors: dict[str, Tensor], head: Head, path: Path) -> None:
    """Give `head` its trained state out of `tensors`; what differs from what the base brought becomes its own.

    Raises:
        ValueError: If a tensor is missing or has another shape.
    """
    own = dict(head.module.named_parameters(remove_duplicate=False))
    frozen = {n: v for n, v in tensors.items() if n in own and n not in head.trained_names()}
    ties = _ties_of(head)
    differing = set()
    for name, value in frozen.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"{path}: {name} is {tuple(value.shape)}, but a {head.kind_name} head of this base has "
                f"{tuple(own[name].shape)}"
            )
        if name not in ties and not torch.equal(own[name].detach().cpu().to(value.dtype), value):
            differing.add(name.rpartition(".")[0])
    head.own(differing)
    trained = head.trained_names()
    for name in _ties_of(head).keys() & tensors.keys():
        twin = tensors.get(ties_to := _ties_of(head)[name])
        if twin is not None and not torch.equal(twin, tensors[name]):
            raise ValueError(f"{path}: {name} and {ties_to} are one in this base, but differ here")
    for name in frozen.keys() - set(trained):
        del tensors[name]
    state = {name: tensors.pop(name) for name in trained if name in tensors}
    if tensors:
        raise ValueError(
            f"{path}: a {head.kind_name} head of this base has no tensor {sorted(tensors)[0]}"
        )
    try:
        head.load_state(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _ties_of(head: Head) -> dict[str, str]:
    """Other names of trained parameters, and their own: the same tensor twice in the task class."""
    own = dict(head.module.named_parameters(remove_duplicate=False))
    trained = head.trained_names()
    kept = {id(own[name]): name for name in trained}
    return {n: kept[id(v)] for n, v in own.items() if id(v) in kept and n not in trained}


def _check_names(found: set[str], own: Mapping[str, Tensor], path: Path, below: str = "") -> None:
    for name in sorted(set(own) - found):
        raise ValueError(f"{path}: lacks {below}{name}")
    for name in sorted(found - set(own)):
        raise ValueError(f"{path}: nothing of this expert is called {below}{name}")


def _check_shapes(
    found: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, below: str = ""
) -> None:
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"{path}: {below}{name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
            )
