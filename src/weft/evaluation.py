"""From rows to outputs, predictions and scores; every score with its interval.

records ─ outputs ─> logits ─ decode ─> predictions ─ statistics ─ metrics, bootstrap ─> scores
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weft.atomic import write_text
from weft.base import Base
from weft.batching import Item, collate
from weft.config import Split
from weft.data import load_task
from weft.encoding import cache_folder, encode_examples
from weft.kinds import KINDS, MultipleChoice
from weft.loading import LoadedRun, load_run_model
from weft.lowrank.route import Members
from weft.model import Model
from weft.runs import RunFolder
from weft.scoring import Score, score
from weft.tasks.base import Example, Prediction, Record, Task

TOKENS_PER_BATCH = 4096
"""Padded tokens in one forward call."""
LOGITS_PER_BATCH = 2**26
"""Vocabulary logits in one forward call: a quarter GiB in single precision."""
MASK_SEED = 0
"""Decides which tokens a masked language model is scored on: the same in every evaluation."""

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


@dataclass(frozen=True)
class Evaluation:
    """How one expert did on one split."""

    task: str
    split: str
    """train, validation, test, or holdout: the tenth of train that was held out of training."""
    n: int
    scores: dict[str, Score]
    predictions: list[Prediction]

    def as_json(self) -> dict[str, Any]:
        """The scores without the predictions."""
        scores = {name: asdict(value) for name, value in self.scores.items()}
        return {"task": self.task, "split": self.split, "n": self.n, "scores": scores}


def evaluate(
    run: str | Path,
    *,
    data: str | None = None,
    split: Split = "validation",
    max_examples: int | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    device: str = "auto",
    precision: str | None = None,
    save: bool = True,
    progress: Progress | None = None,
) -> Evaluation | list[Evaluation]:
    """The scores of a run folder's expert; a list of one for each task if the run trained several.

    Args:
        run: The run folder.
        data: Folder with the task's data (several tasks: with a sub-folder for each by name); None
            takes the run's own.
        split: Which rows.
        max_examples: Size of a seeded sample of them; None takes what the run says.
        tokens_per_batch: Padded tokens in one forward call.
        device: Where to compute.
        precision: Arithmetic of the forward pass; None takes the run's.
        save: Write predictions and scores into the folder (`save_evaluation`).
        progress: Told how far it is, task by task.

    Raises:
        ValueError: If the folder, its expert or the data is not what it should be.
    """
    folder = RunFolder.open(run)
    several = bool(folder.run.tasks)
    found = []
    for part in folder.parts():
        own = str(Path(data) / part.path.name) if data is not None and several else data
        loaded = load_run_model(part.path, device=device, precision=precision)
        result = _evaluate(loaded, own, split, max_examples, tokens_per_batch, progress)
        if save:
            save_evaluation(part, result, loaded.run.seed)
        found.append(result)
    return found if several else found[0]


def _evaluate(
    loaded: LoadedRun,
    data: str | None,
    split: Split,
    max_examples: int | None,
    tokens_per_batch: int,
    progress: Progress | None,
) -> Evaluation:
    settings = loaded.run.task
    assert settings is not None  # load_run_model refuses a folder of several tasks
    changed: dict[str, Any] = {"data": data or settings.data or loaded.run.data}
    if max_examples is not None:
        changed["max_examples"] = max_examples
    rows = load_task(
        settings.model_copy(update=changed),
        splits=[split],
        seed=loaded.run.seed,
        labels=loaded.card.labels,
    )
    examples = rows.splits[split]
    tokenizer = loaded.model.base.tokenizer
    records = encode_examples(rows.task, examples, tokenizer, cache=cache_folder())
    found = predictions(
        loaded.model,
        rows.task,
        examples,
        records,
        head=loaded.name,
        kind=rows.task.spec.kind,
        members=loaded.members,
        pad_id=padding_id(loaded.model.base),
        device=loaded.device,
        precision=loaded.precision,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    return Evaluation(
        rows.task.spec.name, split, len(found), score(rows.task, found, examples), found
    )


def save_evaluation(folder: RunFolder, result: Evaluation, seed: int) -> None:
    """Write `predictions-<split>.jsonl` and the scores in `metrics.json` into a run folder."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in result.predictions]
    write_text(folder.path / f"predictions-{result.split}.jsonl", "\n".join(lines) + "\n")
    common = {"n": result.n, "seed": seed, "split": result.split}
    rows = [{"name": name, **asdict(value), **common} for name, value in result.scores.items()]
    folder.write_metrics(rows)


def predictions(
    model: Model,
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
    tokens_per_batch: int = TOKENS_PER_BATCH,
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
        tokens_per_batch: Padded tokens in one forward call.
        sample_seed: Decides what `task.sample` draws; None draws nothing, a text's own masks count.
        progress: Told how far it is.
    """
    if sample_seed is not None:
        # By id: a row's masks depend neither on the rows beside it nor on the number of processes.
        records = [
            task.sample(record, np.random.default_rng([sample_seed, *record["id"].encode()]))
            for record in records
        ]
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


def outputs(
    model: Model,
    items: Sequence[Item],
    *,
    pad_id: int,
    device: torch.device | str,
    precision: str = "fp32",
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Progress | None = None,
) -> list[Any]:
    """What `Task.decode` gets for each row, in order; rows of any tasks and experts share batches.

    Sequences of similar length run together: a row's windows perhaps apart, its choices never.

    Args:
        model: Has the experts resident; each module is left in the mode it was in.
        items: The rows.
        pad_id: The base's padding token.
        device: Where the model is.
        precision: fp32, bf16, fp16 or fp64; fp64 wants a model in double precision.
        tokens_per_batch: Padded tokens in one forward call, unless a single row has more.
        progress: Told how far it is.
    """
    device = torch.device(device)
    units = [(row, unit) for row, item in enumerate(items) for unit in _units(item)]
    found: list[list[Any]] = [[] for _ in units]
    batches = _batches([unit for _, unit in units], tokens_per_batch, model.base.config.vocab_size)
    left = Counter(row for row, _ in units)
    done = 0
    with evaluating(model), torch.inference_mode(), autocast(device, precision):
        for batch_rows in batches:
            batch = collate([units[at][1] for at in batch_rows], pad_id).to(device)
            answers = model(batch)
            for part in batch.parts:
                raw = KINDS[part.kind].outputs(answers[part.head], part.labels, part.lengths)
                for at, output in zip(part.rows, raw, strict=True):
                    found[batch_rows[at]] = output
                    left[units[batch_rows[at]][0]] -= 1
                    done += left[units[batch_rows[at]][0]] == 0
            if progress is not None:
                progress(done, len(items))
    rows: list[list[Any]] = [[] for _ in items]
    for (row, _), output in zip(units, found, strict=True):
        rows[row].append(output)
    return [own[0] if len(own) == 1 else [part for o in own for part in o] for own in rows]


def _units(item: Item) -> list[Item]:
    """The parts of a row that can be answered apart: its windows, or itself."""
    record = item.record
    count = len(record["input_ids"])
    if count == 1 or isinstance(KINDS[item.kind], MultipleChoice):
        return [item]
    names = [name for name in ("input_ids", "token_type_ids", "labels") if name in record]
    return [
        Item(item.head, item.kind, item.members, {name: [record[name][at]] for name in names})
        for at in range(count)
    ]


def _batches(units: Sequence[Item], tokens: int, vocabulary: int) -> list[list[int]]:
    """Batches of at most `tokens` padded tokens; longest first: memory runs out soon or never."""
    order = sorted(range(len(units)), key=lambda at: (-units[at].length, units[at].head))
    found: list[list[int]] = []
    width = sequences = limit = 0
    for at in order:
        own = len(units[at].record["input_ids"])
        few = LOGITS_PER_BATCH // vocabulary if KINDS[units[at].kind].language_model else tokens
        if not found or (sequences + own) * width > min(limit, few):
            found.append([])
            width, sequences, limit = units[at].length, 0, tokens
        found[-1].append(at)
        sequences += own
        limit = min(limit, few)
    return found


def padding_id(base: Base) -> int:
    """The token that fills a batch; where the tokenizer has none, any: attention never sees it."""
    own = base.tokenizer.pad_token_id
    return own if isinstance(own, int) else 0


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Everything in eval mode inside the block; afterwards each module in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The arithmetic that `precision` means on `device`."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=types.get(precision), enabled=precision in types)
