"""The demo: recipes lora, full and head on three made-up sets, compared with a guess.

write_demo_data ─> 3 sets x 3 recipes ─ train ─> run folders ─> table
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from weft.config import Run, TaskSettings, load_run
from weft.data.generated import SIZES, write_demo_data
from weft.data.reading import LoadedTask, load_task
from weft.tasks.contract import Example, Prediction
from weft.tasks.scoring import RESAMPLES, Score, score
from weft.training.loop import Event, train

RECIPES = ("lora", "full", "head")
EPOCHS = 4
"""Of every run: all nine take about six minutes on two cores. Learning rates are the recipes' own."""
SECONDS: Mapping[str, float] = {"lora": 1.0, "full": 1.5, "head": 0.33}
"""Time of a step beside one of lora, by recipe; shares out the estimate of the time left."""
SEQUENCES: Mapping[str, float] = {"choices": 3.6, "spans": 1.4, "entities": 0.6}
"""The same for a row, by set: about how much text it holds."""


@dataclass(frozen=True)
class Stage:
    """Where the demo is."""

    task: str
    recipe: str
    number: int
    """Of the run, from 1."""
    runs: int
    fraction: float
    """Of all work that is done, 0 to 1."""
    seconds_left: float
    """Of all runs."""
    event: Event


@dataclass(frozen=True)
class Result:
    """One recipe on one set."""

    task: str
    recipe: str
    run: str
    trainable_parameters: int
    metric: str
    score: Score
    guess: float
    """The score of a guess that looks at no input."""
    seconds_per_epoch: float


def demonstrate(
    out: str | Path,
    *,
    base: str = "minilm",
    sizes: Mapping[str, tuple[int, int]] = SIZES,
    training: Mapping[str, Any] | None = None,
    report: Callable[[Stage], None] | None = None,
) -> list[Result]:
    """Write the sets, train every recipe on each, and compare; run folders stay in `out`.

    Args:
        out: A new folder: `data/` and a run folder `<set>-<recipe>` for each.
        base: What the experts stand on.
        sizes: Rows in train and validation by set.
        training: Training settings of every run, over the demo's own.
        report: Told after every step how far it is.

    Raises:
        ValueError: If `out` exists.
        Interrupted: If it was asked to stop; the run it was at can be resumed.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out or remove it")
    training = {"epochs": EPOCHS, **(training or {})}
    data = out / "data"
    write_demo_data(data, sizes=sizes)
    runs = [(name, recipe) for name in SIZES for recipe in RECIPES]
    clock = _Clock(
        [SECONDS[recipe] * SEQUENCES[name] * sizes[name][0] for name, recipe in runs], report
    )
    results = []
    for number, (name, recipe) in enumerate(runs):
        task = {"name": str(data / f"demo_{name}.yaml"), "data": str(data / name)}
        settings = TaskSettings.model_validate(task)
        run = _run(settings, recipe, base, training)
        folder = train(run, out=out / f"{name}-{recipe}", report=clock.of(number, name, recipe))
        loaded = load_task(settings, splits=["train", "validation"], seed=run.seed)
        cost = folder.training or {}
        value = next(row for row in folder.metrics if row["name"] == loaded.task.metric)
        results.append(
            Result(
                task=name,
                recipe=recipe,
                run=str(folder.path),
                trainable_parameters=cost["trainable_parameters"],
                metric=loaded.task.metric,
                score=Score(value["value"], value["low"], value["high"]),
                guess=guess_score(loaded).value,
                seconds_per_epoch=cost["seconds_per_epoch"],
            )
        )
    return results


def guess_score(loaded: LoadedTask) -> Score:
    """What a guess from the training answers alone scores on the validation split."""
    guess = GUESSES[loaded.task.spec.kind](loaded.splits["train"])
    examples = loaded.splits["validation"]
    said = [guess(example) for example in examples]
    return score(loaded.task, said, examples, resamples=RESAMPLES)[loaded.task.metric]


Guess = Callable[[Example], Prediction]


def _commonest_choice(train: Sequence[Example]) -> Guess:
    counts = Counter(example["label"] for example in train)
    label = min(counts, key=lambda label: (-counts[label], label))
    return lambda example: {"id": example["id"], "label": label}


def _commonest_tag(train: Sequence[Example]) -> Guess:
    tag = Counter(tag for example in train for tag in example["tags"]).most_common(1)[0][0]
    return lambda example: {"id": example["id"], "tags": [tag] * len(example["tokens"])}


def _first_words(train: Sequence[Example]) -> Guess:
    """The context's first words, as many as answers mostly have."""
    sizes = Counter(len(example["answers"][0]["text"].split()) for example in train)
    size = sizes.most_common(1)[0][0]
    return lambda example: {
        "id": example["id"],
        "text": " ".join(example["context"].split()[:size]),
    }


GUESSES: Mapping[str, Callable[[Sequence[Example]], Guess]] = {
    "multiple_choice": _commonest_choice,
    "token_classification": _commonest_tag,
    "span_extraction": _first_words,
}
"""From a kind and training rows to a guess."""


def _run(task: TaskSettings, recipe: str, base: str, training: Mapping[str, Any]) -> Run:
    return load_run(
        {"base": base, "task": task.model_dump(), "recipe": recipe, "training": dict(training)}
    )


class _Clock:
    """Turns each run's events into how far all runs are.

    Args:
        work: Share of each run, in any unit.
        report: Who is told.
    """

    def __init__(self, work: Sequence[float], report: Callable[[Stage], None] | None) -> None:
        self.work = work
        self.report = report
        self.began = perf_counter()

    def of(self, number: int, task: str, recipe: str) -> Callable[[Event], None] | None:
        """The report of one run."""
        if self.report is None:
            return None
        tell = self.report

        def report(event: Event) -> None:
            done = sum(self.work[:number]) + self.work[number] * event.step / event.total
            fraction = done / sum(self.work)
            left = (perf_counter() - self.began) * (1 - fraction) / fraction
            tell(Stage(task, recipe, number + 1, len(self.work), fraction, left, event))

        return report
