"""An expert: a set of adapters, a head, and what the task is; all that one task owns on a shared base."""

import copy
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.base.loading import Base
from weft.base.quantised import whole
from weft.config import RecipeSettings, TrainingSettings
from weft.lowrank.attach import frozen_linear, original
from weft.lowrank.pool import Factors
from weft.lowrank.roles import resolve
from weft.lowrank.woven import Term, Woven
from weft.methods.adapters.contract import Adapter
from weft.methods.recipes import Recipe
from weft.model.head import Head, trained_dtype
from weft.registry import unknown

EMBEDDINGS = "embeddings"
NORMS = "norms"
LM_HEAD = "lm_head"
"""In `train_also`: the language-model head, which is no module of the trunk."""


class Expert(nn.Module):
    """Adapters by module name, private copies of base modules, and a head.

    Args:
        name: How routes call it.
        adapters: Adapter by the name of the linear map it sits on.
        head: The task's head; None for an expert that only lends its adapters.
        copies: Private copies of base modules by name.
        shared: State that the adapters share.
    """

    def __init__(
        self,
        name: str,
        adapters: Mapping[str, Adapter],
        head: Head | None,
        copies: Mapping[str, nn.Module] | None = None,
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.head = head
        self.shared = shared
        self._adapters = nn.ModuleList(adapters.values())
        self._copies = nn.ModuleList((copies or {}).values())
        self._adapter_names = tuple(adapters)
        self._copy_names = tuple(copies or {})

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Adapter by module name."""
        return dict(zip(self._adapter_names, self._adapters, strict=True))  # type: ignore[arg-type]

    @property
    def copies(self) -> dict[str, nn.Module]:
        """Private copy by module name."""
        return dict(zip(self._copy_names, self._copies, strict=True))

    def trained(self) -> dict[str, nn.Parameter]:
        """Every parameter that training changes, once, by a stable name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def terms(self, trunk: nn.Module, dtype: torch.dtype, *, trainable: bool) -> Mapping[str, Term]:
        """What the expert adds at the maps of `trunk`, by their names.

        Args:
            trunk: Has the frozen maps.
            dtype: Of exact factors.
            trainable: The adapters' own form; otherwise their exact factors, where they have any.
        """
        if trainable or not all(adapter.low_rank for adapter in self.adapters.values()):
            return self.adapters
        return {
            name: Factors(A.to(dtype).contiguous(), B.to(dtype).contiguous())
            for name, (A, B) in factors_of(self, trunk).items()
        }

    def woven(self, trunk: nn.Module, dtype: torch.dtype, *, trainable: bool) -> Woven:
        """All that a call which names the expert takes with it; arguments as of `terms`."""
        return Woven(self.terms(trunk, dtype, trainable=trainable), self.copies)

    def after_step(self, done: int, total: int) -> None:
        """Called after optimizer step `done` (from 1) of `total`."""

    def refuse_merging(self) -> None:
        """Raise a ValueError where no weights stand for this expert, with the reason."""

    def changing(self) -> dict[str, Tensor]:
        """Buffers that training changes, by name."""
        return {}

    @property
    def untrained(self) -> "Untrained":
        """What changes during training by no gradient."""
        return Untrained(self)

    def adapter_parameters(self) -> int:
        """Trained numbers in the adapters and what they share; the head is not counted."""
        parts: list[nn.Module] = [self._adapters, *([self.shared] if self.shared else [])]
        found = {id(p): p for part in parts for p in part.parameters() if p.requires_grad}
        return sum(p.numel() for p in found.values())


class Untrained:
    """The state of an expert that its parameters do not hold and training changes; nothing for most."""

    def __init__(self, expert: "Expert") -> None:
        self.buffers = expert.changing()

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.buffers)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.buffers.items():
            value.copy_(state[name])


def build(name: str, base: Base, recipe: Recipe, head: Head | None, seed: int) -> Expert:
    """A new expert as `recipe` starts it, on the frozen `base`.

    Raises:
        ValueError: If a target matches nothing, a rank exceeds its map, or a setting fits no target.
    """
    also = recipe.settings.train_also
    if LM_HEAD in also:
        if head is None:
            raise ValueError(
                "train_also: lm_head belongs to one task, and an expert that several share has none; train them apart"
            )
        head.thaw()
        also = [part for part in also if part != LM_HEAD]
    if recipe.adapter is None or recipe.spec is None:
        return Expert(name, {}, head, _copies(base, also))
    ranks = plan_ranks(base.trunk, recipe)
    weights = {module: frozen_linear(base.trunk, module).weight for module in ranks}
    for module, rank in ranks.items() if recipe.adapter.rank_bounded else ():
        check_rank(module, rank, tuple(weights[module].shape))
    generator = torch.Generator().manual_seed(seed)
    adapters, shared = make_adapters(recipe, weights, ranks, generator, trained_dtype(base))
    return Expert(name, adapters, head, _copies(base, also), shared)


def make_adapters(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    ranks: Mapping[str, int],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> tuple[dict[str, Adapter], nn.Module | None]:
    """An adapter of the recipe's variant on each of `weights`, and what they share, in `dtype`."""
    assert recipe.adapter is not None
    assert recipe.spec is not None
    shared = recipe.adapter.share(weights, recipe.spec, generator)
    if shared is not None:
        shared.to(next(iter(weights.values())).device, dtype)
    adapters = {
        module: recipe.adapter(
            weight, recipe.spec.model_copy(update={"rank": ranks[module]}), generator, shared
        ).to(dtype)
        for module, weight in weights.items()
    }
    return adapters, shared


def plan_ranks(trunk: PreTrainedModel, recipe: Recipe) -> dict[str, int]:
    """The rank of every adapted map by module name, after `ranks` and the recipe's plan."""
    assert recipe.spec is not None
    settings = recipe.settings
    modules = resolve(trunk, settings.targets or [], layers=settings.layers)
    wanted = dict.fromkeys(modules, recipe.spec.rank)
    own = {key: _of_this_expert(trunk, key, modules, settings) for key in settings.ranks or {}}
    # The key that names the fewest maps is the most particular, so it has the last word.
    for key in sorted(own, key=lambda key: len(own[key]), reverse=True):
        wanted.update(dict.fromkeys(own[key], (settings.ranks or {})[key]))
    weights = {module: frozen_linear(trunk, module).weight for module in modules}
    planned = recipe.plan.plan(weights, wanted)
    return {module: rank for module, rank in planned.items() if rank is not None}


def _of_this_expert(
    trunk: PreTrainedModel, key: str, modules: Sequence[str], settings: RecipeSettings
) -> list[str]:
    """Those of `modules` that a key of `ranks` means; it is written as a target is."""
    try:
        meant = set(resolve(trunk, key))
    except ValueError as error:
        raise ValueError(f"ranks: {error}") from None
    found = [module for module in modules if module in meant]
    if not found:
        raise ValueError(f"ranks: {unknown('target of this expert', key, settings.targets or [])}")
    return found


def check_rank(module: str, rank: int, shape: tuple[int, ...]) -> None:
    """Refuse a rank that the map cannot have.

    Raises:
        ValueError: If `rank` is over the smaller side of `shape`.
    """
    if rank > min(shape):
        raise ValueError(
            f"rank {rank} is larger than the layer: {module} is {shape[0]} x {shape[1]}, "
            f"so its rank is at most {min(shape)}"
        )


def _copies(base: Base, names: Sequence[str]) -> dict[str, nn.Module]:
    """Trained copies of the base modules that `train_also` names."""
    found: dict[str, nn.Module] = {}
    for module in train_also_modules(base.trunk, names):
        twin = whole(copy.deepcopy(original(base.trunk, module))).to(trained_dtype(base))
        found[module] = twin.requires_grad_(True)
    return found


def train_also_modules(trunk: nn.Module, names: Sequence[str]) -> list[str]:
    """The base modules that `train_also` names: `embeddings`, `norms`, a module's name or last part, `re:...`.

    Raises:
        ValueError: If a name matches nothing; lists what exists.
    """
    leaves = [
        name
        for name, module in trunk.named_modules()
        if name and not list(module.children()) and list(module.parameters(recurse=False))
    ]
    leaves = [".".join(part for part in name.split(".") if part != "base") for name in leaves]
    chosen: dict[str, None] = {}
    for name in names:
        matched = [leaf for leaf in leaves if _matches(trunk, leaf, name)]
        if not matched:
            ends = sorted(
                {leaf.rpartition(".")[2] for leaf in leaves} | {EMBEDDINGS, NORMS, LM_HEAD}
            )
            raise ValueError(f"train_also: {unknown('module of the base', name, ends)}")
        chosen.update(dict.fromkeys(matched))
    return list(chosen)


def _matches(trunk: nn.Module, leaf: str, name: str) -> bool:
    module = original(trunk, leaf)
    if name == EMBEDDINGS:
        return isinstance(module, nn.Embedding)
    if name == NORMS:
        return "norm" in type(module).__name__.lower()
    if name.startswith("re:"):
        return re.fullmatch(name[3:], leaf) is not None
    return leaf == name or leaf.endswith(f".{name}")


def check_head_settings(head: Head, training: TrainingSettings) -> None:
    """Refuse training settings that this head's loss does not have.

    Raises:
        ValueError: If labels are to be smoothed where the loss is no cross-entropy, or the kind cannot be trained so.
    """
    head.kind.check_training(training)
    classes = head.module.config.num_labels
    if training.label_smoothing and head.kind_name == "sequence_classification" and classes == 1:
        raise ValueError("label_smoothing: a regression has no classes to smooth; set it to 0")


def factors_of(expert: Expert, trunk: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """`(A', B')` of every adapter by module name: `W_eff = W0 + B' @ A'`, exactly.

    Raises:
        NotLowRank: If the variant has none.
    """
    with torch.no_grad():
        return {
            name: adapter.factors(frozen_linear(trunk, name).weight)
            for name, adapter in expert.adapters.items()
        }
