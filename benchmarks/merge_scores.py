"""Merges on real tasks: what is left of each expert, of parts of one task, and of two skills on one text.

    python benchmarks/merge_scores.py --data ../shared/data [--seeds 0 1 2] [--only tasks skills parts]

(a) The experts of WNUT17, SQuAD and CODAH made into one by every method: each task's score as a share of its own
expert's, and the size of what came out. (b) Two and four experts of WNUT17, each trained on a part of its rows, against
one on all rows and against the mean of their predictions. (c) A tagger of entities and a tagger of parts of speech,
merged and trained together. Small sets and budgets (`merge_runs.py`); weights are 1 / n where a row does not say more.
A finished run or merge is never repeated: interrupt it as you like. The result is results/merges.json.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import machine
from merge_runs import EPOCHS, LORA, PARTS, RATES, ROWS, SCORED, SEEDS, TASKS, TRAINING, Study
from weft.answering.evaluation import read_predictions
from weft.answering.inference import outputs, padding_id
from weft.atomic import make_folder, write_text
from weft.merging.heads import chosen
from weft.merging.merge import merge
from weft.merging.record import read_record
from weft.merging.sources import find, read
from weft.merging.stage import Rows, Stage
from weft.methods.merges import merges
from weft.runs import RunFolder
from weft.tasks.contract import Prediction
from weft.tasks.scoring import paired_difference, score

SUMS = ("cat",)
"""Methods that are shown with weights of 1 as well: the sum of the experts."""
OF_PARTS = ("cat", "ties", "soups")
OF_SKILLS = ("cat", "ties", "tsv", "soups")
SEARCHED = ("cat",)
"""Methods of (c) whose weights are searched on held-out rows as well."""
FILE = Path("results") / "merges.json"


def merged(
    study: Study, what: str, runs: Sequence[RunFolder], method: str, **values: Any
) -> RunFolder:
    """One merge, made if it is not there."""
    folder = RunFolder(study.runs / "merged" / what)
    if not folder.path.is_dir():
        print(f"merge {what}", flush=True)
        merge([run.path for run in runs], method, out=folder.path, device="cpu", **values)
    return folder


def row_of(folder: RunFolder) -> dict[str, Any]:
    """What one merge has left of every task."""
    record = read_record(folder.path)
    assert record is not None  # it was merged
    return {
        "method": record.method,
        "weights": [made.weight for made in record.experts],
        "error": record.error,
        "rank": record.rank,
        "parameters": (folder.parts()[0].training or {})["adapter_parameters"],
        "tasks": [
            {
                **asdict(row),
                "run": Path(row.run).parent.name,
                "share_of_own": row.after.value / row.before.value if row.before.value else None,
            }
            for row in record.scores
        ],
    }


def by_method(study: Study, seed: int) -> Iterator[dict[str, Any]]:
    """(a): the experts of three tasks by every method."""
    own = [study.own(task, seed) for task in TASKS]
    for name in merges.names():
        # A lorahub of three heads is none of the paper, but its weights are found in the same way.
        yield row_of(merged(study, f"tasks/{name}-seed{seed}", own, name, seed=seed))
    for name in SUMS:
        what = f"tasks/{name}-sum-seed{seed}"
        yield row_of(merged(study, what, own, name, weights=[1.0] * len(own)))


def by_parts(study: Study, seed: int) -> Iterator[dict[str, Any]]:
    """(b): experts of parts of one task's rows; the head is the first one's."""
    whole = study.own("wnut17", seed)
    for count in PARTS:
        parts = study.parts("wnut17", count, seed)
        said: dict[str, list[Prediction]] = {}
        for name in OF_PARTS:
            folder = merged(study, f"parts/{name}-{count}-seed{seed}", parts, name, seed=seed)
            said[name] = list(read_predictions(folder.path).values())
        found = find([part.path for part in parts], None)
        base, sources = read(found, torch.float32, None)
        stage = Stage(base, sources, chosen(found, None)[0], device="cpu")
        rows = stage.rows(stage.answered[0].part, "validation")
        said["mean of predictions"] = mean_of(stage, rows)
        own = {name: list(read_predictions(part.path).values()) for name, part in _named(parts)}
        for name, answers in {**said, **own}.items():
            yield _against(rows, answers, whole) | {"what": name, "parts": count}


def _named(parts: Sequence[RunFolder]) -> list[tuple[str, RunFolder]]:
    return [(f"part {at}", part) for at, part in enumerate(parts)]


def mean_of(stage: Stage, rows: Rows) -> list[Prediction]:
    """The mean of several experts' probabilities, each with its own head."""
    total: list[list[np.ndarray]] = []
    for source in stage.sources:
        [part] = source.found.parts
        name = stage.name_of(source.found, part.label)
        one = stage.answered[0]
        items = [stage.item(one, (name,), record) for record in rows.records]
        items = [type(item)(name, item.kind, (name,), item.record) for item in items]
        raw = outputs(stage.model, items, pad_id=padding_id(stage.base), device=stage.device)
        found = [[_softmax(np.asarray(window)) for window in windows] for windows in raw]
        total = (
            found
            if not total
            else [
                [a + b for a, b in zip(x, y, strict=True)]
                for x, y in zip(total, found, strict=True)
            ]
        )
    count = len(stage.sources)
    return [
        rows.loaded.task.decode(example, record, [np.log(window / count) for window in windows])
        for example, record, windows in zip(rows.examples, rows.records, total, strict=True)
    ]


def _softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def _against(rows: Rows, said: Sequence[Prediction], whole: RunFolder) -> dict[str, Any]:
    """A score, and how far it is from the expert that saw all rows."""
    task = rows.loaded.task
    theirs = read_predictions(whole.path)
    reference = [theirs[example["id"]] for example in rows.examples]
    own = score(task, said, rows.examples)[task.metric]
    difference = paired_difference(task, said, reference, rows.examples)[task.metric]
    return {
        "metric": task.metric,
        "n": len(said),
        "score": asdict(own),
        "all_rows": asdict(score(task, reference, rows.examples)[task.metric]),
        "difference_to_all_rows": asdict(difference),
    }


def by_skills(study: Study, seed: int) -> Iterator[dict[str, Any]]:
    """(c): two taggers of one text."""
    skills = ("wnut17", "pos")
    own = [study.own(task, seed) for task in skills]
    for name in OF_SKILLS:
        yield row_of(merged(study, f"skills/{name}-seed{seed}", own, name, seed=seed))
    for name in SEARCHED:
        what = f"skills/{name}-searched-seed{seed}"
        found = merged(study, what, own, name, search=True, seed=seed)
        yield row_of(found) | {"searched": True}
    found = merged(study, f"skills/cat-sum-seed{seed}", own, "cat", weights=[1.0, 1.0])
    yield row_of(found)
    together = study.together(skills, seed)
    tasks = []
    for part, alone in zip(together.parts(), own, strict=True):
        rows = {row["name"]: row for row in part.metrics}
        before = {row["name"]: row for row in alone.metrics}
        metric = next(iter(rows))
        share = rows[metric]["value"] / before[metric]["value"]
        tasks.append({"task": part.path.name, "after": rows[metric], "share_of_own": share})
    yield {"method": "trained together", "tasks": tasks}


PIECES = {"tasks": by_method, "skills": by_skills, "parts": by_parts}


def written(study: Study) -> None:
    """Put all rows that there are into the result file."""
    settings = {"lora": LORA, "training": TRAINING, "rates": RATES, "epochs": EPOCHS}
    found: dict[str, Any] = {
        "machine": machine("cpu"),
        "settings": settings | {"trained on": ROWS, "scored on": SCORED},
    }
    for key in PIECES:
        files = sorted((study.runs / "rows").glob(f"{key}-seed*.json"))
        found[key] = [row for file in files for row in json.loads(file.read_text("utf-8"))]
    write_text(FILE, json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Do what is missing, a seed after the other, and write the result file after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/merges")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--only", nargs="*", choices=PIECES, default=list(PIECES))
    arguments = parser.parse_args()
    study = Study(Path(arguments.data).resolve(), Path(arguments.runs).resolve())
    make_folder(study.runs / "rows")
    for seed in arguments.seeds:
        for key in arguments.only:
            rows = []
            for row in PIECES[key](study, seed):
                rows.append({"seed": seed, **row})
                text = json.dumps(rows, indent=1)
                write_text(study.runs / "rows" / f"{key}-seed{seed}.json", text + "\n")
                written(study)
                print(key, seed, row.get("method") or row.get("what"), flush=True)


if __name__ == "__main__":
    main()
