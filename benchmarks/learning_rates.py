"""The best rate by width and rank: tiny BERTs of four widths, LoRA at two ranks and full fine-tuning.

    python benchmarks/learning_rates.py

A BERT of two layers is made for each width and learns masked words of generated sentences, those of train and
validation. It is then fine-tuned for 120 steps, or 480, on who gives and who receives (`weft.data.generated`), whose
names in validation are none of those in train, at rates a factor of two apart. What counts is the loss on validation
rows after the last step, which says more than a score of few rows. Where the best rate is the lowest or highest tried,
the next one is tried too. The best rate of a seed is the lowest point of the parabola through its three lowest losses,
over log(rate); the exponent is the slope of log(best rate) over log(width), and its interval a bootstrap
over seeds. Interrupt it as you like: the same call goes on. The result is results/learning-rates.json.
"""

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from transformers.utils import logging

from machine import machine
from weft.atomic import write_text
from weft.data.generated import write_demo_data
from weft.training.loop import train

SIZES = {"choices": (8, 8), "spans": (8, 8), "entities": (1200, 200)}
"""Rows in train and validation; the first two sets are not used."""
TASK = "demo_entities"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The first of each vocabulary; the mask is the last of them."""
METHODS: Mapping[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora-4": {"name": "lora", "rank": 4, "targets": "all-linear"},
    "lora-16": {"name": "lora", "rank": 16, "targets": "all-linear"},
}
START = {"full": 1e-3, "lora-4": 4e-3, "lora-16": 4e-3}
"""The middle of the first rates tried, at `START_WIDTH`; where the best one lies beyond, more are tried."""
START_WIDTH = 64
FALLS = {"full": 1.0, "lora-4": 0.5, "lora-16": 0.5}
"""How fast the middle is expected to fall with the width; a wrong guess costs runs, not the result."""
TRAINING = {"batch_size": 8, "base_dropout": 0.0}
PRETRAINING_STEPS = {64: 1600, 128: 800, 256: 400, 512: 300}
"""By width: a narrow network needs more of them to know as much."""
PRETRAINING_BATCH = 32
MASKED = 0.15
DRAWS = 2000
"""Bootstrap resamples."""


@dataclass(frozen=True)
class Series:
    """Widths, and what is trained on each."""

    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int
    methods: tuple[str, ...]


SERIES = {
    "120 steps": Series((64, 128, 256, 512), (0, 1, 2), 120, ("full", "lora-16")),
    "120 steps, two ranks": Series((64, 128, 256), (0, 1, 2), 120, ("lora-4", "lora-16")),
    "480 steps": Series((64, 128, 256), (0, 1), 480, ("lora-16",)),
}
"""Longer trainings show what of the exponent is the width's and what is that narrow bases need more steps."""


def sentences(folder: Path) -> list[list[str]]:
    """The words of every row of the set, of train and validation."""
    found: list[list[str]] = []
    for split in ("train", "validation"):
        text = (folder / "entities" / f"{split}.conll").read_text(encoding="utf-8")
        blocks = text.strip().split("\n\n")
        found += [[line.split("\t")[0] for line in block.splitlines()] for block in blocks]
    return found


def tokenizer_of(rows: Sequence[Sequence[str]]) -> PreTrainedTokenizerFast:
    """One token for each word that there is."""
    words = sorted({word for row in rows for word in row})
    pieces = [*SPECIAL, *words]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def network(width: int, words: int) -> BertForMaskedLM:
    """Two layers with heads of 32 dimensions and four times the width between."""
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        max_position_embeddings=64,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
    )
    return BertForMaskedLM(config)


def make_base(width: int, data: Path, folder: Path) -> None:
    """A base that has learnt to say the masked words of all sentences."""
    rows = sentences(data)
    tokenizer = tokenizer_of(rows)
    torch.manual_seed(width)
    model: Any = network(width, len(tokenizer))
    ids = tokenizer([" ".join(row) for row in rows], padding=True, return_tensors="pt")["input_ids"]
    rate = 2e-3 * (64 / width) ** 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    drawn = torch.Generator().manual_seed(width)
    steps = PRETRAINING_STEPS[width]
    for step in range(steps):
        batch = ids[torch.randint(len(ids), (PRETRAINING_BATCH,), generator=drawn)]
        seen, labels = shown(batch, len(SPECIAL) - 1, drawn)
        at = min(1.0, (step + 1) / 40) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * at
        loss = model(input_ids=seen, attention_mask=(batch != 0).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    draft = folder.with_name(f"{folder.name}-draft")
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(folder)
    print(f"{folder.name}: loss {loss.item():.3f}", flush=True)


def shown(batch: Tensor, mask: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the network sees and what it is to say: -100 where nothing."""
    hidden = (torch.rand(batch.shape, generator=generator) < MASKED) & (batch >= len(SPECIAL))
    return batch.masked_fill(hidden, mask), batch.masked_fill(~hidden, -100)


@dataclass(frozen=True)
class Trials:
    """Every run that there is, each in a file of its own."""

    series: Series
    folder: Path

    def loss(self, width: int, method: str, rate: float, seed: int) -> float:
        """The validation loss after training, from its file or from a training now; infinite where it diverged."""
        own = self.series
        name = f"bert-{own.steps}-{width}-{method}-{rate:.3g}-seed{seed}"
        path = self.folder / "losses" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(self._trained(width, method, rate, seed, name)) + "\n")
        loss = json.loads(path.read_text(encoding="utf-8"))["loss"]
        return math.inf if math.isnan(loss) else loss

    def _trained(
        self, width: int, method: str, rate: float, seed: int, name: str
    ) -> dict[str, float]:
        base = self.folder / f"bert-{width}"
        if not base.is_dir():
            make_base(width, self.folder / "data", base)
        out = self.folder / "runs" / name
        shutil.rmtree(out, ignore_errors=True)
        began = time.process_time()
        steps = self.series.steps
        # Evaluated once, at the end, for the loss; nothing stops and nothing is chosen.
        watched = {"eval_every": steps, "early_stopping": 9, "early_stopping_on": "loss"}
        data = self.folder / "data"
        train(
            {
                "base": str(base),
                "task": {"name": str(data / f"{TASK}.yaml"), "data": str(data / "entities")},
                "recipe": METHODS[method],
                "training": {
                    **TRAINING,
                    **watched,
                    "max_steps": steps,
                    "learning_rate": rate,
                    "select_on": "validation",
                    "checkpoint_every": steps + 1,
                },
                "seed": seed,
                "device": "cpu",
            },
            out=out,
        )
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        loss = next(line["held_loss"][TASK] for line in lines if "held_loss" in line)
        shutil.rmtree(out)
        return {"loss": loss, "seconds": time.process_time() - began}

    def searched(self, width: int, method: str) -> dict[float, list[float]]:
        """Losses by rate, seed by seed; wide enough that the best rate of every seed has neighbours."""
        middle = START[method] * (START_WIDTH / width) ** FALLS[method]
        seeds = self.series.seeds
        return around(middle, lambda rate: [self.loss(width, method, rate, seed) for seed in seeds])


def around(middle: float, losses: Callable[[float], list[float]]) -> dict[float, list[float]]:
    """Losses by rate, seed by seed, at rates a factor of two apart, until the best one of every seed has neighbours.

    Args:
        middle: The second of the first three rates.
        losses: Those of a rate, one for each seed.
    """
    steps = [-1, 0, 1]
    while True:
        found: dict[float, list[float]] = {}
        for step in steps:
            rate = float(f"{middle * 2**step:.3g}")
            found[rate] = losses(rate)
        rates = list(found)
        best = {min(rates, key=lambda rate: found[rate][at]) for at in range(len(found[rates[0]]))}
        if rates[0] in best:
            steps = [steps[0] - 1, *steps]
        elif rates[-1] in best:
            steps = [*steps, steps[-1] + 1]
        else:
            return found


def lowest(losses: Mapping[float, float]) -> float:
    """The rate at the lowest point of the parabola through the lowest loss and its neighbours, over log(rate)."""
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda number: losses[rates[number]])
    left, middle, right = (losses[rates[at + offset]] for offset in (-1, 0, 1))
    if not math.isfinite(left + right):
        return rates[at]
    curve = left - 2 * middle + right
    offset = 0.5 * (left - right) / curve if curve > 0 else 0.0
    return rates[at] * 2**offset


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least squares of log(y) over log(x)."""
    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    x_mean, y_mean = mean(x for x, _ in logs), mean(y for _, y in logs)
    return sum((x - x_mean) * (y - y_mean) for x, y in logs) / sum(
        (x - x_mean) ** 2 for x, _ in logs
    )


def with_interval(of: Any, seeds: int) -> dict[str, float]:
    """`of(seed numbers)` for all seeds, with the middle 95 % of resamples of the seeds."""
    drawn = random.Random(0)
    values = sorted(of([drawn.randrange(seeds) for _ in range(seeds)]) for _ in range(DRAWS))
    low, high = values[round(0.025 * DRAWS)], values[round(0.975 * DRAWS) - 1]
    return {"value": of(list(range(seeds))), "low": low, "high": high}


def measured(trials: Trials) -> dict[str, Any]:
    """Best rates and exponents."""
    series = trials.series
    best: dict[str, dict[int, list[float]]] = {method: {} for method in series.methods}
    cells = []
    for width in series.widths:
        for method in series.methods:
            found = trials.searched(width, method)
            own = [
                lowest({rate: losses[at] for rate, losses in found.items()})
                for at in range(len(series.seeds))
            ]
            best[method][width] = own
            at_best = with_interval(lambda seeds, own=own: _middle(own, seeds), len(own))
            print(width, method, {k: f"{v:.3g}" for k, v in at_best.items()}, flush=True)
            cells.append(
                {
                    "width": width,
                    "method": method,
                    "best": at_best,
                    "best_by_seed": own,
                    "losses": {f"{rate:g}": losses for rate, losses in found.items()},
                }
            )

    def falls(method: str) -> dict[str, float]:
        def of(seeds: Sequence[int]) -> float:
            rates = [_middle(best[method][width], seeds) for width in series.widths]
            return -slope(series.widths, rates)

        return with_interval(of, len(series.seeds))

    def ratio(method: str, other: str, width: int) -> dict[str, float]:
        def of(seeds: Sequence[int]) -> float:
            return _middle(best[method][width], seeds) / _middle(best[other][width], seeds)

        return with_interval(of, len(series.seeds))

    return {
        "widths": series.widths,
        "seeds": series.seeds,
        "steps": series.steps,
        "falls_with_width_to_the": {method: falls(method) for method in series.methods},
        **{
            f"{method}_over_{other}": {str(w): ratio(method, other, w) for w in series.widths}
            for method, other in (("lora-16", "full"), ("lora-4", "lora-16"))
            if {method, other} <= {*series.methods}
        },
        "cells": cells,
    }


def _middle(rates: Sequence[float], seeds: Sequence[int]) -> float:
    """The geometric mean over seeds."""
    return math.exp(mean(math.log(rates[seed]) for seed in seeds))


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument("--runs", default="runs/learning-rates")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    folder = Path(arguments.runs).resolve()
    if not (folder / "data").is_dir():
        write_demo_data(folder / "data", sizes=SIZES)
    path = Path("results") / "learning-rates.json"
    series: dict[str, Any] = {}
    for name in arguments.series:
        series[name] = measured(Trials(SERIES[name], folder))
        result = {
            "script": "benchmarks/learning_rates.py",
            "training": TRAINING,
            "methods": METHODS,
            "pretraining_steps": PRETRAINING_STEPS,
            "series": series,
            "machine": machine("cpu"),
        }
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(name, path, flush=True)


if __name__ == "__main__":
    main()
