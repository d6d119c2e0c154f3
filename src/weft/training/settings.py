"""A run, completed once: what the user said becomes settings that say everything."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.config import MixtureSettings, RecipeSettings, Run, load_run
from weft.methods.gates.settings import Spec
from weft.model.mixing import HEAD_ONLY, method_of
from weft.storage.ingredients import parts_of, tasks_of


def mix_config(runs: Sequence[str | Path], mixture: str, overrides: Sequence[str] = ()) -> Run:
    """The settings of a run that mixes the experts of `runs`.

    Base, tasks and data are theirs; so are precision and seed, where they agree.

    Args:
        runs: Run folders, each with one expert or several.
        mixture: A file of `mixtures/`.
        overrides: `a.b=c` settings on top, e.g. `mixture.top_k=2`.

    Raises:
        ValueError: If there is no run, or the runs have different bases.
    """
    if not runs:
        raise ValueError("no expert to mix; give the run folders of at least one expert")
    trained = [part.run for part in parts_of([str(run) for run in runs])]
    bases = {(run.base, run.revision) for run in trained}
    if len(bases) > 1:
        names = ", ".join(sorted(base for base, _ in bases))
        raise ValueError(f"experts of different bases cannot be mixed: {names}; mix those of one")
    precisions = {run.training.precision for run in trained}
    seeds = {run.seed for run in trained}
    base, revision = bases.pop()
    values: dict[str, Any] = {
        "base": base,
        "revision": revision,
        "mixture": {"name": mixture, "runs": [str(run) for run in runs]},
        "training": {"precision": precisions.pop()} if len(precisions) == 1 else {},
        **({"seed": seeds.pop()} if len(seeds) == 1 else {}),
    }
    return load_run(values, list(overrides))


def with_mixture(run: Run) -> Run:
    """A mixture's run with its tasks, its method's settings and its rate written out; others as they are."""
    if run.mixture is None:
        return run
    if run.recipe != RecipeSettings() and run.recipe.name != HEAD_ONLY:
        raise ValueError(
            f"recipe {run.recipe.name}: a mixture's experts are trained as `mixture` says; remove the recipe"
        )
    kind, spec = method_of(run.mixture)
    chosen = [run.task] if run.task else run.tasks
    tasks = tasks_of(run.mixture.runs, chosen) if run.mixture.runs else chosen
    rate = run.training.learning_rate or kind.learning_rate
    return run.model_copy(
        update={
            "task": None,
            "tasks": tasks,
            "recipe": RecipeSettings(name=HEAD_ONLY),
            "mixture": described(run.mixture, spec),
            "training": run.training.model_copy(update={"learning_rate": rate}),
        }
    )


def described(settings: MixtureSettings, spec: Spec) -> MixtureSettings:
    """The settings with every default of the method written out, and where the runs are."""
    runs, beside = (
        [str(Path(run).expanduser().resolve()) for run in own]
        for own in (settings.runs, settings.beside)
    )
    own = spec.model_dump(mode="json")
    return MixtureSettings(name=settings.name, runs=runs, beside=beside, **own)
