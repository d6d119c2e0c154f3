"""What a mixture is worth: its scores beside each task's own expert, uniform gates, their sum, and other runs."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from weft.answering.evaluation import Evaluation, predictions, read_predictions
from weft.answering.inference import autocast, padding_id
from weft.atomic import write_text
from weft.config import MixtureSettings
from weft.methods.merges.cat import Cat
from weft.model.batching import Item, collate
from weft.model.expert import Expert
from weft.model.factoring import merged
from weft.model.mixing import make_mix
from weft.runs import STANDINGS, RunFolder
from weft.scoped import tell
from weft.storage.ingredients import parts_of
from weft.tasks.contract import Prediction
from weft.tasks.scoring import Score, paired_difference, score
from weft.training.assembly import Session
from weft.training.learning import Stream

MIXTURE = "mixture"
OWN = "own expert"
UNIFORM = "uniform gates"
SUM = "cat merge, weights 1"
ROUNDS = 5
ROWS = 16
"""Rows of a task in a timed forward, and how often it is timed."""
TIMED_S = 3.0
"""Seconds after which no other round begins, if there has been one."""


@dataclass(frozen=True)
class Standing:
    """One score of one task."""

    task: str
    metric: str
    what: str
    score: Score
    n: int
    difference: Score | None
    """How much higher the mixture scores on the same rows; None where they are not the same."""


def standings(session: Session, results: Mapping[str, Evaluation]) -> list[Standing]:
    """The mixture's scores and what stands beside them, task by task."""
    run = session.run
    assert run.mixture is not None
    found = {
        stream.name: [_standing(stream, MIXTURE, results[stream.name])]
        for stream in session.streams
    }
    others = [(part, _what(part)) for part in _folders(run.mixture)]
    own = {part.path for part in parts_of(run.mixture.runs)} if run.mixture.runs else set()
    for stream in session.streams:
        for part, what in others:
            settings = part.run.task
            if settings is not None and settings.label == stream.name:
                name = OWN if part.path in own else what
                found[stream.name] += _of_folder(session, stream, part, name, results)
    if session.ingredients and session.mix is not None and session.mix.mixture.spec.baselines:
        for expert, what in _baselines(session):
            with _resident(session, expert), _own_heads(session):
                for stream in session.streams:
                    found[stream.name].append(_evaluated(session, stream, expert, what, results))
    return [standing for rows in found.values() for standing in rows]


def write_standings(folder: Path, rows: Sequence[Standing], cost: Mapping[str, Any]) -> None:
    """Write `beside.json`."""
    text = json.dumps(
        {"rows": [asdict(row) for row in rows], "cost": dict(cost), "remarks": remarks(rows, cost)},
        indent=1,
    )
    write_text(folder / STANDINGS, text + "\n")


def remarks(rows: Sequence[Standing], cost: Mapping[str, Any]) -> list[str]:
    """What a reader must not overlook, as sentences."""
    lines = []
    for row in rows:
        if row.what != OWN or row.difference is None:
            continue
        if row.difference.high < 0:
            verdict = "is worse than"
        elif row.difference.low > 0:
            verdict = "is better than"
        else:
            verdict = "does not differ beyond chance from"
        lines.append(f"{row.task}: the mixture {verdict} the task's own expert")
    lines.append(
        f"gates: {cost['gate_parameters']:,} parameters, {100 * cost['gate_share']:.2f} % of the base; a forward takes "
        f"{cost['forward_over_base']:.2f} times the bare base's"
    )
    return lines


def forward_cost(session: Session) -> dict[str, Any]:
    """Parameters of the gates, and the time of a forward as a multiple of the bare base's, interleaved."""
    mix = session.mix
    assert mix is not None
    gates = mix.mixture.gate_parameters
    items = [
        Item(stream.head, stream.kind, stream.members, record)
        for stream in session.streams
        for record in session.final_rows(stream.name)[1][:ROWS]
    ]
    batch = collate(items, padding_id(session.base), labels=False).to(session.device)
    ratios = []
    tell("timing forwards with gates and without")
    precision, held = session.run.training.precision, session.model.snapshot
    with torch.inference_mode(), autocast(session.device, precision):
        began = time.perf_counter()
        for _ in range(ROUNDS + 1):
            if len(ratios) > 1 and time.perf_counter() - began > TIMED_S:
                break
            took = []
            for route in (None, batch.route):
                started = time.perf_counter()
                held.states(batch.inputs, route)
                if session.device.type == "cuda":
                    torch.cuda.synchronize(session.device)
                took.append(time.perf_counter() - started)
            ratios.append(took[1] / took[0])
    return {
        "gate_parameters": gates,
        "gate_share": gates / session.base.num_parameters,
        "forward_over_base": round(statistics.median(ratios[1:]), 3),
    }


def _standing(
    stream: Stream, what: str, result: Evaluation, difference: Score | None = None
) -> Standing:
    metric = stream.task.metric
    return Standing(stream.name, metric, what, result.scores[metric], result.n, difference)


def _folders(settings: MixtureSettings) -> list[RunFolder]:
    return [
        part
        for path in (*settings.runs, *settings.beside)
        for part in RunFolder.open(path).parts()
        if part.run.task is not None
    ]


def _what(part: RunFolder) -> str:
    own = part.path.parent if (part.path.parent / "run.yaml").is_file() else part.path
    return f"{part.run.recipe.name} ({own.name})"


def _of_folder(
    session: Session,
    stream: Stream,
    part: RunFolder,
    what: str,
    results: Mapping[str, Evaluation],
) -> list[Standing]:
    """A trained run's score as it left it; with the difference, where it answered the same rows."""
    split = session.run.training.evaluate_on
    rows = [
        row for row in part.metrics if row["split"] == split and row["name"] == stream.task.metric
    ]
    if not rows:
        return []
    value = Score(rows[0]["value"], rows[0]["low"], rows[0]["high"])
    difference = None
    if (part.path / f"predictions-{split}.jsonl").is_file():
        said = read_predictions(part.path, split)
        examples, _ = session.final_rows(stream.name)
        if set(said) == {example["id"] for example in examples}:
            theirs = [said[example["id"]] for example in examples]
            difference = _difference(session, stream, results[stream.name].predictions, theirs)
    metric = stream.task.metric
    return [Standing(stream.name, metric, what, value, rows[0]["n"], difference)]


def _difference(
    session: Session, stream: Stream, ours: Sequence[Prediction], theirs: Sequence[Prediction]
) -> Score:
    examples, _ = session.final_rows(stream.name)
    found = paired_difference(stream.task, ours, theirs, examples, seed=session.run.seed)
    return found[stream.task.metric]


def _baselines(session: Session) -> list[tuple[Expert, str]]:
    """Uniform gates over the runs' experts, and their sum."""
    experts = session.ingredients
    uniform = make_mix(MixtureSettings(name="uniform"), session.base, experts, list(experts), 0)
    uniform.name = "uniform"
    owners = [own.expert for own in experts.values()]
    together, _ = merged("sum", owners, session.model.trunk, Cat(), [1.0] * len(owners))
    return [(uniform.to(session.device), UNIFORM), (together.to(session.device), SUM)]


@contextmanager
def _resident(session: Session, expert: Expert) -> Iterator[None]:
    session.model.add(expert)
    try:
        yield
    finally:
        session.model.remove(expert.name)


@contextmanager
def _own_heads(session: Session) -> Iterator[None]:
    """Each task answers with the head of its own expert, whatever the mixture's training made of it."""
    names = list(session.ingredients)
    own = [Expert(name, {}, session.ingredients[name].expert.head) for name in names]
    trained = session.model.change(add=own, remove=names)
    try:
        yield
    finally:
        session.model.change(add=trained, remove=names, trainable=True)


def _evaluated(
    session: Session,
    stream: Stream,
    expert: Expert,
    what: str,
    results: Mapping[str, Evaluation],
) -> Standing:
    examples, records = session.final_rows(stream.name)
    said = predictions(
        session.model,
        stream.task,
        examples,
        records,
        head=stream.head,
        kind=stream.kind,
        members=(expert.name,),
        pad_id=padding_id(session.base),
        device=session.device,
        precision=session.run.training.precision,
    )
    scores = score(stream.task, said, examples, seed=session.run.seed)
    split = session.run.training.evaluate_on
    result = Evaluation(stream.task.spec.name, split, len(said), scores, said)
    difference = _difference(session, stream, results[stream.name].predictions, said)
    return _standing(stream, what, result, difference)
