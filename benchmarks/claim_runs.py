"""The runs behind `variant_claims.py`: small ones on WNUT17, each at the best of its own rates.

A rate is looked for on rows held out of train, in the grid of `variant_scores.py`: with the first seed, and the two
best of these with all, since the largest rate that one seed survives can be beyond what others do; where one of the
seeds is lost all the same, the next lower rate is taken (`Study.each`). A run lies in a folder named by its settings'
digest: a finished one is never repeated, an interrupted one goes on.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from machine import half
from merge_runs import FORMS, trained
from variant_scores import SPREAD, WIDENED, last_loss, lowest_of, rounded
from weft.comparison.comparing import examples_of, predictions_of
from weft.comparison.jobs import Diverged, score_of
from weft.config import RecipeSettings, Run
from weft.methods.recipes import resolve
from weft.runs import RunFolder
from weft.tasks.contract import Prediction
from weft.tasks.scoring import LEVEL, RESAMPLES, holm, mean_difference

QV = ["query", "value"]
ROWS, FEW, SCORED = 1000, 500, 600
"""Training rows, those of the claim about few, and rows that are scored; all drawn from the published splits."""
EPOCHS = 3
NOISE = 0.05
"""Share of the words whose tag is another."""
METRIC = "f1"
HEAD, HEAD_RATE = {"name": "head", "targets": None}, 0.027
"""What learns least, at the rate that results/variants-wnut17.json found for it."""
TRAINING: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 16,
    "precision": half(),
    "base_dropout": 0.0,
}


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the tests' are tiny."""

    rows: int = ROWS
    few: int = FEW
    scored: int = SCORED
    epochs: float = EPOCHS
    spread: Sequence[float] = SPREAD
    """Times a recipe's lowest rate: those that are tried first."""


@dataclass(frozen=True)
class Study:
    """Where data and runs are, and which seeds."""

    data: Path
    runs: Path
    seeds: Sequence[int] = (0, 1, 2)
    sizes: Sizes = field(default_factory=Sizes)

    def each(
        self, what: str, recipe: Mapping[str, Any], *, rate: float, **values: Any
    ) -> list[RunFolder]:
        """One run a seed, at the largest of the rate, its third and its ninth that no seed is lost at.

        A seed is lost that has learnt less of its own rows than a head alone does; where one is at all three rates, the
        one counts at which the worst seed learns most. The head keeps the rate that was asked for: what breaks is the
        adapters, and at a ninth of its rate a head learns nothing in as many steps.
        """
        head = self.run("head", HEAD, self.seeds[0], rate=HEAD_RATE, **values)
        limit, tried = last_loss(head), {}
        of_head = resolve(RecipeSettings(**recipe)).head_learning_rate or rate
        for factor in (1, 3, 9):
            own = values if factor == 1 else {"head_learning_rate": of_head, **values}
            try:
                runs = [
                    self.run(what, recipe, seed, rate=rounded(rate / factor), **own)
                    for seed in self.seeds
                ]
            except Diverged as error:
                print(error, flush=True)
                continue
            worst = max(last_loss(run) for run in runs)
            tried[worst] = runs
            if worst <= limit:
                break
        return tried[min(tried)]

    def run(
        self,
        what: str,
        recipe: Mapping[str, Any],
        seed: int,
        *,
        rate: float,
        rows: str = "plain",
        **training: Any,
    ) -> RunFolder:
        """One run, trained if it is not there.

        Args:
            what: Its folder.
            recipe: Name and settings; on query and value unless it says more.
            seed: Of the run.
            rate: Of the adapters and the head.
            rows: `plain`, `noisy` (5 % of the tags are wrong) or `few`.
            training: Other settings of the training.

        Raises:
            Diverged: If its numbers are none any more.
        """
        settings = TRAINING | {"epochs": self.sizes.epochs, "learning_rate": rate} | training
        run = Run.model_validate(
            {
                "base": "minilm",
                "device": "cpu",
                "seed": seed,
                "task": {"name": "wnut17", "data": str(self._data(rows))},
                "recipe": {"targets": QV, **recipe},
                "training": settings,
            }
        )
        return trained(self.runs / what / f"seed{seed}", run)

    def rate(self, recipe: Mapping[str, Any], **training: Any) -> float:
        """The best rate of a recipe by rows held out of train.

        Args:
            recipe: Name and settings.
            training: Settings of the training that the rate is for: a longer one wants another.
        """

        def score(rate: float, seed: int) -> float:
            what = f"search/{recipe['name']}"
            try:
                run = self.run(what, recipe, seed, rate=rate, evaluate_on="holdout", **training)
            except Diverged:
                return -math.inf
            return score_of(run.path, METRIC)["value"]

        lowest = lowest_of(recipe["name"])
        first = {
            rate: score(rate, self.seeds[0])
            for rate in (rounded(lowest * factor) for factor in self.sizes.spread)
        }
        means = {
            rate: mean([score(rate, seed) for seed in self.seeds])
            for rate in sorted(first, key=lambda rate: -first[rate])[:2]
        }
        best = max(means, key=lambda rate: means[rate])
        for _ in range(WIDENED if len(first) > 1 else 0):
            tried = {*first, *means}
            if min(tried) < best < max(tried):
                break
            beyond = rounded(3 * best if best == max(tried) else best / 3)
            means[beyond] = mean([score(beyond, seed) for seed in self.seeds])
            best = max(means, key=lambda rate: means[rate])
        return best

    def _data(self, rows: str) -> Path:
        size = self.sizes.few if rows == "few" else self.sizes.rows
        folder = self.runs / "data" / f"{rows}-{size}-{self.sizes.scored}"
        if not folder.is_dir():
            self._write(folder, size, NOISE if rows == "noisy" else 0.0)
        return folder

    def _write(self, folder: Path, size: int, noise: float) -> None:
        read, write = FORMS["wnut17"]
        folder.mkdir(parents=True)
        for split, limit in (("train", size), ("validation", self.sizes.scored)):
            rows, name = read(self.data, split)
            drawn = np.random.default_rng(0).permutation(len(rows))[:limit].tolist()
            kept = [rows[at] for at in sorted(drawn)]
            write(folder / name, _noisy(kept, noise) if split == "train" else kept)


def _noisy(rows: Sequence[Sequence[str]], share: float) -> list[list[str]]:
    """Sentences of which a share of the words have another tag, drawn from those there are."""
    rng = random.Random(0)
    pairs = [[line.split("\t") for line in lines] for lines in rows]
    tags = sorted({pair[1] for lines in pairs for pair in lines})

    def tag(own: str) -> str:
        return rng.choice([t for t in tags if t != own]) if rng.random() < share else own

    return [["\t".join((word, tag(own))) for word, own, *_ in lines] for lines in pairs]


@dataclass(frozen=True)
class Contrast:
    """Two ways of training, seed by seed on the same rows."""

    what: str
    one: Sequence[Sequence[Prediction]]
    other: Sequence[Sequence[Prediction]]
    scored: RunFolder
    """A run that was scored on these rows."""


def held(what: str, one: Sequence[RunFolder], other: Sequence[RunFolder]) -> Contrast:
    """A contrast of runs as they were trained."""
    return Contrast(what, said(one), said(other), one[0])


def said(runs: Sequence[RunFolder]) -> list[list[Prediction]]:
    """What runs answered, in the order of the rows."""
    ids = [example["id"] for example in examples_of(runs[0]).splits["validation"]]
    return [predictions_of(run.path, ids) for run in runs]


def compared(contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
    """Every contrast with an interval and a p that are corrected for how many there are.

    Intervals are at 1 - 5 % / their number (Bonferroni), p values are Holm's: the claim is a family.
    """
    found = {}
    for own in contrasts:
        loaded = examples_of(own.scored)
        found[own.what] = mean_difference(
            loaded.task,
            own.one,
            own.other,
            loaded.splits["validation"],
            resamples=max(RESAMPLES, 400 * len(contrasts)),
            level=1 - (1 - LEVEL) / len(contrasts),
        )[METRIC]
    corrected = holm({what: own.p for what, own in found.items()})
    return [
        {"what": what, **asdict(own), "p_corrected": corrected[what]} for what, own in found.items()
    ]


def row(what: str, run: RunFolder, **more: Any) -> dict[str, Any]:
    """One run's score and size."""
    training = run.training or {}
    return {
        "what": what,
        "seed": run.run.seed,
        "learning_rate": run.run.training.learning_rate,
        "score": score_of(run.path, METRIC),
        "adapter_parameters": training["adapter_parameters"],
        "steps": training["steps"],
        "seconds": round(training["seconds"], 1),
        **more,
    }


def by_epoch(run: RunFolder) -> list[float]:
    """The scores that were taken while training, in order."""
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    return [next(iter(line["score"].values())) for line in lines if line.get("score")]
