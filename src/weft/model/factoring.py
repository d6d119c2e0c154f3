"""Experts as exact low-rank factors: several added up, the nearest plain LoRA of one without, intruders shrunk."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from weft.config import RecipeSettings
from weft.lowrank.attach import frozen_linear
from weft.lowrank.intruders import Decomposed, mitigated
from weft.lowrank.product import truncated
from weft.lowrank.start import svd, wide
from weft.methods.adapters.lora import LoRA
from weft.methods.adapters.lora import Spec as LoRASpec
from weft.methods.merges.cat import Cat
from weft.methods.merges.contract import Merge
from weft.methods.recipes import resolve
from weft.model.expert import Expert, check_rank, factors_of
from weft.model.head import Head


def merged(
    name: str, owners: Sequence[Expert], trunk: nn.Module, merge: Merge, weights: Sequence[float]
) -> tuple[Expert, float]:
    """One expert without a head made of several, and how far it is from their exact weighted sum.

    Args:
        name: How routes call it.
        owners: The experts; none with private copies of base modules.
        trunk: Has the frozen maps.
        merge: The method.
        weights: One an expert.
    """
    found = merge.merge([factors_of(owner, trunk) for owner in owners], weights)
    adapters = {module: lora_of(A, B) for module, (A, B) in found.factors.items()}
    return Expert(name, adapters, None), found.error


def added(name: str, owners: Sequence[Expert], head: Head | None, trunk: nn.Module) -> Expert:
    """One expert whose factors are those of several, one under the other: their exact sum."""
    together, _ = merged(name, owners, trunk, Cat(), [1.0] * len(owners))
    copies = {module: copy for owner in owners for module, copy in owner.copies.items()}
    return Expert(name, together.adapters, head, copies)


def approximated(expert: Expert, trunk: nn.Module, rank: int) -> tuple[Expert, float]:
    """The nearest plain LoRA of a rank, for variants that have no exact one, and how far it is.

    Returns:
        The expert, with the same head and copies, and the distance of its change of the weights
        from the true one as a share of the latter (Frobenius, over all maps together): 0 is exact.

    Raises:
        ValueError: If the rank is larger than a map.
    """
    adapters, missed, whole = {}, 0.0, 0.0
    with torch.no_grad():
        for module, adapter in expert.adapters.items():
            weight = frozen_linear(trunk, module).weight
            check_rank(module, rank, tuple(weight.shape))
            delta = adapter.delta(wide(weight))
            U, S, Vh = svd(delta)
            root = S[:rank].sqrt()
            adapters[module] = lora_of(root[:, None] * Vh[:rank], U[:, :rank] * root)
            missed += S[rank:].square().sum().item()
            whole += S.square().sum().item()
    near = Expert(expert.name, adapters, expert.head, expert.copies)
    return near, (missed / whole) ** 0.5 if whole else 0.0


def without_intruders(expert: Expert, trunk: nn.Module, shrink: float) -> tuple[Expert, int]:
    """The expert with the intruder dimensions of its changed weights shrunk, and how many those are.

    Factors have the expert's ranks and one more for each intruder, so they are exact; a variant that has none of its
    own becomes its whole change, in as many ranks as that has.

    Args:
        expert: Has adapters.
        trunk: Has the frozen maps.
        shrink: What of an intruder stays, 0 to 1.
    """
    adapters, count = {}, 0
    with torch.no_grad():
        for module, adapter in expert.adapters.items():
            weight = wide(frozen_linear(trunk, module).weight)
            if adapter.low_rank:
                A, B = (side.to(weight) for side in adapter.factors(weight))
            else:
                B = adapter.delta(weight)
                A = torch.eye(B.shape[1], dtype=B.dtype, device=B.device)
            pair, own = mitigated(Decomposed.of(weight), (A, B), shrink=shrink)
            if len(pair[0]) > min(weight.shape):
                pair = truncated(*pair, min(weight.shape))
            adapters[module] = lora_of(*pair)
            count += own
    return Expert(expert.name, adapters, expert.head, expert.copies), count


def is_nested(expert: Expert) -> bool:
    """Whether the first ranks of every adapter are an adapter of their own."""
    own = expert.adapters.values()
    return bool(own) and all(adapter.nests for adapter in own)


def cut(expert: Expert, rank: int) -> None:
    """Leave the first `rank` ranks of an expert whose ranks are nested, for good; smaller maps stay as they are.

    Raises:
        ValueError: If its ranks are not nested, or it has fewer.
    """
    if not is_nested(expert):
        names = sorted({type(adapter).__name__ for adapter in expert.adapters.values()})
        held = f"its {', '.join(names)} adapters were" if names else "it was"
        raise ValueError(
            f"rank {rank}: {held} not trained to answer with fewer ranks; leave `rank` away, or train with recipe "
            "dylora"
        )
    most = max(adapter.rank for adapter in expert.adapters.values())
    if not 1 <= rank <= most:
        raise ValueError(f"rank {rank}: expected 1 to {most}, which the expert was trained with")
    for adapter in expert.adapters.values():
        adapter.truncate(min(rank, adapter.rank))


def plain_recipe(ranks: Mapping[str, int]) -> RecipeSettings:
    """Of adapters as `lora_of` makes them: plain LoRA of these ranks by map, its scale 1."""
    most = max(ranks.values())
    lora = RecipeSettings(
        name="lora",
        targets=list(ranks),
        ranks={module: rank for module, rank in ranks.items() if rank != most} or None,
        modules=list(ranks),
        **{"rank": most, "alpha": float(most), "dropout": 0.0},
    )
    return resolve(lora).describe().model_copy(update={"modules": list(ranks)})


def lora_of(A: Tensor, B: Tensor) -> LoRA:
    """A plain LoRA with these factors and scale 1."""
    return LoRA.of(A.clone(), B.clone(), LoRASpec(rank=A.shape[0], alpha=float(A.shape[0])))
