"""Experts that others trained, as weft keeps its own."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from weft.base.loading import Base
from weft.config import RecipeSettings
from weft.lowrank.checkpoint import PeftFolder
from weft.methods.recipes import resolve
from weft.model.expert import Card, Expert
from weft.storage.tensors import plain_adapters


def recipe_of(peft: PeftFolder, copied: Iterable[str] = ()) -> RecipeSettings:
    """LoRA or DoRA with the folder's ranks; scales that differ by module are kept by the adapters."""
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
    recipe = recipe_of(peft)
    adapters = plain_adapters(peft, peft.factors, base, resolve(recipe), where)
    own = replace(card, recipe=recipe.model_dump(mode="json"), targets=tuple(adapters), metrics={})
    return Expert(name, adapters, owner.head), own
