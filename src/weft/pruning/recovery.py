"""Recovery: from an expert of a pruned base to one of the whole base.

    B_R = S_out B,    A_R = A S_in^T,    dW_R = s B_R A_R

Rows of B and columns of A that were pruned come back as 0, so the change of the weight is 0 there
and elsewhere what was trained (Zhang et al. 2025, arXiv:2502.13533). The scale, the head and trained
copies of modules that were not pruned stay as they are. A plain LoRA stays what it is; any other
variant with exact factors becomes a plain LoRA of those factors.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from weft.atomic import atomic_folder, write_text
from weft.base.digest import checkpoint_digest
from weft.base.loading import Base, load_base
from weft.base.locate import checkpoint_files, is_here, locate
from weft.config import RecipeSettings, to_yaml
from weft.lowrank.attach import frozen_linear
from weft.lowrank.peft.writing import PeftFolder
from weft.methods.recipes import file_of, resolve
from weft.model.expert import Expert, factors_of
from weft.pruning.record import FILE, Pruning, read_pruning
from weft.pruning.units import groups_of
from weft.runs import CONFIG, RunFolder
from weft.storage.card import refuse_files
from weft.storage.experts import head_of, save_expert, versions
from weft.storage.loading import LoadedRun, load_run_model
from weft.storage.tensors import exact_state, is_plain, plain_adapters, plain_state

Places = dict[str, dict[str, Tensor]]
"""By pruned map and side (out, in): the rows or columns that stayed; no side where all did."""


def recover(
    run: str | Path,
    out: str | Path,
    *,
    base: str,
    revision: str | None = None,
    pruned: str | Path | None = None,
) -> Path:
    """Make a run folder for the whole base of one that was trained on a pruned copy.

    Args:
        run: The run folder of one task.
        out: The run folder to write; must not exist. Scores are not carried over: they are the
            pruned base's.
        base: The whole base: an alias, a hub id or a folder.
        revision: Branch, tag or commit; for bases on the hub only.
        pruned: The folder that `prune` wrote, where the run's base is a copy of it that was trained
            further; None takes the run's base.

    Returns:
        `out`.

    Raises:
        NotLowRank: If the expert's variant has no exact factors, with the reason.
        ValueError: If `out` exists, or run, pruned base and whole base do not belong together, or
            the run trained no adapters, or a copy of a pruned module.
    """
    run_folder = RunFolder(Path(out))
    run_folder.refuse_existing()
    loaded = load_run_model(run, device="cpu")
    refuse_files(
        loaded.card,
        run,
        "its encoders learned the pruned base's width and states; train on the whole base",
    )
    small, expert = loaded.model.base, loaded.model.expert(loaded.name)
    _check_expert(loaded, run)
    pruning = _pruning_of(small, pruned)
    full = load_base(base, revision=revision, dtype=small.trunk.dtype)
    if full.digest != pruning.base_digest:
        raise ValueError(
            f"{base} (digest {full.digest}) is not the base that was pruned: that is "
            f"{pruning.base} (digest {pruning.base_digest})"
        )
    places = _places(pruning, full)
    lost = sorted(set(expert.copies) & {*places, *pruning.masked})
    if lost:
        raise ValueError(
            f"{run} trained a copy of {lost[0]}, which is pruned: its missing weights have no "
            "trained value; train without it in train_also"
        )
    state = plain_state(expert, {}) if is_plain(expert) else exact_state(expert, small, {})
    state = _scattered(state, places, full)
    recipe = _recipe(loaded, state)
    settings = resolve(recipe)
    adapters = plain_adapters(state, state.factors, full, settings, RunFolder(Path(run)).expert)
    head = head_of(loaded.card, full, RunFolder(Path(run)).expert)
    if head is not None and expert.head is not None:
        head.load_state(expert.head.state())
    card = replace(
        loaded.card,
        recipe=recipe.model_dump(mode="json"),
        base=full.name,
        source=full.source,
        revision=full.revision,
        digest=full.digest,
        versions=versions(),
        metrics={},
    )
    told = {
        "base": full.source if is_here(base) else base,
        "revision": full.revision,
        "recipe": recipe,
        # An expert of the pruned base, which a run on the whole one cannot start from.
        "init_from": None,
    }
    with atomic_folder(run_folder.path) as draft:
        write_text(draft / CONFIG, to_yaml(loaded.run.model_copy(update=told)))
        whole = Expert(expert.name, adapters, head, expert.copies)
        save_expert(whole, card, full, RunFolder(draft).expert)
    return run_folder.path


def _check_expert(loaded: LoadedRun, run: str | Path) -> None:
    """Refuse a run without adapters, or without their exact factors."""
    expert = loaded.model.expert(loaded.name)
    if not expert.adapters:
        whole = file_of(RecipeSettings(**loaded.card.recipe)).trains == "base"
        raise ValueError(
            f"{run} trained {'every weight' if whole else 'a head alone'}, so there is no adapter to "
            "recover; train with recipe loram"
        )
    if not all(adapter.low_rank for adapter in expert.adapters.values()):
        factors_of(expert, loaded.model.trunk)


def _pruning_of(small: Base, pruned: str | Path | None) -> Pruning:
    """How the base of a run was pruned."""
    if pruned is None:
        folder, _, _ = locate(small.source, small.revision)
    else:
        folder = Path(pruned)
    pruning = read_pruning(folder)
    found = checkpoint_digest(checkpoint_files(folder))
    if found != pruning.digest:
        raise ValueError(
            f"{folder} holds another checkpoint (digest {found}) than {FILE} says (digest "
            f"{pruning.digest}); where it was trained further, give the folder that `weft prune` "
            "wrote as well"
        )
    return pruning


def _places(pruning: Pruning, full: Base) -> Places:
    """The rows and columns of the whole base that stayed."""
    found: Places = {}
    if pruning.kind != "structured":
        return found
    for group in groups_of(full.trunk):
        if group.what not in pruning.kept:
            continue
        stayed = torch.tensor(pruning.kept[group.what].get(group.layer, []), dtype=torch.long)
        if not len(stayed) or stayed[-1] >= group.units:
            raise ValueError(
                f"{FILE} does not say which {group.what} of layer {group.layer} stayed, from 0 to "
                f"{group.units - 1}"
            )
        for cut in group.cuts:
            found.setdefault(cut.module, {})[cut.side] = cut.places(stayed, group.units)
    return found


def _scattered(state: PeftFolder, places: Places, full: Base) -> PeftFolder:
    """The factors in the shapes of the whole base, 0 where it was pruned."""
    factors = {}
    for module, (A, B) in state.factors.items():
        sides = places.get(module, {})
        linear = frozen_linear(full.trunk, module)
        factors[module] = (
            _spread(A.T, sides.get("in"), linear.in_features, module).T.contiguous(),
            _spread(B, sides.get("out"), linear.out_features, module),
        )
    return replace(state, factors=factors)


def _spread(rows: Tensor, places: Tensor | None, count: int, module: str) -> Tensor:
    """`rows` at their `places` among `count`, the others 0."""
    if len(rows) != (count if places is None else len(places)):
        raise ValueError(
            f"the expert's {module} has {len(rows)} rows or columns, but "
            f"{count if places is None else len(places)} stayed in the pruned base"
        )
    if places is None:
        return rows.clone()
    return rows.new_zeros(count, rows.shape[1]).index_copy(0, places, rows)


def _recipe(loaded: LoadedRun, state: PeftFolder) -> RecipeSettings:
    """The run's own recipe where it is plain; else plain LoRA with the ranks of the factors."""
    own = RecipeSettings(**loaded.card.recipe)
    if is_plain(loaded.model.expert(loaded.name)):
        return own
    ranks = {module: A.shape[0] for module, (A, _) in state.factors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    lora = RecipeSettings(
        name="lora",
        targets=list(ranks),
        ranks={module: one for module, one in ranks.items() if one != rank} or None,
        train_also=own.train_also,
        modules=list(ranks),
        **{"rank": rank, "alpha": float(rank)},
    )
    return resolve(lora).describe()
