"""RecLoRA whole: does what a recommender knows of a user make a text model's experts the user's own?

    python benchmarks/recommendation.py [--base minilm|smollm2] [--runs runs/recommendation]

MovieLens-100k (`recommendation_data.py`): will a user give a film four stars or more? Each user's last rating is
scored (leave last out), the one before chooses rates. Few2Many: the recommender on ids learns from all other ratings,
the text models from a sample of these. A prompt has the films most like the one asked about, by the sentence encoder,
of all that the user has rated before (the retriever's short side); the recommender has read them all (its long side).

    recommender          ids alone
    text                 one LoRA on the prompts
    text, meta experts   RecLoRA with gates that read nothing: as many numbers as the next but for the gates
    RecLoRA              gates read the recommender's state
    mean of both         recommender and text, probabilities averaged: what needs no gate

AUC and log loss with intervals over users, differences paired by user, three seeds, a rate of its own for each way of
training. The embedded base is a sentence encoder of 23 million parameters that has read no films' plots beyond its
pretraining: a cold text model, and it is said. With `--base smollm2` the same on SmolLM2-135M, a yes/no head on its
last token, by fewer rows and users and for two of the ways. Interrupt it as you like: the same call goes on. The result
is results/personal/recommendation.json, and recommendation-smollm2.json beside it.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from machine import half, machine
from personal_words import finished
from recommendation_data import SIZE, Films, folder_of_films, read_films, told, trained
from weft.answering.evaluation import read_predictions
from weft.answering.texts.vectors import vectors_of
from weft.atomic import make_folder, write_text
from weft.base.loading import load_base
from weft.tasks.scoring import LEVEL, RESAMPLES, interval

RESULTS = Path("results") / "personal"
SEEDS = [0, 1, 2]
NEAREST = 5
"""Films of a user's past in a prompt."""
SPEC: dict[str, Any] = {
    "kind": "sequence_classification",
    "labels": ["No", "Yes"],
    "columns": {"text": "film", "text_pair": "past", "label": "liked", "state": "state"},
    "max_length": 192,
    "truncate": True,
    "metrics": ["roc_auc"],
}
TRAINING: dict[str, Any] = {"epochs": 2, "batch_size": 32, "precision": half(), "base_dropout": 0.0}
META: dict[str, Any] = {"name": "reclora", "num_experts": 8, "rank": 8, "alpha": 16}
WAYS: dict[str, dict[str, Any]] = {
    "text": {"recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["query", "value"]}},
    "text, meta experts": {"mixture": {**META, "state_size": 0}},
    "RecLoRA": {"mixture": {**META, "state_size": SIZE}},
    "RecLoRA, by roots": {"mixture": {**META, "state_size": SIZE, "root": True}},
}
ALONE = "recommender"


@dataclass(frozen=True)
class Plan:
    """What a base is asked for: what it costs decides."""

    sampled: int
    """Ratings that text models learn from, of some 98,000."""
    rates: tuple[float, ...]
    training: dict[str, Any]
    ways: tuple[str, ...] = tuple(WAYS)
    scored: int | None = None
    """Users whose likes are asked about, drawn by a seed; None is all."""


PLANS = {
    "minilm": Plan(2000, (1e-3, 2e-3, 4e-3), TRAINING),
    "smollm2": Plan(
        400,
        (5e-4, 2e-3),
        {**TRAINING, "epochs": 1, "batch_size": 16},
        ("text", "RecLoRA"),
        scored=300,
    ),
}

Row = dict[str, Any]
Said = dict[str, list[np.ndarray]]
"""By way of training, a probability of each user's last like by seed."""


def prompt(films: Films, near: np.ndarray, user: int, at: int) -> dict[str, str]:
    """The film asked about, and those of the user's past that are most like it, in order of time."""
    seen, liked = films.seen[user][:at], films.liked[user][:at]
    alike = near[seen] @ near[films.seen[user][at]]
    chosen = np.sort(np.argsort(-alike, kind="stable")[:NEAREST])
    past = [f"{'liked' if liked[one] else 'disliked'} {films.titles[seen[one]]}" for one in chosen]
    return {"film": films.titles[films.seen[user][at]], "past": "; ".join(past) or "nothing yet"}


class Study:
    """Rows, runs and what they said."""

    def __init__(
        self, base: str, plan: Plan, runs: Path, *, users: int | None, epochs: int | None
    ) -> None:
        whole = read_films(folder_of_films())
        self.films = Films(whole.titles, whole.seen[:users], whole.liked[:users])
        self.base, self.plan, self.runs, self.epochs = base, plan, runs, epochs
        self.users = range(len(self.films.seen))
        drawn = np.random.default_rng(0).permutation(len(self.users))[: plan.scored]
        self.scored = [int(user) for user in np.sort(drawn)]
        self.near = vectors_of(load_base("minilm"), self.films.titles)
        self.right = np.array([int(self.films.liked[user][-1]) for user in self.scored])
        self.said: Said = {}
        self.rates: dict[str, float] = {}
        self.search: dict[str, dict[str, float]] = {}

    def rows(self, seed: int) -> dict[str, list[Row]]:
        """Rows of the three splits, with states of the recommender of that seed, whose answers are kept."""
        own = {"epochs": self.epochs} if self.epochs else {}
        model = trained(self.films, seed, **own)
        known = [told(model, self.films, user) for user in self.users]
        self.said.setdefault(ALONE, []).append(
            np.array([known[user][1][-1] for user in self.scored])
        )
        places = [
            (user, at) for user in self.users for at in range(1, len(self.films.seen[user]) - 2)
        ]
        drawn = np.random.default_rng(seed).permutation(len(places))[: self.plan.sampled]
        return {
            "train": [
                self._row(user, at, known) for user, at in (places[i] for i in sorted(drawn))
            ],
            "validation": [self._row(u, len(self.films.seen[u]) - 2, known) for u in self.scored],
            "test": [self._row(u, len(self.films.seen[u]) - 1, known) for u in self.scored],
        }

    def _row(self, user: int, at: int, known: list[tuple[np.ndarray, np.ndarray]]) -> Row:
        return {
            "id": f"{user}-{at}",
            **prompt(self.films, self.near, user, at),
            "liked": "Yes" if self.films.liked[user][at] else "No",
            "state": [round(float(number), 5) for number in known[user][0][at]],
        }

    def run(self, seeds: list[int]) -> None:
        ways, rates = self.plan.ways, self.plan.rates
        total, done, began = len(ways) * (len(rates) + len(seeds)), 0, time.monotonic()
        for seed in seeds:
            rows = self.rows(seed)
            for way in ways:
                if way not in self.rates:
                    held = {"train": rows["train"], "validation": rows["validation"]}
                    tried = {}
                    for rate in rates:
                        folder = self._trained(way, rate, seed, held, "search")
                        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
                        tried[f"{rate:g}"] = next(
                            row["value"] for row in metrics if row["name"] == "roc_auc"
                        )
                        done += 1
                    self.search[way] = tried
                    self.rates[way] = float(max(tried, key=lambda rate: tried[rate]))
                last = {"train": rows["train"], "validation": rows["test"]}
                folder = self._trained(way, self.rates[way], seed, last, "final")
                found = read_predictions(folder)
                own = [found[row["id"]]["probabilities"]["Yes"] for row in rows["test"]]
                self.said.setdefault(way, []).append(np.array(own))
                done += 1
                left = (time.monotonic() - began) / done * (total - done)
                auc = roc_auc_score(self.right, own)
                print(
                    f"{done}/{total}  {folder}  AUC {auc:.4f}  {left / 60:.0f} min left", flush=True
                )
        for way in ("text", "RecLoRA"):
            pairs = zip(self.said[ALONE], self.said[way], strict=True)
            self.said[f"mean of {ALONE} and {way}"] = [(a + b) / 2 for a, b in pairs]

    def _trained(
        self, way: str, rate: float, seed: int, data: dict[str, list[Row]], what: str
    ) -> Path:
        """The folder with the answers of a run, trained if it is not there."""
        values = WAYS[way]
        name = way.replace(", ", "-").replace(" ", "-")
        folder = self.runs / what / name / f"{rate:g}-seed{seed}"
        columns = dict(SPEC["columns"])
        if not values.get("mixture", {}).get("state_size"):
            del columns["state"]
        training = {
            **self.plan.training,
            "learning_rate": rate,
            **({"epochs": 1} if self.epochs else {}),
        }
        config = {
            "base": self.base,
            "task": {"name": "films", "spec": {**SPEC, "columns": columns}},
            "training": training,
            "seed": seed,
            "device": "cpu",
            **values,
        }
        finished(folder, config, data)
        return folder / "films" if "mixture" in values else folder


@dataclass(frozen=True)
class Drawn:
    """AUC and log loss, means over seeds: of all users, and of each sample of users."""

    whole: np.ndarray
    sampled: np.ndarray

    def __sub__(self, other: "Drawn") -> "Drawn":
        return Drawn(self.whole - other.whole, self.sampled - other.sampled)

    @property
    def scores(self) -> dict[str, Any]:
        """Both with their intervals, as the result file has them."""
        found = enumerate(("auc", "loss"))
        return {
            name: asdict(interval(float(self.whole[at]), self.sampled[:, at], LEVEL))
            for at, name in found
        }


def scored(right: np.ndarray, said: list[np.ndarray], samples: np.ndarray) -> Drawn:
    """What probabilities of each seed are worth."""

    def means(users: np.ndarray) -> np.ndarray:
        own = right[users]
        each = [
            (roc_auc_score(own, one[users]), log_loss(own, one[users], labels=[0, 1]))
            for one in said
        ]
        return np.mean(each, axis=0)

    return Drawn(means(np.arange(len(right))), np.array([means(users) for users in samples]))


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", choices=PLANS, default="minilm")
    parser.add_argument("--runs", default="runs/recommendation")
    parser.add_argument("--out", help="the result file")
    parser.add_argument("--users", type=int, help="the first so many alone, to try it")
    parser.add_argument("--sampled", type=int, help="rows of text models, to try it")
    parser.add_argument(
        "--epochs", type=int, help="of the recommender; text models get 1, to try it"
    )
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="so many alone, to try it")
    own = parser.parse_args()
    plan = PLANS[own.base]
    if own.sampled:
        plan = replace(plan, sampled=own.sampled)
    runs = Path(own.runs) / own.base
    study = Study(own.base, plan, runs, users=own.users, epochs=own.epochs)
    study.run(SEEDS[: own.seeds])
    right = study.right
    resamples = min(RESAMPLES, 1000)
    drawn = np.random.default_rng(0).integers(len(right), size=(resamples, len(right)))
    found = {way: scored(right, said, drawn) for way, said in study.said.items()}
    rows: list[dict[str, Any]] = [
        {
            "method": way,
            "learning_rate": study.rates.get(way),
            **own_scores.scores,
            **{
                f"from_{other}": (own_scores - found[other]).scores
                for other in (ALONE, "text")
                if way != other
            },
        }
        for way, own_scores in found.items()
    ]
    result = {
        "script": "benchmarks/recommendation.py",
        "settings": {
            "base": own.base, "spec": SPEC, "training": plan.training, "rates": plan.rates,
            "ways": {name: WAYS[name] for name in plan.ways}, "search": study.search,
            "seeds": SEEDS[: own.seeds], "sampled": plan.sampled, "nearest": NEAREST,
            "users": len(right), "ratings": int(sum(map(len, study.films.seen))),
            "liked": float(right.mean()), "resamples": resamples,
        },
        "rows": rows,
        "machine": machine("cpu"),
    }  # fmt: skip
    name = "recommendation" if own.base == "minilm" else f"recommendation-{own.base}"
    path = Path(own.out) if own.out else RESULTS / f"{name}.json"
    make_folder(path.parent)
    write_text(path, json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row["method"], row["auc"], row["loss"])
    print(path)


if __name__ == "__main__":
    main()
