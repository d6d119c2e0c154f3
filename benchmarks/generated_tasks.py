"""Small tasks of one kind: is a word of this class? One class of one annotated set is a task, O and B-it its labels.

    ud_ewt     14 parts of speech, 15 relations        streusle   8 supersenses
    wnut17     6 types                                 cwi2016    8 readers: the words that one of them does not know

A reader's task counts words that nobody asked them about as known. CODAH (`swag`) is of another kind and left out.
Rows are drawn so that half of them hold the class, where there are enough; sentences are of 4 to 30 words.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weft.atomic import atomic_folder

POS = "NOUN PUNCT VERB PRON ADP DET PROPN ADJ AUX ADV CCONJ PART SCONJ NUM"
RELATIONS = "nsubj obj obl nmod amod advmod det case mark cc conj compound root aux cop"
SUPERSENSES = "v.stative n.GROUP n.PERSON n.FOOD n.ACT n.ARTIFACT v.social n.LOCATION"
TYPES = "person location group product creative-work corporation"
READERS = 8
TRAIN, VALIDATION = 400, 150
Sentence = list[tuple[str, bool]]


def write_tasks(data: Path, folder: Path, most: int | None = None) -> dict[str, Path]:
    """Every task's YAML by its name, `<source>.<class>`; written once.

    Args:
        data: Folder of the sets.
        folder: Where to write.
        most: Classes of each source; None is all.
    """
    found = {}
    for source, sentences, classes in _sources(data):
        for name in classes[:most]:
            task = f"{source}.{name}".replace("-", "_")
            found[task] = folder / task / f"{task}.yaml"
            if found[task].is_file():
                continue
            with atomic_folder(folder / task) as draft:
                _write(draft, task, [_marked(rows, name) for rows in sentences])
    return found


def _sources(data: Path) -> Iterator[tuple[str, Sequence[list[Any]], Sequence[str]]]:
    """A source's name, its training and validation sentences as (word, classes), and its classes."""
    trees = [_lines(data / "ud_ewt" / f"{split}.conllu") for split in ("train", "validation")]
    pos, relations = (
        tuple(
            [[(row[1], {row[at].partition(":")[0]}) for row in own] for own in part]
            for part in trees
        )
        for at in (3, 7)
    )
    yield "pos", pos, POS.split()
    yield "relation", relations, RELATIONS.split()
    senses = [
        [(row[1], {row[13]}) for row in own]
        for own in _lines(data / "streusle" / "train.conllulex")
    ]
    cut = 4 * len(senses) // 5
    yield "supersense", (senses[:cut], senses[cut:]), SUPERSENSES.split()
    types = tuple(
        [
            [(row[0], {row[-1][2:]}) for row in own]
            for own in _lines(data / "wnut17" / f"{split}.conll")
        ]
        for split in ("train", "validation")
    )
    yield "type", types, TYPES.split()
    known = tuple(_readers(data / "cwi2016" / f"{split}.tsv") for split in ("train", "validation"))
    yield "reader", known, [f"reader{at:02}" for at in range(1, READERS + 1)]


def _lines(path: Path) -> list[list[list[str]]]:
    """The sentences of a file with a word a line, as columns; comments, words of several and empty words left out."""
    found: list[list[list[str]]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        row = line.split("\t")
        if not line.strip():
            found.append([])
        elif len(row) == 2 or (len(row) > 2 and row[0].isdigit()):
            found[-1].append(row)
    return [own for own in found if own]


def _readers(path: Path) -> list[list[tuple[str, set[str]]]]:
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    names = head.split("\t")
    found: dict[str, list[tuple[str, set[str]]]] = {}
    for line in lines:
        row = dict(zip(names, line.split("\t"), strict=True))
        own = found.setdefault(row["sentence"], [(word, set()) for word in row["sentence"].split()])
        place = int(row["index"])
        if place < len(own):
            own[place][1].update(
                name for name in names if name.startswith("reader") and row[name] == "1"
            )
    return list(found.values())


def _marked(sentences: list, name: str) -> list[Sentence]:
    own = [[(word, name in classes) for word, classes in rows] for rows in sentences]
    return [rows for rows in own if 4 <= len(rows) <= 30 and all(word.strip() for word, _ in rows)]


def _write(folder: Path, task: str, splits: list[list[Sentence]]) -> None:
    label = f"B-{task.partition('.')[2]}"
    (folder / f"{task}.yaml").write_text(
        f"kind: token_classification\nformat: conll\nlabels: [O, {label}]\noptions: {{scheme: iob2}}\n"
        "max_length: 64\nstride: 16\n",
        encoding="utf-8",
    )
    for split, rows, count in zip(
        ("train", "validation"), splits, (TRAIN, VALIDATION), strict=True
    ):
        draw = np.random.default_rng([*task.encode(), count])
        order = [rows[at] for at in draw.permutation(len(rows))]
        having = [own for own in order if any(is_it for _, is_it in own)][: count // 2]
        without = [own for own in order if not any(is_it for _, is_it in own)]
        most = count - len(having)
        if split == "train":
            # Thirty rows of these are what a generator is told: a class has to be among them.
            most = min(most, len(having))
        chosen = having + without[:most]
        # Of classes that nearly every sentence holds, more of those.
        chosen += [own for own in order if any(is_it for _, is_it in own)][count // 2 :][
            : count - len(chosen)
        ]
        text = "\n".join(
            "".join(f"{word}\t{label if is_it else 'O'}\n" for word, is_it in chosen[at])
            for at in draw.permutation(len(chosen))
        )
        (folder / f"{split}.conll").write_text(text, encoding="utf-8")
