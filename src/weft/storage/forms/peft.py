"""The expert's own folder, which PEFT opens; of a mixture its X-LoRA folder; or the nearest plain LoRA of a rank."""

import shutil
from dataclasses import replace
from pathlib import Path

from weft.atomic import atomic_folder
from weft.config import RecipeSettings
from weft.lowrank.peft.writing import CONFIG
from weft.methods.adapters import adapters
from weft.methods.recipes import recipe_file, resolve
from weft.model.factoring import (
    approximated,
    cut,
    is_nested,
    plain_recipe,
    without_intruders,
)
from weft.storage.experts import save_expert
from weft.storage.forms.contract import Form, Wanted
from weft.storage.links import refuse_links
from weft.storage.loading import load_run_model
from weft.storage.xlora import export_xlora


class Peft(Form):
    """Files of PEFT's format."""

    options = frozenset({"rank"})
    mixtures = True
    encoders = True

    def check(self, wanted: Wanted) -> None:
        super().check(wanted)
        if wanted.is_mixture:
            if wanted.rank is not None:
                raise ValueError(
                    f"{wanted.run.path} holds a mixture, which changes with its input: it has no merged form and no "
                    "LoRA near it; export it to peft without a rank"
                )
            return
        if not (wanted.run.expert / CONFIG).is_file():
            trained = "every weight" if wanted.is_whole else "a head alone"
            raise ValueError(
                f"{wanted.run.expert} trained {trained}, which PEFT's LoRA format cannot hold; export it to merged"
            )
        if wanted.mitigate_intruders is not None and wanted.rank is None:
            _check_factors(wanted)

    def write(self, wanted: Wanted, folder: Path) -> None:
        if wanted.is_mixture:
            export_xlora(wanted.run.path, folder)
        elif wanted.rank is not None:
            _write_near(wanted, folder, wanted.rank)
        elif wanted.user is not None and wanted.mitigate_intruders is None:
            loaded = wanted.load()
            own = loaded.model.expert(loaded.name)
            save_expert(own, loaded.card, loaded.model.base, folder)
        elif wanted.mitigate_intruders is not None:
            _write_mitigated(wanted, folder)
        else:
            refuse_links(wanted.run.expert)
            with atomic_folder(folder) as draft:
                shutil.copytree(wanted.run.expert, draft, dirs_exist_ok=True)


def _check_factors(wanted: Wanted) -> None:
    name = wanted.card.recipe["name"]
    adapter = recipe_file(name).adapter
    if adapter is not None and not adapters.load(adapter).low_rank:
        raise ValueError(
            f"{wanted.run.expert}: recipe {name} changes weights by more than low-rank factors, and so does what is "
            "left when intruders are shrunk; give the rank of the nearest plain LoRA as --rank, or export it to "
            "merged, which is exact"
        )


def _write_mitigated(wanted: Wanted, folder: Path) -> None:
    loaded = wanted.load()
    own = loaded.model.expert(loaded.name)
    recipe = plain_recipe({module: adapter.rank for module, adapter in own.adapters.items()})
    recipe = recipe.model_copy(update={"train_also": list(own.copies)})
    card = replace(loaded.card, recipe=recipe.model_dump(mode="json"))
    save_expert(own, card, loaded.model.base, folder)


def _write_near(wanted: Wanted, folder: Path, rank: int) -> None:
    loaded = (
        wanted.load() if wanted.user is not None else load_run_model(wanted.run.path, device="cpu")
    )
    near, metrics, alpha = loaded.model.expert(loaded.name), loaded.card.metrics, float(rank)
    nested = is_nested(near)
    if nested:
        cut(near, rank)
        # The scores on the card are those of all ranks.
        metrics, alpha = {}, float(loaded.card.recipe["alpha"])
    if wanted.mitigate_intruders is not None:
        near, count = without_intruders(near, loaded.model.trunk, wanted.mitigate_intruders)
        metrics, alpha, nested = {"mitigated_intruders": count}, float(rank), False
    if not nested:
        near, error = approximated(near, loaded.model.trunk, rank)
        metrics = metrics | {"approximation_error": error}
    recipe = RecipeSettings(
        name="lora",
        targets=list(near.adapters),
        train_also=list(near.copies),
        modules=list(near.adapters),
        **{"rank": rank, "alpha": alpha},
    )
    card = replace(
        loaded.card, recipe=resolve(recipe).describe().model_dump(mode="json"), metrics=metrics
    )
    save_expert(near, card, loaded.model.base, folder)
