"""Spoken and handwritten digit strings: which channel, pooled how coarsely, shared how, says them under what noise.

    python benchmarks/omni_digits.py --set OUT [--recordings ../shared/data/spoken_digits] [--seeds 0 1 2]
                                     [--only strategies rates smollm2] [--steps 1500]

The set is `omni_strings.py`'s, written to OUT where it is not there: a speaker is in validation alone. The decoder is
made here: a Llama of four layers, 128 wide, taught on texts to write down a string of digits whose words were repeated
in front of a `=` ("one one two two two = one two"), so that it can copy, as language models can; then frozen. Trained
are LoRA on its queries and values (rank 4, a thirty-second of the width, scale 4/32, A at 0), and encoders and
projectors, which all three tasks share.

strategies: sound, picture, and both, trained together at two rates each, their adapters shared, own, or shared and own;
every seed's run is scored at each rate and under each noise. rates: the shared strategy, but a model for each pair of
rates. smollm2: the first strategy once on SmolLM2-135M, frozen, with fewer rows a step; an hour by itself, so it is run
only where `--only` says so. All else takes about an hour on two cores. A finished run, and a finished score, is never
repeated: interrupt it as you like. The result is results/omni/digits.json.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from accuracy import told
from machine import machine
from omni_strings import CONDITIONS, HELD, LEVELS, ROWS, WORDS, compose
from weft.answering.evaluation import evaluate
from weft.atomic import atomic_folder, write_text
from weft.comparison.comparing import examples_of
from weft.comparison.jobs import Job, run_job
from weft.config import Run
from weft.guard import json_lines
from weft.runs import RunFolder
from weft.tasks.scoring import mean_score

FILE = Path("results") / "omni" / "digits.json"
PARTS = ("strategies", "rates", "smollm2")
STRATEGIES = {"shared": "shared", "task-specific": "separate", "shared and specific": "both"}
INPUTS = {
    "sound": ["audio", "text"],
    "picture": ["image", "text"],
    "both": ["audio", "image", "text"],
}
WEIGHTS = {"sound": 1.0, "picture": 1.5, "both": 1.0}
"""What a task's loss counts, as published."""
RATES = {"audio": [4, 16], "image": [2, 5]}
"""As published: vectors of 20 ms, and quarters of a handwritten digit."""
PAIRS = {"fine": {"audio": 4, "image": 2}, "coarse": {"audio": 16, "image": 5}}
ENCODERS = {
    "audio": {"sample_rate": 8000, "mels": 40, "width": 96, "layers": 3},
    "image": {"height": 8, "patch": 4, "width": 96, "layers": 2},
}
LORA = {"name": "lora", "rank": 4, "alpha": 0.5, "zero": "A", "targets": ["query", "value"]}
TRAINING = {
    "batch_size": 16,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "precision": "fp32",
}
DECODER = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
COPYING = {"rows": 6000, "steps": 2500, "batch_size": 64, "learning_rate": 1e-3}
SMOLLM2 = {"base": "smollm2", "steps": 250, "batch_size": 6, "rank": 18, "alpha": 2.25}


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word a token: the ten digits and `=`."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "=", *WORDS]
    made = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def copying_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Strings of 3 to 6 digits with each word one to six times, and as they are."""
    draw, rows = np.random.default_rng(seed), []
    for _ in range(count):
        string = [WORDS[at] for at in draw.integers(0, 10, size=draw.integers(3, 7))]
        longer = [word for word in string for _ in range(draw.integers(1, 7))]
        rows.append({"prompt": " ".join([*longer, "="]), "completion": " " + " ".join(string)})
    return rows


@dataclass
class Study:
    """Where things are, and how long runs take."""

    strings: Path
    runs: Path
    steps: int
    small: bool
    """Whether this only tries the script out."""

    def decoder(self) -> Path:
        """The frozen decoder, made where it is not there."""
        start, folder = self.runs / "decoder-start", self.runs / "decoder"
        if not start.is_dir():
            words = tokenizer()
            sizes: dict[str, Any] = dict(DECODER)
            config = transformers.LlamaConfig(
                vocab_size=len(words),
                intermediate_size=4 * DECODER["hidden_size"],
                max_position_embeddings=256,
                tie_word_embeddings=True,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                **sizes,
            )
            torch.manual_seed(0)
            with atomic_folder(start) as draft:
                transformers.LlamaForCausalLM(config).save_pretrained(draft)
                words.save_pretrained(draft)
        data = self.runs / "copying"
        if not data.is_dir():
            with atomic_folder(data) as draft:
                for split, count, seed in (
                    ("train", COPYING["rows"], 0),
                    ("validation", 200, 1),
                ):
                    rows = copying_rows(int(count), seed)
                    write_text(draft / f"{split}.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
        training = {key: COPYING[key] for key in ("batch_size", "learning_rate")}
        training["max_steps"] = 30 if self.small else COPYING["steps"]
        task = {
            "name": "copying",
            "spec": {"kind": "causal_lm", "format": "jsonl"},
            "data": str(data),
        }
        run = {"base": str(start), "task": task, "recipe": "full", "training": training}
        self._trained(Job(folder, Run.model_validate({**run, "device": "cpu", "seed": 0})))
        return folder / "expert"

    def run(self, experts: str, rates: dict[str, list[int]], seed: int, title: str) -> RunFolder:
        """The three tasks trained together, on the decoder made here or on SmolLM2."""
        large = title == "smollm2"
        training: dict[str, Any] = {**TRAINING, "max_steps": self.steps}
        recipe: dict[str, Any] = dict(LORA)
        if large:
            training |= {"batch_size": SMOLLM2["batch_size"]}
            training["max_steps"] = min(self.steps, int(SMOLLM2["steps"]))
            recipe |= {"rank": SMOLLM2["rank"], "alpha": SMOLLM2["alpha"]}
        tasks = []
        for name, inputs in INPUTS.items():
            options = {
                "inputs": inputs,
                "rates": {key: value for key, value in rates.items() if key in inputs},
                "encoders": {key: value for key, value in ENCODERS.items() if key in inputs},
                "max_new_tokens": 16 if large else 10,
            }
            spec = {
                "kind": "transcription",
                "format": "jsonl",
                "max_length": 200,
                "options": options,
            }
            own = {"name": name, "spec": spec, "data": str(self.strings)}
            tasks.append({**own, "loss_weight": WEIGHTS[name]})
        values = {
            "base": SMOLLM2["base"] if large else str(self.decoder()),
            "tasks": tasks,
            "experts": experts,
            "recipe": recipe,
            "training": training,
            "seed": seed,
            "device": "cpu",
        }
        job = Job(self.runs / f"{title.replace(' ', '-')}-seed{seed}", Run.model_validate(values))
        self._trained(job)
        return RunFolder.open(job.folder)

    def _trained(self, job: Job) -> None:
        if not job.is_complete:
            run_job(job, told(job, 0, 1))

    def said(
        self, run: RunFolder, task: str, condition: str, rates: dict[str, int]
    ) -> list[dict[str, Any]]:
        """What a run says of validation under one noise at some rates, kept beside it."""
        name = condition.replace(" ", "_").replace(",", "")
        own = {key: rate for key, rate in rates.items() if key in INPUTS[task]}
        at = "-".join(f"{key}{rate}" for key, rate in own.items())
        path = run.path / task / f"said-{name}-{at}.jsonl"
        if not path.is_file():
            part = run.path / task
            found = evaluate(part, data=str(self.strings / name), rates=own, device="cpu")
            assert not isinstance(found, list)  # a part has one task
            lines = [json.dumps(row) for row in found.predictions]
            write_text(path, "\n".join(lines) + "\n")
        return [row for row, _ in json_lines(path)]


def rows_of(
    study: Study, title: str, runs: Sequence[RunFolder], pairs: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Word error rates of one model, seeds together, by task, rates and noise."""
    for task in INPUTS:
        loaded = examples_of(RunFolder(runs[0].path / task))
        examples = loaded.splits["validation"]
        for pair in pairs:
            for condition in CONDITIONS:
                said = [study.said(run, task, condition, PAIRS[pair]) for run in runs]
                score = mean_score(loaded.task, said, examples)["word_error_rate"]
                by_seed = [
                    mean_score(loaded.task, [one], examples, resamples=0)["word_error_rate"].value
                    for one in said
                ]
                yield {
                    "model": title,
                    "task": task,
                    "rates": pair,
                    "noise": condition,
                    "n": len(examples),
                    "word_error_rate": asdict(score),
                    "by_seed": by_seed,
                }


def measure(
    study: Study, only: Sequence[str], seeds: Sequence[int]
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each model, as soon as they are there."""
    wanted: list[tuple[str, str, dict[str, list[int]], list[str], Sequence[int]]] = []
    if "strategies" in only:
        for title, experts in STRATEGIES.items():
            wanted.append((title, experts, RATES, list(PAIRS), seeds))
    if "rates" in only:
        for pair, rates in PAIRS.items():
            one = {key: [rate] for key, rate in rates.items()}
            wanted.append((f"shared, {pair} alone", "shared", one, [pair], seeds))
    if "smollm2" in only:
        wanted.append(("smollm2", "shared", RATES, list(PAIRS), seeds[:1]))
    total = sum(len(each[-1]) for each in wanted)
    began, done = time.perf_counter(), 0
    for title, experts, rates, pairs, own in wanted:
        runs = []
        for seed in own:
            runs.append(study.run(experts, rates, seed, title))
            done += 1
            took = time.perf_counter() - began
            left = took / done * (total - done) / 60
            print(f"[{done}/{total}] {title}, seed {seed}: about {left:.0f} min left", flush=True)
        yield list(rows_of(study, title, runs, pairs))


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", required=True, help="Where the strings are, or go.")
    parser.add_argument("--recordings", default="../shared/data/spoken_digits")
    parser.add_argument("--runs", default="runs/omni")
    parser.add_argument("--out", default=str(FILE))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS[:2]))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--small", action="store_true", help="Try the script out on few rows.")
    given = parser.parse_args()
    rows = {"train": 40, "validation": 8} if given.small else ROWS
    strings = compose(Path(given.recordings).resolve(), Path(given.set).resolve(), rows=rows)
    study = Study(strings, Path(given.runs).resolve(), given.steps, given.small)
    path = Path(given.out)
    result: dict[str, Any] = {"rows": []}
    if path.is_file():
        result = json.loads(path.read_text(encoding="utf-8"))
    result |= {
        "script": "benchmarks/omni_digits.py",
        "settings": {
            "seeds": given.seeds,
            "steps": given.steps,
            "rows": rows,
            "held_speaker": HELD,
            "levels": LEVELS,
            "conditions": CONDITIONS,
            "rates": RATES,
            "pairs": PAIRS,
            "weights": WEIGHTS,
            "encoders": ENCODERS,
            "recipe": LORA,
            "training": TRAINING,
            "decoder": DECODER | {"copying": COPYING},
            "smollm2": SMOLLM2,
        },
        "machine": machine("cpu"),
    }
    for fresh in measure(study, given.only, given.seeds):
        title = fresh[0]["model"]
        result["rows"] = [row for row in result["rows"] if row["model"] != title] + fresh
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result, indent=1) + "\n")
        for row in fresh:
            if row["noise"] == "clean":
                value = row["word_error_rate"]["value"]
                print(f"{title}, {row['task']}, {row['rates']}, clean: {value:.3f}", flush=True)
    print(path)


if __name__ == "__main__":
    main()
