"""Experts that others trained, as weft keeps its own."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from weft.base.loading import Base
from weft.config import RecipeSettings
from weft.lowrank.attach import frozen_linear
from weft.lowrank.peft.config import REPEATED_STARTS
from weft.lowrank.peft.forms import Projections
from weft.lowrank.peft.writing import CONFIG, PeftFolder
from weft.methods.adapters.contract import Adapter
from weft.methods.recipes import HEAD_ONLY, resolve
from weft.model.card import Card
from weft.model.expert import Expert, make_adapters
from weft.model.head import trained_dtype
from weft.storage.tensors import plain_adapters

Adapters = tuple[RecipeSettings, Mapping[str, Adapter], nn.Module | None]
"""A recipe with all its settings, its adapters by module, and what they share."""


def adapters_of(peft: PeftFolder, base: Base, where: Path, copied: Iterable[str] = ()) -> Adapters:
    """What a folder of PEFT trained on the trunk's linear maps.

    Args:
        peft: The folder.
        base: The base it was trained on.
        where: What errors call the source.
        copied: Modules of the trunk that it trained a copy of.

    Raises:
        ValueError: If it belongs to another base.
    """
    if peft.projections is not None:
        return _vera(peft.projections, peft, base, where, copied)
    peft = _with_start(peft, base)
    recipe = recipe_of(peft, copied)
    if not peft.factors:
        return recipe, {}, None
    return recipe, plain_adapters(peft, peft.factors, base, resolve(recipe), where), None


def recipe_of(peft: PeftFolder, copied: Iterable[str] = ()) -> RecipeSettings:
    """LoRA or DoRA with the folder's ranks; scales that differ by module are kept by the adapters."""
    if not peft.factors:
        return resolve(RecipeSettings(name=HEAD_ONLY)).describe()
    ranks = {module: A.shape[0] for module, (A, _) in peft.factors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(peft.alphas.values()).most_common(1)[0][0]
    settings = RecipeSettings(
        name="dora" if peft.magnitudes else "lora",
        targets=list(peft.factors),
        ranks={module: own for module, own in ranks.items() if own != rank} or None,
        train_also=list(copied),
        modules=list(peft.factors),
        **{"rank": rank, "alpha": float(alpha)},
    )
    return resolve(settings).describe()


def adopted(
    name: str, peft: PeftFolder, base: Base, head: tuple[Expert, Card], where: Path
) -> tuple[Expert, Card]:
    """A LoRA's factors as an expert of weft, with its card.

    Args:
        name: How routes call it.
        peft: The factors.
        base: The base they belong to.
        head: An expert with the head that answers, and its card.
        where: What errors call the source.
    """
    owner, card = head
    recipe, adapters, shared = adapters_of(peft, base, where)
    own = replace(card, recipe=recipe.model_dump(mode="json"), targets=tuple(adapters), metrics={})
    return Expert(name, adapters, owner.head, shared=shared), own


def _with_start(peft: PeftFolder, base: Base) -> PeftFolder:
    """Factors that fit the base as published, of those that were trained beside what their start left of it.

    PiSSA starts from the largest singular values of W0 and takes their product from it, OLoRA from the first columns
    of its QR decomposition, scaled: W0 - s0 B0 A0 + s B A is W0 plus a product of twice the rank. PEFT does the same
    with the base that it is given.
    """
    start = peft.config.get("init_lora_weights")
    if start not in REPEATED_STARTS:
        return peft
    factors, alphas = {}, {}
    for module, (A, B) in peft.factors.items():
        rank = A.shape[0]
        scaling = peft.alphas[module] / rank
        W0 = frozen_linear(base.trunk, module).weight.detach().float()
        if start == "pissa":
            U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
            A0, B0 = Vh[:rank], U[:, :rank] * S[:rank]
        else:
            Q, R = torch.linalg.qr(W0)
            A0, B0 = R[:rank], scaling * Q[:, :rank]
        both = torch.cat([A.float(), A0]), torch.cat([scaling * B.float(), -B0], dim=1)
        factors[module], alphas[module] = both, float(2 * rank)
    return replace(peft, factors=factors, alphas=alphas)


def _vera(
    stored: Projections, peft: PeftFolder, base: Base, where: Path, copied: Iterable[str]
) -> Adapters:
    """A VeRA of weft with PEFT's vectors and projections; projections that were not saved are drawn again."""
    rank = int(peft.config["r"])
    seed = peft.config.get("projection_prng_key") or 0
    modules = list(stored.b)
    settings = RecipeSettings(
        name="vera",
        targets=modules,
        train_also=list(copied),
        modules=modules,
        **{"rank": rank, "projection_seed": seed},
    )
    recipe = resolve(settings)
    weights = {module: frozen_linear(base.trunk, module).weight for module in modules}
    ranks, dtype = dict.fromkeys(modules, rank), trained_dtype(base)
    adapters, shared = make_adapters(recipe, weights, ranks, torch.Generator(), dtype)
    assert shared is not None
    if (stored.A is None) != (stored.B is None):
        raise ValueError(f"{where}: holds one of vera_A and vera_B, but not the other")
    state: dict[str, tuple[Tensor, Tensor]] = {}
    if stored.A is not None and stored.B is not None:
        state |= {
            "vera_A": (shared.get_buffer("A"), stored.A),
            "vera_B": (shared.get_buffer("B"), stored.B),
        }
    elif peft.config.get("save_projection", True):
        raise ValueError(
            f"{where / CONFIG}: save_projection is on, but vera_A and vera_B are missing"
        )
    for module, adapter in adapters.items():
        state[f"{module}.vera_lambda_b"] = (adapter.get_parameter("b"), stored.b[module])
        state[f"{module}.vera_lambda_d"] = (adapter.get_parameter("d"), stored.d[module])
    with torch.no_grad():
        for name, (own, theirs) in state.items():
            if own.shape != theirs.shape:
                raise ValueError(
                    f"{where}: {name} is {tuple(theirs.shape)}, but on this base it is {tuple(own.shape)}; the folder "
                    "belongs to another base"
                )
            own.copy_(theirs)
    return recipe.describe(), adapters, shared
