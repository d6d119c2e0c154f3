"""What is read: sentences of a treebank word by word, or rows of an expert's own task token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from weft.analysis.subjects import Found
from weft.answering.evaluation import rows_of
from weft.base.loading import Base
from weft.config import Split
from weft.data.reading import LoadedTask, find_spec
from weft.guard import read_text
from weft.registry import said_by
from weft.tasks.contract import Record, Task
from weft.tasks.text import UNLABELLED, encoding_of, sequences, word_starts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TREEBANK = "ud_ewt"
"""The folder of the treebank below `--data`."""
LONGEST = 128
"""Tokens of a sequence; longer ones are left out."""


class NotAtHandError(ValueError):
    """Texts that a question reads are not there, or cannot be read."""


@dataclass(frozen=True)
class Sentence:
    """A sentence with its tree."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    """Universal parts of speech."""
    heads: tuple[int, ...]
    """Each word's head by number from 1; 0 is the root's."""
    relations: tuple[str, ...]
    """Of each word to its head, without what a language adds behind the colon."""
    senses: tuple[str, ...] = ()
    """What each word's expression means in the coarsest terms, where that is annotated; "" of a word without one."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sequences to read, and the units whose vectors are looked at."""

    name: str
    records: tuple[Record, ...]
    """Encoded, of one sequence each."""
    units: tuple[tuple[tuple[int, ...], ...], ...]
    """By sequence the tokens of each unit: a word, or a token."""
    tags: dict[str, tuple[str, ...]]
    """By annotation each unit's tag, over all sequences."""

    @property
    def sentence(self) -> Tensor:
        """Each unit's sequence by number."""
        counts = torch.tensor([len(own) for own in self.units])
        return torch.arange(len(self.units)).repeat_interleave(counts)

    def __len__(self) -> int:
        return sum(map(len, self.units))


def read_conllu(path: Path, *, sense: int | None = None) -> list[Sentence]:
    """The sentences of a CoNLL-U file; words alone, neither what spans several of them nor what is not said.

    Args:
        path: The file.
        sense: The column of supersenses from 0, of a file that has more than CoNLL-U's ten.

    Raises:
        ValueError: If a line has too few columns, or a head that is no word of the sentence; says which.
    """
    fewest, columns = (8, "ten") if sense is None else (sense + 1, f"more than {sense}")
    found: list[Sentence] = []
    rows: list[list[str]] = []
    for number, line in enumerate([*read_text(path, most=2**30).splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            fields = line.split("\t")
            if len(fields) < fewest:
                raise ValueError(f"{path}:{number}: expected {columns} columns, got {line!r:.80}")
            if fields[0].isdigit():
                rows.append(fields)
        elif rows:
            found.append(_sentence(rows, f"{path}:{number}", sense))
            rows = []
    return found


def _sentence(rows: Sequence[Sequence[str]], where: str, sense: int | None) -> Sentence:
    words, tags, heads, relations = zip(*((r[1], r[3], r[6], r[7]) for r in rows), strict=True)
    if not all(head.isdigit() and int(head) <= len(rows) for head in heads):
        raise ValueError(f"{where}: the sentence above has a head that is none of its words")
    return Sentence(
        tuple(word.replace(" ", "") or "_" for word in words),
        tags,
        tuple(map(int, heads)),
        tuple(relation.partition(":")[0] for relation in relations),
        () if sense is None else tuple(row[sense].strip("_") for row in rows),
    )


def treebank(folder: Path, split: str) -> list[Sentence]:
    """The sentences of a split of the treebank below a folder.

    Raises:
        NotAtHandError: If there is none.
    """
    path = folder / TREEBANK / f"{split}.conllu"
    if not path.is_file():
        raise NotAtHandError(
            f"{path} is not there: the trees are read from {TREEBANK}/{split}.conllu below --data"
        )
    return read_conllu(path)


def corpus_of(name: str, sentences: Sequence[Sentence], base: Base) -> tuple[Corpus, list[int]]:
    """Sentences word by word, and which of them by number; what the base cannot read whole is left out."""
    records, units, kept = [], [], []
    longest = min(LONGEST, base.max_positions or LONGEST)
    for at, sentence in enumerate(sentences):
        record, own = _words(sentence.words, base.tokenizer)
        if all(own) and len(record["input_ids"][0]) <= longest:
            records.append(record)
            units.append(own)
            kept.append(at)
    chosen = [sentences[at] for at in kept]
    tags = {
        "part of speech": tuple(tag for one in chosen for tag in one.tags),
        "relation": tuple(relation for one in chosen for relation in one.relations),
    }
    return Corpus(name, tuple(records), tuple(units), tags), kept


def _words(
    words: Sequence[str], tokenizer: "PreTrainedTokenizerFast"
) -> tuple[Record, tuple[tuple[int, ...], ...]]:
    """A record, and each word's tokens in it."""
    encoding = encoding_of(tokenizer, " ".join(words))
    inside = [place for place, text in enumerate(encoding.sequence_ids) if text is not None]
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[inside]
    # Some tokenizers count the space before a word to its token: only its last character tells.
    lasts = np.maximum(offsets[:, 1] - 1, offsets[:, 0])
    word_of = np.searchsorted(word_starts(words), lasts, side="right") - 1
    own: list[list[int]] = [[] for _ in words]
    for place, word in zip(inside, word_of.tolist(), strict=True):
        own[word].append(place)
    record = sequences(tokenizer, encoding, [list(range(len(encoding)))])
    return record, tuple(map(tuple, own))


def task_rows(
    found: Found, base: Base, data: Path | None, split: Split, most: int
) -> tuple[LoadedTask, list[Record]]:
    """Rows of an expert's own task, read and encoded, drawn by the run's seed.

    Args:
        found: The run of that one task.
        base: Its base.
        data: Folder with a sub-folder for the task; None takes the run's own data.
        split: Which rows.
        most: Rows at most.

    Raises:
        NotAtHandError: If the rows are not there, or not as the task reads them; says why.
    """
    run = found.folder.run
    assert run.task is not None  # a part has one
    own = data / run.task.label if data is not None and (data / run.task.label).is_dir() else None
    if own is None and run.task.data is None and run.data is None and find_spec(run.task).hub:
        raise NotAtHandError(
            f"the rows of {run.task.label} are on the hub; give a folder that has {run.task.label}/ as --data"
        )
    try:
        return rows_of(
            run,
            found.card,
            base,
            split,
            data=None if own is None else str(own),
            max_examples=most,
        )
    except (KeyError, OSError, ValueError) as error:
        raise NotAtHandError(said_by(error)) from error


def own_rows(found: Found, base: Base, data: Path | None, most: int) -> Corpus:
    """Rows of an expert's own task, token by token, with what its labels say of each.

    Args:
        found: The run of that one task.
        base: Its base.
        data: Folder with a sub-folder for the task; None takes the run's own data.
        most: Rows at most, drawn by the run's seed.

    Raises:
        NotAtHandError: If the rows are not there, or not as the task reads them; says why.
    """
    loaded, records = task_rows(found, base, data, "validation", most)
    special = set(base.tokenizer.all_special_ids)
    kept, units, tags = [], [], []
    for record in records:
        ids = record["input_ids"][0]
        if len(ids) > LONGEST and "windows" not in record:
            continue
        said = dict(_labelled(loaded.task, record))
        places = [at for at in said if ids[at] not in special]
        if places:
            inputs = [key for key in ("input_ids", "token_type_ids") if key in record]
            kept.append({key: record[key][:1] for key in inputs})
            units.append(tuple((at,) for at in places))
            tags += [said[at] for at in places]
    named = {"label of the task": tuple(tags)} if len(set(tags)) > 1 else {}
    return Corpus(f"{found.task} validation", tuple(kept), tuple(units), named)


def _labelled(task: Task, record: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Tokens of a record's first sequence that are looked at, each with what the task's labels say of it."""
    ids = record["input_ids"][0]
    if "words" in record:  # words with a tag each, on their first token
        labels = record.get("labels", [[UNLABELLED] * len(ids)])[0]
        for at, word in enumerate(record["words"][0]):
            if word >= 0:
                tag = "" if labels[at] == UNLABELLED else task.labels[labels[at]]
                yield at, tag.partition("-")[2] or tag
    elif "windows" in record:  # a question, and a passage that may hold its answer
        context = record["windows"][0][0]
        first, last = record.get("labels", [[0, 0]])[0]
        for at in range(len(ids)):
            answers = last > 0 and first <= at <= last
            yield at, "answer" if answers else "passage" if at >= context else "question"
    else:
        for at in range(len(ids)):
            yield at, ""
