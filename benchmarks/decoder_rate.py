"""The rule of rates on a decoder with real weights: LoRA's best rate beside the one that the rule gives.

    python benchmarks/decoder_rate.py --base FOLDER --name NAME --data ../shared/data

The folder holds a decoder as transformers saves it. LoRA as it is by default trains on tweets (WNUT17's sentences,
joined to rows of up to 48 tokens) for 30 steps of 4 rows, or 120, at rates a factor of two apart around the rule's,
until the best has neighbours. What counts is the mean loss of a token on the validation rows after the last step, which
no training sees. A seed draws the rows, their order and the adapter. The best rate of a seed is the lowest point of the
parabola of `learning_rates.py`. Interrupt it as you like: the same call goes on. The result is
results/decoder-rate.json.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from learning_rates import around, lowest
from machine import half, machine
from weft.atomic import write_text
from weft.config import RecipeSettings, Run
from weft.methods.recipes import resolve
from weft.training.loop import train
from weft.training.settings import completed

LONGEST = 48
"""Tokens of a row at most."""
TASK = f"kind: causal_lm\nmax_length: {LONGEST}\nstride: 1\n"
BATCH = 4
VALIDATION = 48
"""Rows; train has twice as many as a training reads, so a seed draws its own and sees none twice."""
TRAINING = {"batch_size": BATCH, "precision": half()}


@dataclass(frozen=True)
class Series:
    """How long, and how often."""

    steps: int
    seeds: tuple[int, ...]


SERIES = {"30 steps": Series(30, (0, 1)), "120 steps": Series(120, (0,))}
"""Longer trainings want lower rates; 120 steps are those of `learning_rates.py`."""


def tweets(path: Path, tokenizer: Any, number: int) -> list[str]:
    """The first rows of a split: neighbouring tweets, a line each, as many as fit; a longer one is left out."""
    # A blank line holds a tab in some places.
    blocks = path.read_text(encoding="utf-8").replace("\n\t\n", "\n\n").strip().split("\n\n")
    rows: list[str] = []
    for block in blocks:
        tweet = " ".join(line.split("\t")[0] for line in block.splitlines())
        joined = f"{rows[-1]}\n{tweet}" if rows else tweet
        if len(tokenizer(joined)["input_ids"]) <= LONGEST:
            rows[-1:] = [joined]
        elif len(tokenizer(tweet)["input_ids"]) <= LONGEST:
            rows.append(tweet)
        if len(rows) > number:
            return rows[:number]
    raise SystemExit(f"{path}: {len(rows)} rows of {LONGEST} tokens, {number} are needed")


def loss_before(base: Path, rows: Sequence[str]) -> float:
    """Mean loss of a token, with nothing trained."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base).eval()
    total, tokens = 0.0, 0
    for row in rows:
        ids = tokenizer(row, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += (ids.shape[1] - 1) * model(input_ids=ids, labels=ids).loss.item()
        tokens += ids.shape[1] - 1
    return total / tokens


@dataclass(frozen=True)
class Trials:
    """Every run that there is, each in a file of its own."""

    series: Series
    base: Path
    folder: Path
    rows: dict[str, list[str]]

    def settings(self, rate: float | None, seed: int) -> Run:
        """Those of one run; where no rate is said, the rule's is taken."""
        return Run.model_validate(
            {
                "base": str(self.base),
                "task": {"name": str(self.folder / "tweets.yaml")},
                "recipe": "lora",
                "training": {
                    **TRAINING,
                    "max_steps": self.series.steps,
                    "learning_rate": rate,
                },
                "seed": seed,
                "device": "cpu",
            }
        )

    def losses(self, rate: float) -> list[float]:
        """After training at a rate, one for each seed; infinite where it diverged."""
        found = [self.loss(rate, seed) for seed in self.series.seeds]
        print(f"{rate:g}", found, flush=True)
        return found

    def loss(self, rate: float, seed: int) -> float:
        """From its file or from a training now."""
        name = f"{self.series.steps}-{rate:.3g}-seed{seed}"
        path = self.folder / "losses" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(self._trained(rate, seed, name)) + "\n")
        loss = json.loads(path.read_text(encoding="utf-8"))["loss"]
        return math.inf if math.isnan(loss) else loss

    def _trained(self, rate: float, seed: int, name: str) -> dict[str, float]:
        out = self.folder / "runs" / name
        shutil.rmtree(out, ignore_errors=True)
        began = time.process_time()
        data = {split: [{"text": row} for row in rows] for split, rows in self.rows.items()}
        run = train(self.settings(rate, seed), out=out, data=data)
        scores = {metric["name"]: metric["value"] for metric in run.metrics}
        shutil.rmtree(out)
        seconds = time.process_time() - began
        return {"loss": math.log(scores["perplexity"]), "seconds": seconds}


def measured(trials: Trials) -> dict[str, Any]:
    """The best rate beside the rule's, and what the rule's costs."""
    rule = completed(trials.settings(None, 0)).run.training.rate
    assert rule is not None
    found = around(rule, trials.losses)
    seeds = trials.series.seeds
    by_seed = [{rate: losses[at] for rate, losses in found.items()} for at in range(len(seeds))]
    best = [lowest(losses) for losses in by_seed]
    return {
        "steps": trials.series.steps,
        "seeds": seeds,
        "train_rows": len(trials.rows["train"]),
        "rule": rule,
        "best": geometric_mean(best),
        "best_by_seed": best,
        "best_over_rule": geometric_mean(best) / rule,
        "loss_at_rule": mean(found[rule]),
        "lowest_loss": mean(min(losses.values()) for losses in by_seed),
        "losses": {f"{rate:g}": losses for rate, losses in found.items()},
    }


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True, help="folder of a decoder")
    parser.add_argument("--name", required=True, help="what the result calls it")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument("--runs", default="runs/decoder-rate")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    base, folder = Path(arguments.base).resolve(), Path(arguments.runs).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tweets.yaml", TASK)
    tokenizer = AutoTokenizer.from_pretrained(base)
    data = Path(arguments.data) / "wnut17"
    held = tweets(data / "validation.conll", tokenizer, VALIDATION)
    config: Any = AutoConfig.from_pretrained(base)
    result: dict[str, Any] = {
        "script": "benchmarks/decoder_rate.py",
        "base": {
            "name": arguments.name,
            "architecture": config.model_type,
            "width": config.hidden_size,
            "layers": config.num_hidden_layers,
        },
        "recipe": resolve(RecipeSettings(name="lora")).describe().model_dump(mode="json"),
        "training": TRAINING,
        "longest": LONGEST,
        "validation_rows": len(held),
        "loss_before": loss_before(base, held),
        "machine": machine("cpu"),
        "series": {},
    }
    path = Path("results") / "decoder-rate.json"
    for name in arguments.series:
        own = SERIES[name]
        rows = tweets(data / "train.conll", tokenizer, 2 * BATCH * own.steps)
        trials = Trials(own, base, folder, {"train": rows, "validation": held})
        result["series"][name] = measured(trials)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(name, path, flush=True)


if __name__ == "__main__":
    main()
