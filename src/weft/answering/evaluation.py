"""From rows to outputs, predictions and scores; every score with its interval.

records ─ outputs ─> logits ─ decode ─> predictions ─ statistics ─ metrics, bootstrap ─> scores
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from weft.answering.gate_maps import gate_maps
from weft.answering.generation import Generation, transcribe
from weft.answering.inference import MASK_SEED, Progress, outputs, padding_id, sampled
from weft.answering.personal.rows import predictions_by_user
from weft.answering.recognition import RECOGNITION, recognition
from weft.answering.texts.written import check_written, references_of, written
from weft.atomic import write_text
from weft.base.loading import Base
from weft.base.tokens import check_tokens
from weft.config import Run, Split
from weft.data.encoding import cache_folder, encode_examples
from weft.data.memory import Given, given_by_task
from weft.data.reading import LoadedTask, load_task
from weft.guard import json_lines
from weft.lowrank.route import Members
from weft.model.batching import Item
from weft.model.card import Card
from weft.model.model import Model
from weft.model.snapshot import Snapshot
from weft.registry import unknown
from weft.runs import RunFolder
from weft.storage.loading import LoadedRun, load_mixture_model, load_run_model
from weft.storage.personal.users import Users, has_users
from weft.tasks.cases import Mistakes
from weft.tasks.contract import Example, Prediction, Record, Task
from weft.tasks.details import Details
from weft.tasks.scoring import Score, mistakes, score
from weft.tasks.users import over_users


@dataclass(frozen=True)
class Evaluation:
    """How one expert did on one split."""

    task: str
    split: str
    """train, validation, test, or holdout: the tenth of train that was held out of training."""
    n: int
    scores: dict[str, Score]
    predictions: list[Prediction]
    details: Details | None = None
    """Scores class by class, where the kind has classes."""
    mistakes: Mistakes | None = None
    """The worst rows and what confidence is worth, where the kind tells them."""

    def as_json(self) -> dict[str, Any]:
        """The scores without the predictions."""
        scores = {name: asdict(value) for name, value in self.scores.items()}
        return {"task": self.task, "split": self.split, "n": self.n, "scores": scores}


def evaluate(
    run: str | Path,
    *,
    data: Any = None,
    split: Split = "validation",
    max_examples: int | None = None,
    tokens_per_batch: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    save: bool = True,
    gates: bool = False,
    rank: int | None = None,
    user: str | None = None,
    scores: Sequence[str] = (),
    generation: Generation | None = None,
    rates: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Evaluation | list[Evaluation]:
    """The scores of a run folder's expert; a list of one for each task if the run trained several.

    Args:
        run: The run folder.
        data: Folder with the task's data (several tasks: with a sub-folder for each by name), or
            rows in memory as `weft.train` takes them, of one task without their split too: a list of
            mappings, a pandas data frame, a `datasets.Dataset`; None takes the run's own.
        split: Which rows.
        max_examples: Size of a seeded sample of them; None takes what the run says.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.
        device: Where to compute.
        precision: Arithmetic of the forward pass; None takes the run's.
        save: Write predictions and scores into the folder (`save_evaluation`).
        gates: Write what a mixture's gates said as well: `gates-<split>.json`, by task.
        rank: How many ranks answer, of an expert that was trained for every number of them (recipe `dylora`); None is
            all. The folder keeps the scores of the whole expert, so nothing is written for fewer.
        user: Of a personal run, score this user's rows alone; None scores each row by its own user's expert, whoever
            has none by the population's. Nothing is written of one user.
        scores: Of kind `causal_lm`: metrics of its text (`weft list metrics`: bleu, chrf, rouge), beside the scores
            of its kind; it is written behind the prompts of rows that have a completion or end in an assistant turn.
        generation: scores: how it is written; None takes the defaults.
        rates: At which of the rates that they were trained at recordings and pictures are pooled, by input; None is
            the finest. Nothing is written for others.
        progress: Told how far it is, task by task.

    Raises:
        ValueError: If the folder, its expert or the data is not what it should be.
    """
    folder = RunFolder.open(run)
    check_written(scores)
    several, found = bool(folder.run.tasks), []
    labels = [task.label for task in [folder.run.task, *folder.run.tasks] if task]
    root = Path(data) if isinstance(data, str | Path) else None
    given = {} if root is not None else given_by_task(data, labels, split)
    for part, loaded in _loaded(folder, device, precision, rank):
        assert loaded.run.task is not None  # a part has one
        own: str | Given | None = given.get(loaded.run.task.label)
        if root is not None:
            own = str(root / part.path.name if several else root)
        rows, records = _rows(loaded, own, split, max_examples, rates)
        how: dict[str, Any] = {"tokens_per_batch": tokens_per_batch, "progress": progress}
        personal = user is not None or has_users(part.path)
        if personal and scores:
            raise ValueError(
                f"scores: what users' experts of {part.path} write is not scored; leave `scores` away"
            )
        references = references_of(rows, split) if scores else []
        if personal:
            result = _of_users(Users(part.path), loaded, rows, records, split, user=user, **how)
        else:
            result = _evaluate(loaded, rows, records, split, **how)
        if scores:
            said, found_scores = written(
                loaded,
                rows.splits[split],
                result.predictions,
                references,
                names=scores,
                generation=generation,
            )
            result = replace(result, predictions=said, scores=result.scores | found_scores)
        if save and rank is None and user is None and rates is None:
            save_evaluation(part, result, loaded.run.seed)
        if gates:
            text = json.dumps(gate_maps(loaded, records), indent=1)
            write_text(part.path / f"gates-{split}.json", text + "\n")
        found.append(result)
    return found if several else found[0]


def _loaded(
    folder: RunFolder, device: str, precision: str | None, rank: int | None
) -> Iterator[tuple[RunFolder, LoadedRun]]:
    """Each task's folder and what answers its rows; the tasks of a mixture share one model."""
    if folder.run.mixture is not None and folder.run.tasks and rank is None:
        runs = load_mixture_model(folder.path, device=device, precision=precision).runs
        for part in folder.parts():
            assert part.run.task is not None  # a part has one
            yield part, runs[part.run.task.label]
        return
    for part in folder.parts():
        yield part, load_run_model(part.path, device=device, precision=precision, rank=rank)


def _evaluate(
    loaded: LoadedRun,
    rows: LoadedTask,
    records: Sequence[Record],
    split: Split,
    *,
    tokens_per_batch: int | None,
    progress: Progress | None,
) -> Evaluation:
    examples, held = rows.splits[split], loaded.model.snapshot
    found = predictions(
        held,
        rows.task,
        examples,
        records,
        head=loaded.name,
        kind=rows.task.spec.kind,
        members=loaded.members,
        pad_id=padding_id(held.base),
        device=loaded.device,
        precision=loaded.precision,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    scores = score(rows.task, found, examples, seed=loaded.run.seed)
    if loaded.recogniser is not None:
        scores[RECOGNITION] = recognition(
            held,
            loaded.recogniser,
            loaded.name,
            records,
            device=loaded.device,
            precision=loaded.precision,
        )
    details = rows.task.details(found, examples)
    worst = mistakes(rows.task, found, examples, seed=loaded.run.seed)
    return Evaluation(rows.task.spec.name, split, len(found), scores, found, details, worst)


def _of_users(
    users: Users,
    loaded: LoadedRun,
    rows: LoadedTask,
    records: Sequence[Record],
    split: Split,
    *,
    user: str | None,
    tokens_per_batch: int | None,
    progress: Progress | None,
) -> Evaluation:
    """Each row by its user's expert, and means over users; of one user's rows alone where one is named."""
    kept = [at for at, row in enumerate(rows.splits[split]) if user in (None, row.get("user"))]
    if not kept:
        known = {row["user"] for row in rows.splits[split]}
        raise ValueError(f"{split} has no row of that user: {unknown('user', str(user), known)}")
    examples, own = [rows.splits[split][at] for at in kept], [records[at] for at in kept]
    how: dict[str, Any] = {"tokens_per_batch": tokens_per_batch, "progress": progress}
    found = predictions_by_user(loaded, users, rows.task, examples, own, **how)
    return evaluated(rows.task, split, found, examples, seed=loaded.run.seed)


def evaluated(
    task: Task, split: str, found: Sequence[Prediction], examples: Sequence[Example], *, seed: int
) -> Evaluation:
    """An evaluation of users' rows: scores of all of them, and, as `users_<score>`, means over users."""
    scores = score(task, found, examples, seed=seed) | over_users(task, found, examples, seed=seed)
    details = task.details(found, examples)
    worst = mistakes(task, found, examples, seed=seed)
    return Evaluation(task.spec.name, split, len(found), scores, list(found), details, worst)


def _rows(
    loaded: LoadedRun,
    data: str | Given | None,
    split: Split,
    max_examples: int | None,
    rates: Mapping[str, int] | None,
) -> tuple[LoadedTask, list[Record]]:
    """A split of the run's task, read and encoded."""
    return rows_of(
        loaded.run,
        loaded.card,
        loaded.model.base,
        split,
        data=data,
        max_examples=max_examples,
        rates=rates,
    )


def rows_of(
    run: Run,
    card: Card,
    base: Base,
    split: Split,
    *,
    data: str | Given | None = None,
    max_examples: int | None = None,
    rates: Mapping[str, int] | None = None,
) -> tuple[LoadedTask, list[Record]]:
    """A split of the task that an expert was trained on, read and encoded.

    Args:
        run: The run of that one task.
        card: The expert's.
        base: Its base.
        split: Which rows.
        data: Folder of the task's data, or rows in memory; None takes the run's own.
        max_examples: Size of a seeded sample; None takes what the run says.
        rates: As of `evaluate`.
    """
    settings = run.task
    assert settings is not None  # load_run_model refuses a folder of several tasks
    given = None if data is None or isinstance(data, str) else data
    changed: dict[str, Any] = {"data": None if given else data or settings.data or run.data}
    if max_examples is not None:
        changed["max_examples"] = max_examples
    rows = load_task(
        settings.model_copy(update=changed),
        splits=[split],
        seed=run.seed,
        labels=card.labels,
        given=given,
    )
    if rates:
        rows = replace(rows, task=rows.task.at(rates))
    records = encode_examples(rows.task, rows.splits[split], base.tokenizer, cache=cache_folder())
    check_tokens(base, records)
    found = rows.task.with_found(card.task.get("options", {}))
    return replace(rows, task=found), records


def save_evaluation(folder: RunFolder, result: Evaluation, seed: int) -> None:
    """Write `predictions-<split>.jsonl`, and scores, details and worst rows as JSON, into a run folder."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in result.predictions]
    write_text(folder.path / f"predictions-{result.split}.jsonl", "\n".join(lines) + "\n")
    common = {"n": result.n, "seed": seed, "split": result.split}
    rows = [{"name": name, **asdict(value), **common} for name, value in result.scores.items()]
    folder.write_metrics(rows)
    if result.details is not None:
        folder.write_details(result.split, result.details.as_json())
    if result.mistakes is not None:
        folder.write_mistakes(result.split, result.mistakes.as_json())


def read_details(folder: RunFolder, split: str = "validation") -> Details | None:
    """A run's scores class by class on one split; None where its kind has no classes or it was not scored there."""
    found = folder.details.get(split)
    return None if found is None else Details.from_json(found)


def read_mistakes(folder: RunFolder, split: str = "validation") -> Mistakes | None:
    """A run's worst rows on one split; None where its kind tells none, or an older version scored it."""
    found = folder.mistakes.get(split)
    return None if found is None else Mistakes.from_json(found)


def read_predictions(folder: Path, split: str = "validation") -> dict[str, Prediction]:
    """What `save_evaluation` wrote of a run's answers, by the row's id.

    Raises:
        ValueError: If the file is missing or damaged, with its line.
    """
    found: dict[str, Prediction] = {}
    for row, where in json_lines(folder / f"predictions-{split}.jsonl"):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ValueError(f"{where}: expected an object with an id; evaluate the run again")
        found[row["id"]] = row
    return found


def predictions(
    model: Model | Snapshot,
    task: Task,
    examples: Sequence[Example],
    records: Sequence[Record],
    *,
    head: str,
    kind: str,
    members: Members,
    pad_id: int,
    device: torch.device | str,
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    sample_seed: int | None = MASK_SEED,
    progress: Progress | None = None,
) -> list[Prediction]:
    """What the expert says of each row, in order.

    Args:
        model: Has the experts resident.
        task: The head's task.
        examples: Checked rows.
        records: Their records.
        head: Expert whose head answers.
        kind: That head's kind.
        members: Experts whose adapters speak.
        pad_id: The base's padding token.
        device: Where the model is.
        precision: fp32, bf16, fp16 or fp64.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.
        sample_seed: Decides what `task.sample` draws; None draws nothing, a text's own masks count.
        progress: Told how far it is.
    """
    if task.most_written:
        written = transcribe(
            model,
            head,
            records,
            Generation(max_new_tokens=task.most_written),
            members=members,
            device=device,
            precision=precision,
            progress=progress,
        )
        return [
            task.decode(example, record, one.text)
            for example, record, one in zip(examples, records, written, strict=True)
        ]
    if sample_seed is not None:
        records = sampled(task, records, sample_seed)
    raw = outputs(
        model,
        [Item(head, kind, members, record) for record in records],
        pad_id=pad_id,
        device=device,
        precision=precision,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    return [
        task.decode(example, record, output)
        for example, record, output in zip(examples, records, raw, strict=True)
    ]
