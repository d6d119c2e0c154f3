"""Twenty-five tasks of three kinds: the three sets cut by entity type, by where texts come from, and by topic.

    wnut17   6 entity types, marked alone, in half of the rows      `generated_tasks.py`
    wnut17   2 sources: tweets (the published training split), comments (the published validation split)
    squad    7 groups of articles, in the order of their titles
    codah    10 topics: k-means over the embedded base's vectors of the sentences that are to be gone on with

A task is scored on rows of its own source or topic that it was not trained on. The sets name no genre beyond where
texts come from, and no topic: the clusters are ours. `ORDER` mixes the kinds, so that the first n tasks are of all.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.cluster import KMeans

from generated_tasks import TYPES, write_tasks
from weft.answering.texts.vectors import vectors_of
from weft.atomic import atomic_folder, write_text
from weft.base.loading import load_base
from weft.config import TaskSettings
from weft.data.reading import find_spec

ARTICLES, TOPICS = 7, 10
"""Groups of articles, and clusters of sentences."""
ROWS = {"wnut17": (800, 150), "squad": (300, 60), "swag": (160, 40)}
"""Rows of a task that it learns from and that it is scored on, at most."""
OF_TYPES = [f"type.{name}".replace("-", "_") for name in TYPES.split()]
OF_SOURCES = ["tweets", "comments"]
OF_ARTICLES = [f"articles{at}" for at in range(1, ARTICLES + 1)]
OF_TOPICS = [f"topic{at}" for at in range(1, TOPICS + 1)]


def order() -> list[str]:
    """The tasks' names: three kinds in turns for as long as there are any."""
    left = [OF_SOURCES + OF_TYPES, list(OF_ARTICLES), list(OF_TOPICS)]
    found = []
    while any(left):
        found += [names.pop(0) for names in left if names]
    return found


def written(data: Path, folder: Path) -> dict[str, Path]:
    """Every task's YAML by its name, in `order`; written once."""
    types = write_tasks(data, folder / "types")
    found = {name: types[name] for name in OF_TYPES}
    for name, values, splits in _others(data, folder):
        path = folder / name / f"{name}.yaml"
        found[name] = path
        if path.is_file():
            continue
        with atomic_folder(path.parent) as draft:
            write_text(draft / path.name, yaml.safe_dump({**values, "name": name}))
            for file, text in splits.items():
                write_text(draft / file, text)
    return {name: found[name] for name in order()}


def kind_of(task: str) -> str:
    """The set that a task is cut out of."""
    if task in OF_ARTICLES:
        return "squad"
    return "swag" if task in OF_TOPICS else "wnut17"


def _others(data: Path, folder: Path) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, str]]]:
    """Name, what the YAML says, and text by file name; texts only where they are still to be written."""
    missing = [
        name
        for name in [*OF_SOURCES, *OF_ARTICLES, *OF_TOPICS]
        if not (folder / name / f"{name}.yaml").is_file()
    ]
    texts = {name: {} for name in [*OF_SOURCES, *OF_ARTICLES, *OF_TOPICS]}
    if missing:
        texts = _sources(data) | _articles(data) | _topics(data)
    for name, own in texts.items():
        spec = find_spec(TaskSettings(name=kind_of(name)))
        yield (
            name,
            spec.model_dump(mode="json", exclude_defaults=True, exclude={"hub"}),
            own,
        )


def _cut(rows: Sequence[Any], kind: str, name: str) -> tuple[list[Any], list[Any]]:
    """Rows to learn from and to be scored on, drawn by the task's name; a fifth at most is scored."""
    train, scored = ROWS[kind]
    drawn = [
        rows[at] for at in np.random.default_rng([*name.encode()]).permutation(len(rows)).tolist()
    ]
    scored = min(scored, len(drawn) // 5)
    return drawn[scored : scored + train], drawn[:scored]


def _sources(data: Path) -> dict[str, dict[str, str]]:
    found = {}
    for name, split in zip(OF_SOURCES, ("train", "validation"), strict=True):
        text = (data / "wnut17" / f"{split}.conll").read_text(encoding="utf-8")
        rows = [own.strip("\n") for own in text.split("\n\n") if own.strip()]
        parts = zip(("train", "validation"), _cut(rows, "wnut17", name), strict=True)
        found[name] = {f"{part}.conll": "\n\n".join(own) + "\n" for part, own in parts}
    return found


def _articles(data: Path) -> dict[str, dict[str, str]]:
    said = json.loads((data / "squad" / "train-v1.1.json").read_text(encoding="utf-8"))["data"]
    articles = sorted(said, key=lambda article: article["title"])
    found = {}
    for at, name in enumerate(OF_ARTICLES):
        # Whole paragraphs: no question is scored whose paragraph was learnt from.
        paragraphs = [
            {"context": own["context"], "qas": own["qas"][:2]}
            for article in articles[at::ARTICLES]
            for own in article["paragraphs"]
        ]
        train, scored = _cut(paragraphs, "squad", name)
        files = zip(("train", "validation"), (train, scored), ROWS["squad"], strict=True)
        found[name] = {
            f"{split}-v1.1.json": json.dumps(
                {"version": "1.1", "data": [{"title": name, "paragraphs": own[: most // 2]}]}
            )
            for split, own, most in files
        }
    return found


def _topics(data: Path) -> dict[str, dict[str, str]]:
    with (data / "swag" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    vectors = vectors_of(load_base("minilm"), [row["sent1"] for row in rows])
    labels = KMeans(TOPICS, random_state=0).fit_predict(vectors)
    found = {}
    for at, name in enumerate(OF_TOPICS):
        own = [row for row, label in zip(rows, labels, strict=True) if label == at]
        parts = zip(("train.csv", "val.csv"), _cut(own, "swag", name), strict=True)
        found[name] = {part: _table(these) for part, these in parts}
    return found


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
