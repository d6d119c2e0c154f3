"""A task's rows put to a decoder in words, and scored as an expert's answers are."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from weft.answering.evaluation import Evaluation
from weft.answering.inference import Progress
from weft.config import Split, TaskSettings, validate
from weft.data.memory import given_by_task
from weft.data.reading import LoadedTask, find_kind, find_spec, load_task
from weft.prompting.asking import Answer, Asked, Asker
from weft.prompting.decoder import check_base, load_decoder
from weft.prompting.evidence import evidence_for
from weft.prompting.kept import read_answers, write_answers
from weft.prompting.settings import Prompting, Said
from weft.prompting.styles import styles
from weft.prompting.styles.contract import Style
from weft.prompting.templates import template_for
from weft.scoped import tell
from weft.tasks.scoring import mistakes, score

TOGETHER = 32
"""Rows that are asked about before their answers are written to the file."""
ROWS_SEED = 0
"""Of a sample of rows: other examples drawn for them are other prompts for the same rows."""
_FORMAT = 1


@dataclass(frozen=True)
class Cost:
    """What answers took."""

    tokens_read: int
    """Of all prompts, as if each were read alone."""
    tokens_written: int
    seconds: float
    """Of computing; loading is not counted."""

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Cost":
        """The sum over answers."""
        return cls(
            sum(own.tokens_read for own in answers),
            sum(own.tokens_written for own in answers),
            sum(own.seconds for own in answers),
        )


@dataclass(frozen=True)
class Prompted(Evaluation):
    """How a decoder did that was asked, and what it took."""

    settings: Prompting | None = None
    answers: tuple[Answer, ...] = ()
    """One a row, in order."""

    @property
    def cost(self) -> Cost:
        """Of all answers together."""
        return Cost.of(self.answers)

    def as_json(self) -> dict[str, Any]:
        """Scores, settings and cost, without the answers."""
        assert self.settings is not None
        cost = asdict(self.cost)
        each = {name: value / self.n for name, value in cost.items()}
        return {
            **super().as_json(),
            "prompting": self.settings.model_dump(mode="json"),
            "cost": cost,
            "cost_per_answer": each,
        }


def prompt(
    task: str | TaskSettings,
    *,
    data: Any = None,
    split: Split = "validation",
    max_examples: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    progress: Progress | None = None,
    **settings: Unpack[Said],
) -> Prompted:
    """What a decoder says of a task's rows when it is asked in words, scored as an expert is.

    Predictions have the form that an expert's have, so scores, intervals and differences from experts are those of the
    kind. Everything that can be refused is refused before the first row is answered.

    Args:
        task: A registered set, the path of a set's YAML file, or a run's settings of a task.
        data: Folder with the set's files; or rows in memory by split, as `weft.train` takes them.
        split: Which rows.
        max_examples: Size of a seeded sample of them, the same whatever `seed` is; None is all.
        out: A JSON-lines file of the answers; rows that it has already are not asked again.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None is an expert's own, and fp32 for a base.
        progress: Told how far it is.
        settings: Those of `Prompting`: base, shots, nearest, style, retrieve, corpus, chat, normalise, max_new_tokens,
            thought_tokens, cache, seed.

    Raises:
        KeyError: If there is no such set, style or base; names the nearest.
        ValueError: If the base does not write, its tokenizer has no chat template where one is asked for, the kind has
            no prompt template, there are too few training rows, a question is longer than the base, or `out` holds
            answers to other questions.
    """
    asked = validate(Prompting, settings, "prompting")
    style = styles.load(asked.style)()
    own = task if isinstance(task, TaskSettings) else TaskSettings(name=task)
    template = template_for(find_spec(own))
    if asked.corpus is not None and not asked.retrieve:
        raise ValueError(
            f"corpus {asked.corpus}: nothing is taken from it; say how many with retrieve"
        )
    check_base(asked.base)
    loaded = _rows(own, data, split, max_examples, asked)
    words = template(loaded.task)
    rows = loaded.splits[split]
    decoder = load_decoder(asked.base, device=device, precision=precision, cache=asked.cache)
    if asked.chat and not decoder.base.tokenizer.chat_template:
        raise ValueError(
            f"chat: the tokenizer of {asked.base} has no chat template; ask in plain text, or take a base that was "
            "made to chat (weft list bases)"
        )
    train = loaded.splits.get("train", [])
    shown = evidence_for(rows, train, words, asked, among=split == "train")
    questions = [
        Asked(row, words.question(row), words.instruction, own.shots, own.passages)
        for row, own in zip(rows, shown, strict=True)
    ]
    asker = Asker(decoder, words, asked)
    answers = _answers(asker, style, questions, None if out is None else Path(out), progress)
    said = [own.prediction for own in answers]
    return Prompted(
        loaded.task.spec.name,
        split,
        len(rows),
        score(loaded.task, said, rows, seed=asked.seed),
        said,
        loaded.task.details(said, rows),
        mistakes(loaded.task, said, rows, seed=asked.seed),
        asked,
        tuple(answers),
    )


def _rows(
    task: TaskSettings, data: Any, split: Split, max_examples: int | None, asked: Prompting
) -> LoadedTask:
    """The rows that are asked about, and those of train where they are shown."""
    given = None
    if isinstance(data, str | Path):
        task = task.model_copy(update={"data": str(data)})
    elif data is not None:
        given = given_by_task(data, [task.label], split)[task.label]
    shows = asked.shots or (asked.retrieve and asked.corpus is None)
    if max_examples is not None:
        task = task.model_copy(update={"max_examples": {split: max_examples}})
    kind = find_kind(find_spec(task))

    def read(*splits: Split) -> LoadedTask:
        # Kinds without classes need no training rows to tell them.
        labels = [] if kind.classes_per is None else None
        return load_task(task, splits=splits, seed=ROWS_SEED, labels=labels, given=given)

    if not shows or split == "train":
        return read(split)
    try:
        return read(split, "train")
    except ValueError as error:
        read(split)  # which of the two it is: the rows asked about may be wrong as well
        wanted = f"shots {asked.shots}" if asked.shots else f"retrieve {asked.retrieve}"
        raise ValueError(
            f"{wanted}: {task.label} has no training rows to take from: {error}. Ask without them"
        ) from error


def _answers(
    asker: Asker,
    style: Style,
    questions: Sequence[Asked],
    out: Path | None,
    progress: Progress | None,
) -> list[Answer]:
    tell("writing questions")
    room = style.before(asker.settings) + asker.max_new_tokens
    contexts = [_checked(asker, own, room) for own in questions]
    marks = _marks(asker, questions)
    found = {} if out is None else read_answers(out, marks)
    left = [own for own in questions if own.example["id"] not in found]
    began = time.perf_counter()
    if left:
        asker.decoder.share(contexts)
    shared = (time.perf_counter() - began) / max(len(left), 1)
    for start in range(0, len(left), TOGETHER):
        now = left[start : start + TOGETHER]
        for own, answer in zip(now, style.answers(asker, now), strict=True):
            found[own.example["id"]] = replace(answer, seconds=answer.seconds + shared)
        if out is not None:
            write_answers(out, list(marks), marks, found)
        tell("rows answered", len(found), len(questions))
        if progress is not None:
            progress(len(found), len(questions))
    return [found[own.example["id"]] for own in questions]


def _checked(asker: Asker, question: Asked, room: int) -> tuple[int, ...]:
    """A question's tokens.

    Raises:
        ValueError: If the base cannot number them and what follows.
    """
    pair = asker.pair(question)
    follows = room + max(map(len, pair.continuations), default=0)
    limit = asker.decoder.base.max_positions
    if limit is not None and len(pair.context) + follows > limit:
        raise ValueError(
            f"{question.where}: its prompt has {len(pair.context)} tokens and its answer up to {follows}, more than "
            f"the {limit} positions of {asker.decoder.base.name}; show fewer examples or passages, or take another base"
        )
    return pair.context


def _marks(asker: Asker, questions: Sequence[Asked]) -> dict[str, str]:
    """By the row's id, what identifies a question and how it is answered."""
    how = asker.settings.model_dump(mode="json", exclude={"cache", "base", "corpus", "seed"})
    how |= {"format": _FORMAT, "who": asker.decoder.identity, "as": asker.decoder.precision}
    common = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
    found = {}
    for own in questions:
        hasher = common.copy()
        hasher.update(asker.context(own).encode())
        options = getattr(asker.template, "options", None)
        hasher.update(json.dumps(list(options(own.example)) if options else []).encode())
        found[own.example["id"]] = hasher.hexdigest()[:32]
    return found
