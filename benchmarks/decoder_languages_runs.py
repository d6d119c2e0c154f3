"""What `decoder_languages.py` trains: rows, settings, and the work of one cell.

Rates and alphas of LLiMba's configurations are not published. Here alpha gives every adapter the scale that LoRA has by
default, 2 (rsLoRA: alpha = 2 sqrt(rank)), and all adapters have one rate, full fine-tuning a tenth of it. Key and value
maps of the base are 192 wide, so theirs is the highest rank there.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weft
from weft.answering.evaluation import predictions
from weft.answering.inference import padding_id
from weft.atomic import write_text
from weft.base.loading import load_base
from weft.data.encoding import cache_folder, encode_examples
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model
from weft.tasks.contract import Prediction, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.vocabulary.retokenise import retokenise

CORPORA = {
    "english": "don_quixote.en.txt",
    "galician": "ctg.gl.txt",
    "dutch": "alpino.nl.txt",
    "urdu": "udtb.ur.txt",
}
SEQUENCE = ("galician", "dutch", "urdu")
LENGTH = 96
"""Tokens of a sequence at most."""
SPEC = {
    "kind": "causal_lm",
    "max_length": LENGTH,
    "truncate": True,
    "options": {"tokenization": True},
}
SHARE = 0.17
PRETRAINING = {"name": "lora", "rank": 8, "alpha": 32, "dropout": 0.05}
ALSO = ["embeddings", "lm_head"]
NARROW = 192
"""Width of the base's key and value maps."""
PRETRAINING_RATE, RATE, FULL_RATE = 3e-4, 5e-4, 5e-5
PROMPT = "Translate into Galician: {}\nGalician:"


def adapter(name: str, rank: int, alpha: float) -> dict[str, Any]:
    """A configuration of an adapter on all linear maps."""
    least = {part: min(rank, NARROW) for part in ("key", "value")}
    return {"name": name, "rank": rank, "alpha": alpha, "targets": "all-linear", "ranks": least}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora-r16": adapter("lora", 16, 32),
    "lora-r64": adapter("lora", 64, 128),
    "rslora-r128": adapter("rslora", 128, 2 * 128**0.5),
    "rslora-r256": adapter("rslora", 256, 2 * 256**0.5),
    "dora-r256": adapter("dora", 256, 512),
}
LAYRA = {"name": "layra", "rank": 8, "alpha": 16, "targets": "all-linear"}


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rows: int
    """Of a corpus, trained on."""
    pairs: int
    held: int
    """Rows of a corpus that are scored, of each language."""
    translated: int
    epochs: float
    tokens: int
    """Of the new tokenizer."""
    written: int
    """Tokens of a translation at most."""
    seeds: tuple[int, ...]


WHOLE = Sizes(120, 64, 32, 24, 2, 4096, 64, (0, 1, 2))
TINY = Sizes(16, 8, 4, 2, 1, 400, 8, (0, 1))


@dataclass(frozen=True)
class Study:
    """All cells that there are."""

    base: str
    data: Path
    folder: Path
    sizes: Sizes

    def rows(self, language: str) -> dict[str, list[dict[str, Any]]]:
        """Train from the beginning, validation from the last tenth."""
        text = (self.data / "text" / CORPORA[language]).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-len(lines) // 10 :]
        parts = {"train": lines[: self.sizes.rows], "validation": last[: self.sizes.held]}
        return {
            split: [{"id": f"{language}-{split}-{at}", "text": line} for at, line in enumerate(own)]
            for split, own in parts.items()
        }

    def pairs(self) -> dict[str, list[dict[str, Any]]]:
        """Sentences to translate."""
        found = {}
        sizes = {"train": self.sizes.pairs, "validation": self.sizes.translated}
        for split, size in sizes.items():
            path = self.data / "pud_en_gl" / f"{split}.tsv"
            lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
            short = [(one, other) for one, other in lines if len(one) + len(other) < 3 * LENGTH]
            found[split] = [
                {"id": f"{split}-{at}", "prompt": PROMPT.format(one), "completion": f" {other}"}
                for at, (one, other) in enumerate(short[:size])
            ]
        return found

    def settings(
        self, base: str, recipe: Mapping[str, Any], rate: float, seed: int, rows: int, **task: Any
    ) -> dict[str, Any]:
        """Of one training; `rows` decide how often it looks at the held-out tenth."""
        batch = 4
        steps = max(1, round(rows * 0.9 * self.sizes.epochs / batch))
        return {
            "base": base,
            "task": {"name": "language", "spec": SPEC, **task},
            "recipe": dict(recipe),
            "training": {
                "epochs": self.sizes.epochs,
                "batch_size": batch,
                "learning_rate": rate,
                "early_stopping": 2,
                "eval_every": max(1, steps // 4),
            },
            "seed": seed,
            "device": "cpu",
        }

    def retokenised(self) -> Path:
        """The base with a tokenizer of the Galician corpus."""
        out = self.folder / "retokenised"
        if not out.exists():
            corpus = self.folder / "galician.txt"
            text = (self.data / "text" / CORPORA["galician"]).read_text(encoding="utf-8")
            lines = text.splitlines()
            # Nothing of what is scored.
            write_text(corpus, "\n".join(lines[: -len(lines) // 10]) + "\n")
            retokenise(self.base, out, corpus=[corpus], size=self.sizes.tokens)
        return out

    def replayed(self) -> str:
        """A set of English rows to replay, as files."""
        folder = self.folder / "replay"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": row["text"]}) for row in self.rows("english")["train"]]
        write_text(folder / "train.jsonl", "\n".join(lines) + "\n")
        write_text(folder / "english.yaml", "kind: causal_lm\n")
        return str(folder / "english.yaml")

    def scored(self, run: Path, languages: Sequence[str]) -> dict[str, list[Prediction]]:
        """What a run's expert says of the validation rows of each language."""
        found = {}
        for language in languages:
            result = weft.evaluate(run, data=self.rows(language)["validation"], save=False)
            assert not isinstance(result, list)
            found[language] = result.predictions
        return found

    def bare(self, base: str) -> dict[str, Any]:
        """What nobody trained says."""
        loaded, own = load_base(base), task()
        model = Model(loaded)
        model.add(Expert("bare", {}, Head("causal_lm", loaded, 0, seed=0)))
        said = {}
        for language in CORPORA:
            rows = [own.check(row, language) for row in self.rows(language)["validation"]]
            records = encode_examples(own, rows, loaded.tokenizer, cache=cache_folder())
            said[language] = predictions(
                model, own, rows, records, head="bare", kind="causal_lm", members=(),
                pad_id=padding_id(loaded), device="cpu",
            )  # fmt: skip
        return {"said": said}

    def pretrained(
        self, replay: bool, new: bool, seed: int, keep: Path | None = None
    ) -> dict[str, Any]:
        """One continued pre-training."""
        out, data = self.folder / "run", self.rows("galician")
        mixed = {"replay": {"name": self.replayed(), "share": SHARE}} if replay else {}
        base = str(self.retokenised()) if new else self.base
        recipe = {**PRETRAINING, "targets": "all-linear", "train_also": ALSO}
        run = train(
            self.settings(base, recipe, PRETRAINING_RATE, seed, self.sizes.rows, **mixed), data, out
        )
        if keep is not None:
            weft.export(out, keep, "merged")
        return {"said": self.scored(out, ("galician", "english")), **run}

    def checkpoint(self) -> Path:
        """The base of the translations: Galician with replay, the base's own tokenizer, seed 0."""
        out = self.folder / "galician"
        if not out.exists():
            self.pretrained(True, False, 0, keep=out)
        return out

    def translated(self, name: str, seed: int) -> dict[str, Any]:
        """One translation tuning."""
        out, data = self.folder / "run", self.pairs()
        rate = FULL_RATE if name == "full" else RATE
        settings = self.settings(
            str(self.checkpoint()), CONFIGURATIONS[name], rate, seed, self.sizes.pairs
        )
        return {**train(settings, data, out), **self.written(out, data)}

    def written(self, run: Path, data: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Likelihood of the right translations, on both sides, and the translations themselves."""
        likely = {}
        for split in ("train", "validation"):
            result = weft.evaluate(run, data=data[split], save=False)
            assert not isinstance(result, list)
            likely[split] = result.predictions
        asked = [{"id": row["id"], "prompt": row["prompt"]} for row in data["validation"]]
        answers = weft.predict(
            run, asked, generation={"max_new_tokens": self.sizes.written}, device="cpu"
        )
        said = [answer["continuation"].strip().split("\n")[0] for answer in answers]
        return {"said": likely, "written": said}

    def layered(self, seed: int) -> dict[str, Any]:
        """Languages one after the other, and the arithmetic of the first with a translation expert."""
        base, found, costs = self.base, {}, {}
        for language in SEQUENCE:
            out = self.folder / "layra" / language
            data = self.rows(language)
            costs[language] = train(
                self.settings(base, LAYRA, PRETRAINING_RATE, seed, self.sizes.rows), data, out
            )
            found[language] = self.scored(out, tuple(CORPORA))
            merged = self.folder / "layra" / f"{language}-merged"
            shutil.rmtree(merged, ignore_errors=True)
            weft.export(out, merged, "merged")
            base = str(merged)
        pairs, chat = self.pairs(), self.folder / "layra" / "translating"
        train(
            self.settings(self.base, CONFIGURATIONS["lora-r16"], RATE, seed, self.sizes.pairs),
            pairs,
            chat,
        )
        sums = {}
        for count in (0.0, 0.5, 1.0):
            out = self.folder / "layra" / "sum"
            shutil.rmtree(out, ignore_errors=True)
            language = self.folder / "layra" / SEQUENCE[0]
            text = f"base + {count}*'{language}' + 1.0*'{chat}'"
            weft.arithmetic(text if count else f"base + 1.0*'{chat}'", out, scores=False)
            sums[f"{count:g}"] = self.written(out, pairs)
        shutil.rmtree(self.folder / "layra")
        return {"said": found, "sums": sums, "training": costs}


def task() -> Task:
    """How everything is scored."""
    return kinds.load("causal_lm")(TaskSpec.model_validate({"name": "language", **SPEC}))


def train(settings: dict[str, Any], data: Any, out: Path) -> dict[str, Any]:
    """A run in place of whatever was there; what it cost."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    run = weft.train(settings, data=data, out=out)
    steps = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    return {"seconds": time.monotonic() - began, "steps": steps.get("steps")}
