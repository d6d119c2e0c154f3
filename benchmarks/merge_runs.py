"""The runs behind `merge_scores.py`: own experts, experts of parts of a task's rows, and what is trained together.

A run lies in a folder named by its settings' digest: a finished one is never repeated, an interrupted one goes on.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accuracy import told
from weft.comparison.jobs import Diverged, Job, run_job
from weft.config import Run
from weft.runs import RunFolder

TASKS = ("wnut17", "squad", "swag")
LORA = {"name": "lora", "rank": 8, "alpha": 16, "targets": ["query", "value"]}
TRAINING = {"base_dropout": 0.0, "batch_size": 16}
RATES = {"wnut17": 1.5e-3, "squad": 2.7e-3, "swag": 1.5e-3, "pos": 1.5e-3}
"""What results/mixtures.json found good for own experts; `pos` as the other tagger."""
EPOCHS = {"wnut17": 6, "squad": 8, "swag": 3, "pos": 3}
ROWS = {"wnut17": 1000, "squad": 500, "swag": 600, "pos": 600}
SCORED = {"wnut17": 400, "squad": 150, "swag": 200, "pos": 400}
"""Rows of a task that are trained on, and that are scored; both are drawn from the published splits."""
PARTS = (2, 4)
"""Into how many parts the rows of one task are cut."""
SEEDS = (0, 1, 2)
POS = "kind: token_classification\nformat: conll\nmax_length: 128\nstride: 32\nlabels: [{labels}]\n"
UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"


@dataclass(frozen=True)
class Study:
    """Where the data and the runs are."""

    data: Path
    runs: Path

    def own(self, task: str, seed: int) -> RunFolder:
        """The expert of one task, on all of its rows."""
        return self._run(f"own/{task}", {"task": self._task(task)}, task, seed)

    def other(
        self, way: str, recipe: Mapping[str, Any], rate: float, task: str, seed: int
    ) -> RunFolder:
        """One task on the same rows, trained in another way."""
        training = TRAINING | {"learning_rate": rate, "epochs": EPOCHS[task]}
        values = {"task": self._task(task), "recipe": recipe, "training": training}
        return self._run(f"{way}/{task}", values, task, seed)

    def parts(self, task: str, count: int, seed: int) -> list[RunFolder]:
        """Experts of one task, each on a part of the same rows: together they saw what `own` saw."""
        found = []
        for part in range(count):
            settings = self._task(task, part, count)
            # Steps as of all rows: a part is seen `count` times as often.
            found.append(
                self._run(f"part/{task}-{part}-of-{count}", {"task": settings}, task, seed)
            )
        return found

    def together(self, tasks: Sequence[str], seed: int) -> RunFolder:
        """One expert that several tasks train together, of as many numbers as theirs."""
        rank = 8 * len(tasks)
        recipe = LORA | {"rank": rank, "alpha": 2 * rank}
        values = {"tasks": [self._task(t) for t in tasks], "experts": "shared", "recipe": recipe}
        return self._run("together/" + "+".join(tasks), values, tasks[0], seed)

    def _run(self, what: str, values: Mapping[str, Any], task: str, seed: int) -> RunFolder:
        training = TRAINING | {"learning_rate": RATES[task], "epochs": EPOCHS[task]}
        fixed = {"base": "minilm", "device": "cpu", "seed": seed, "training": training}
        run = Run.model_validate({**fixed, "recipe": LORA, **values})
        return trained(self.runs / what / f"seed{seed}", run)

    def _task(self, task: str, part: int = 0, count: int = 1) -> dict[str, Any]:
        folder = self.runs / "data" / f"{task}-{part}-of-{count}"
        if not folder.is_dir():
            _write(task, self.data, folder, part, count)
        name = str(folder / "pos.yaml") if task == "pos" else task
        return {"name": name, "data": str(folder)}


def trained(place: Path, run: Run) -> RunFolder:
    """A run in a folder whose name says its settings' digest too, so that other settings never meet what is there.

    Args:
        place: The folder without the digest; what is missing is trained.
        run: The settings.

    Raises:
        Diverged: If its numbers are none any more; it is not tried again.
    """
    digest = hashlib.sha256(run.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:8]
    job = Job(place.with_name(f"{place.name}-{digest}"), run)
    if job.is_lost:
        raise Diverged(job.failure)
    if not job.is_complete:
        run_job(job, told(job, 0, 1))
    return RunFolder.open(job.folder)


def _write(task: str, data: Path, folder: Path, part: int, count: int) -> None:
    """Part `part` of the rows that the study trains on, and the rows that it scores."""
    read, write = FORMS[task]
    folder.mkdir(parents=True)
    for split, limit in (("train", ROWS[task]), ("validation", SCORED[task])):
        rows, name = read(data, split)
        drawn = np.random.default_rng(0).permutation(len(rows))[:limit].tolist()
        kept = drawn[part::count] if split == "train" else drawn
        write(folder / name, [rows[at] for at in sorted(kept)])
    if task == "pos":
        labels = ", ".join(["O", *(f"B-{tag}" for tag in UPOS.split() if tag != "PUNCT")])
        (folder / "pos.yaml").write_text(POS.format(labels=labels), encoding="utf-8")


def _sentences(text: str) -> list[list[str]]:
    """The token lines of a file of columns, sentence by sentence."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.strip():
            found.append([])
        elif not (line.startswith("# ") and "\t" not in line):
            found[-1].append(line)
    return [lines for lines in found if lines]


def _wnut(data: Path, split: str) -> tuple[list[Any], str]:
    name = f"{split}.conll"
    return _sentences((data / "wnut17" / name).read_text(encoding="utf-8")), name


def _pos(data: Path, split: str) -> tuple[list[Any], str]:
    """Every word of the treebank with its universal part of speech, as a tag of its own."""
    sentences = _sentences((data / "ud_ewt" / f"{split}.conllu").read_text(encoding="utf-8"))
    columns = [[line.split("\t") for line in lines] for lines in sentences]
    # Words that were cut in two have a line of their own, numbered 1-2; empty ones 1.1.
    rows = [[f"{own[1]}\t{_tag(own[3])}" for own in one if own[0].isdigit()] for one in columns]
    return rows, f"{split}.conll"


def _tag(part_of_speech: str) -> str:
    """A part of speech in the form of entities: a word each, and punctuation is none."""
    return "O" if part_of_speech == "PUNCT" else f"B-{part_of_speech}"


def _write_sentences(path: Path, rows: Sequence[Sequence[str]]) -> None:
    path.write_text("\n\n".join("\n".join(lines) for lines in rows) + "\n", encoding="utf-8")


def _squad(data: Path, split: str) -> tuple[list[Any], str]:
    """A question with its paragraph, each."""
    name = f"{split}-v1.1.json"
    articles = json.loads((data / "squad" / name).read_text(encoding="utf-8"))["data"]
    return [
        (paragraph["context"], question)
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ], name


def _write_questions(path: Path, rows: Sequence[tuple[str, Any]]) -> None:
    paragraphs = [{"context": context, "qas": [question]} for context, question in rows]
    values = {"version": "1.1", "data": [{"title": "sample", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(values), encoding="utf-8")


def _swag(data: Path, split: str) -> tuple[list[Any], str]:
    name = "train.csv" if split == "train" else "val.csv"
    with (data / "swag" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)), name


def _write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


Reader = Callable[[Path, str], tuple[list[Any], str]]
Writer = Callable[[Path, Any], None]
FORMS: dict[str, tuple[Reader, Writer]] = {
    "wnut17": (_wnut, _write_sentences),
    "pos": (_pos, _write_sentences),
    "squad": (_squad, _write_questions),
    "swag": (_swag, _write_table),
}


def all_runs(study: Study, seed: int) -> None:
    """Train what is missing of one seed."""
    for task in (*TASKS, "pos"):
        study.own(task, seed)
    for count in PARTS:
        study.parts("wnut17", count, seed)
    study.together(["wnut17", "pos"], seed)


if __name__ == "__main__":
    for own_seed in SEEDS:
        all_runs(
            Study(Path("../../shared/data").resolve(), Path("runs/merges").resolve()), own_seed
        )
