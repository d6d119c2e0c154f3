"""Which words does this reader not know? The population's expert, a reader's own, and both, at 1 to 100 % of labels.

    python benchmarks/personal_words.py --data ../shared/data

SemEval-2016's complex words (cwi2016): twenty readers, the same words, their own labels; a stand-in for jargon by
researchers. A seed splits the readers in two halves, and each half in turn is the population: its expert knows nothing
of the readers of the other half, who get experts of their own from a share of their training labels, whole sentences
at a time. So every reader is scored once a seed, on the validation sentences, of which training has seen none.

Baselines: nobody is asked and no word is unknown (majority), and words rarer than a threshold are unknown, the
threshold the best on the labels that the expert had too (frequency, counted in SQuAD's paragraphs). Scores are F1 of
the unknown words, averaged over readers, and macro F1 over both classes; intervals draw readers, 95 %, each reader's
score the mean of its seeds. Interrupt it as you like: the same call goes on. The result is results/personal/words.json.

Beside these (`personal_ways.py`): meta experts, mixed by a gate that reads the reader's history (RecLoRA), trained on
the population's readers once for all shares; and SmolLM2-135M, which is asked without examples and with the reader's
labels of the words most alike, of some words alone, the first seed, and compared with the others on these (`few`).
"""

import argparse
import csv
import json
import re
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import weft
from machine import machine
from personal_ways import ASKED, META, SHOTS, Histories, config, prompted, with_states
from weft.answering.evaluation import read_predictions
from weft.atomic import make_folder, write_text
from weft.runs import RunFolder
from weft.tasks.scoring import LEVEL, RESAMPLES, Score, interval
from weft.training.loop import train

RESULT = Path("results") / "personal" / "words.json"
SEEDS = [0, 1, 2]
SHARES = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0]
ALONE = [0.1, 1.0]
"""Shares at which a reader's own expert is tried without the population's."""
STEPS = (8, 60)
"""Fewest and most optimizer steps of a reader; between, three passes over the labels."""
BATCH = 16
SPEC: dict[str, Any] = {
    "kind": "sequence_classification",
    "labels": ["0", "1"],
    "columns": {"text": "word", "text_pair": "sentence", "label": "unknown", "user": "reader"},
    "max_length": 64,
    "truncate": True,
}
POPULATION: dict[str, Any] = {"max_steps": 250, "batch_size": 32, "learning_rate": 1e-3}
PERSONAL: dict[str, Any] = {
    "rank": 2, "alpha": 4.0, "learning_rate": 1e-3, "batch_size": BATCH, "apart": ["text_pair"],
}  # fmt: skip

Row = dict[str, Any]


def read_words(path: Path) -> tuple[list[str], list[Row]]:
    """The readers, and a row for each word with what each of them said."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [name for name in rows[0] if name.startswith("reader")], rows


def rows_of(words: list[Row], readers: list[str], name: str) -> list[Row]:
    """A row for each word and reader."""
    return [
        {
            "id": f"{name}-{at}-{reader}",
            "word": row["word"],
            "sentence": row["sentence"],
            "unknown": row[reader],
            "reader": reader,
        }
        for reader in readers
        for at, row in enumerate(words)
    ]


def share_of(words: list[Row], share: float, reader: str, seed: int) -> list[Row]:
    """Whole sentences in a seeded order until there are enough words; of smaller shares the larger ones hold all."""
    sentences = list(dict.fromkeys(row["sentence"] for row in words))
    order = np.random.default_rng([seed, *reader.encode()]).permutation(len(sentences))
    wanted, found = max(1, round(share * len(words))), []
    for at in order:
        found += [row for row in words if row["sentence"] == sentences[at]]
        if len(found) >= wanted:
            break
    return found[:wanted]


def settings(seed: int, experts: str, training: Row, personal: Row) -> Row:
    """A run's config."""
    return {
        "base": "minilm",
        "task": {"name": "words", "spec": SPEC, "class_weights": "balanced"},
        "experts": experts,
        "recipe": {"name": "lora", "rank": 8, "alpha": 16},
        "training": training,
        "personal": personal,
        "seed": seed,
        "device": "cpu",
    }


def finished(folder: Path, config: Row, data: Row) -> RunFolder:
    """The run of a folder: as it is, gone on with, or begun."""
    if (folder / "run.yaml").is_file():
        return train(resume=folder, data=data)
    return train(config, out=folder, data=data)


def f1_of(said: list[str], right: list[str]) -> tuple[float, float]:
    """F1 of the unknown words, and the mean over both classes; 0 where nothing is found."""
    each = []
    for label in ("1", "0"):
        hits = sum(a == b == label for a, b in zip(said, right, strict=True))
        total = said.count(label) + right.count(label)
        each.append(2 * hits / total if total else 0.0)
    return each[0], sum(each) / 2


def frequencies(folder: Path) -> Counter[str]:
    """How often a word stands in SQuAD's paragraphs."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        for page in said["data"]:
            for paragraph in page["paragraphs"]:
                found.update(re.findall(r"\w+", paragraph["context"].lower()))
    return found


def by_frequency(
    counts: Counter[str], known: list[Row], asked: list[Row], reader: str
) -> list[str]:
    """Unknown is what is rarer than the threshold that is best on the labels at hand."""
    own = [counts[row["word"].lower()] for row in known]
    right = [row[reader] for row in known]
    best = max(
        sorted({0, *own}), key=lambda most: f1_of([str(int(n < most)) for n in own], right)[0]
    )
    return [str(int(counts[row["word"].lower()] < best)) for row in asked]


Scores = dict[str, dict[str, list[tuple[float, float]]]]
"""By method and reader, the two F1 of every seed."""


class Study:
    """All runs and baselines, one after another, and what they score."""

    def __init__(
        self, data: Path, runs: Path, *, readers: int | None, steps: int | None, seeds: int
    ) -> None:
        names, self.train = read_words(data / "cwi2016" / "train.tsv")
        _, self.validation = read_words(data / "cwi2016" / "validation.tsv")
        self.readers = names[:readers]
        self.steps = steps
        self.seeds = SEEDS[:seeds]
        self.runs = runs
        self.counts = frequencies(data / "squad")
        self.histories = Histories(self.train)
        self.scores: Scores = {}
        self.few: Scores = {}
        drawn = np.random.default_rng(0).permutation(len(self.validation))[:ASKED]
        self.asked = sorted(drawn.tolist())
        self.began, self.done = time.monotonic(), 0
        self.total = 2 * seeds * (2 + len(SHARES) + len(ALONE))

    def run(self) -> None:
        for seed in self.seeds:
            order = np.random.default_rng(seed).permutation(self.readers).tolist()
            half = len(order) // 2
            for fold, (own, others) in enumerate(
                ((order[half:], order[:half]), (order[:half], order[half:]))
            ):
                self._fold(seed, self.runs / f"seed{seed}-half{fold}", own, others)
        for shots in SHOTS:
            self._prompt(shots)

    def _fold(self, seed: int, runs: Path, own: list[str], others: list[str]) -> None:
        training = {**POPULATION, **({"max_steps": self.steps} if self.steps else {})}
        data = {
            "train": rows_of(self.train, others, "train"),
            "validation": rows_of(self.validation, own, "validation"),
        }
        population = finished(runs / "population", settings(seed, "shared", training, {}), data)
        self._take("population", population, own)
        self._meta(seed, runs / "meta", training, data)
        for reader in own:
            right = [row[reader] for row in self.validation]
            self._add("majority", reader, ["0"] * len(right), right)
        for share in SHARES:
            labels = {reader: share_of(self.train, share, reader, seed) for reader in own}
            for reader in own:
                said = by_frequency(self.counts, labels[reader], self.validation, reader)
                right = [row[reader] for row in self.validation]
                self._add(f"frequency {share:g}", reader, said, right)
            rows = [row for reader in own for row in rows_of(labels[reader], [reader], "train")]
            few = len(labels[own[0]])
            steps = self.steps or min(max(STEPS[0], -(-3 * few // BATCH)), STEPS[1])
            personal = {**PERSONAL, "max_steps": steps, "population": str(population.path)}
            methods = ["shared+personal", *(["personal"] if share in ALONE else [])]
            for method in methods:
                config = settings(seed, method, training, personal)
                found = finished(runs / f"{method}-{share:g}", config, {**data, "train": rows})
                self._take(f"{method} {share:g}", found, own)

    def _meta(self, seed: int, runs: Path, training: Row, data: Row) -> None:
        """Experts mixed by history: trained on histories of every share, asked with the reader's of each."""
        states = {
            share: {
                reader: self.histories.state(share_of(self.train, share, reader, seed), reader)
                for reader in self.readers
            }
            for share in SHARES
        }
        asked = data["validation"]
        rows = {
            "train": with_states(data["train"], list(states.values())),
            "validation": with_states(asked, [states[1.0]]),
        }
        found = finished(runs, config(settings(seed, "shared", {}, {}), SPEC, training), rows)
        self.done += 1
        asker = weft.load(found.path / "words", device="cpu")
        for share, known in states.items():
            said = list(asker.predict(with_states(asked, [known])))
            for reader in dict.fromkeys(row["reader"] for row in asked):
                own = [at for at, row in enumerate(asked) if row["reader"] == reader]
                labels = [str(said[at]["label"]) for at in own]
                right = [asked[at]["unknown"] for at in own]
                self._add(f"meta experts {share:g}", reader, labels, right)

    def _prompt(self, shots: int) -> None:
        seed = self.seeds[0]
        for reader in self.readers:
            asked = [self.validation[at] for at in self.asked]
            labelled = share_of(self.train, 1.0, reader, seed)
            said = prompted(reader, labelled, asked, shots, seed)
            pair = f1_of(said, [row[reader] for row in asked])
            self.few.setdefault(f"SmolLM2, {shots} of the reader's words shown", {})[reader] = [
                pair
            ]
            print(f"prompted with {shots} words  {reader}  {pair[0]:.3f}", flush=True)

    def _take(self, method: str, folder: RunFolder, readers: list[str]) -> None:
        said = read_predictions(folder.path)
        for reader in readers:
            rows = rows_of(self.validation, [reader], "validation")
            labels = [str(said[row["id"]]["label"]) for row in rows]
            self._add(method, reader, labels, [row["unknown"] for row in rows])
        self.done += 1
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        print(f"{self.done}/{self.total} runs  {folder.path}  {left / 60:.0f} min left", flush=True)

    def _add(self, method: str, reader: str, said: list[str], right: list[str]) -> None:
        own = self.scores.setdefault(method, {}).setdefault(reader, [])
        own.append(f1_of(said, right))
        few = self.few.setdefault(method, {}).setdefault(reader, [])
        few.append(f1_of([said[at] for at in self.asked], [right[at] for at in self.asked]))


def over_readers(own: dict[str, list[tuple[float, float]]], which: int) -> Score:
    """The mean over readers of the mean over seeds; the interval draws readers."""
    values = np.array([np.mean([pair[which] for pair in pairs]) for pairs in own.values()])
    shares = np.full(len(values), 1 / len(values))
    counts = np.random.default_rng(0).multinomial(len(values), shares, size=RESAMPLES)
    return interval(float(values.mean()), counts @ values / len(values), LEVEL)


def difference(
    own: dict[str, list[tuple[float, float]]], other: dict[str, list[tuple[float, float]]]
) -> Score:
    """How much more F1 of the unknown words the one has, paired by reader."""
    pairs = {
        reader: [(a[0] - b[0], a[1] - b[1]) for a, b in zip(found, other[reader], strict=True)]
        for reader, found in own.items()
    }
    return over_readers(pairs, 0)


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/personal_words")
    parser.add_argument("--out", default=str(RESULT))
    parser.add_argument("--readers", type=int, help="the first so many alone, to try it")
    parser.add_argument("--steps", type=int, help="of every training, to try it")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="so many alone, to try it")
    own = parser.parse_args()
    study = Study(
        Path(own.data), Path(own.runs), readers=own.readers, steps=own.steps, seeds=own.seeds
    )
    study.run()
    everything = study.scores["shared+personal 1"]
    result = {
        "script": "benchmarks/personal_words.py",
        "settings": {
            "spec": SPEC, "population": POPULATION, "personal": PERSONAL, "steps": STEPS,
            "seeds": study.seeds, "shares": SHARES, "readers": len(study.readers),
            "words": {"train": len(study.train), "validation": len(study.validation)},
            "meta": META, "asked": len(study.asked), "shots": SHOTS,
        },
        "rows": [
            {
                "method": method,
                "f1": asdict(over_readers(scores, 0)),
                "f1_macro": asdict(over_readers(scores, 1)),
                "from_population": asdict(difference(scores, study.scores["population"])),
                "from_all_labels": asdict(difference(scores, everything)),
            }
            for method, scores in study.scores.items()
        ],
        "few": [
            {
                "method": method,
                "f1": asdict(over_readers(scores, 0)),
                "f1_macro": asdict(over_readers(scores, 1)),
            }
            for method, scores in study.few.items()
        ],
        "machine": machine("cpu"),
    }  # fmt: skip
    make_folder(Path(own.out).parent)
    write_text(Path(own.out), json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(row["method"], row["f1"], row["f1_macro"])
    print(own.out)


if __name__ == "__main__":
    main()
