"""What is mixing for? Rows that one expert was not trained for: of two tasks at once, with typos, of other topics.

    python benchmarks/mixing.py --data ../shared/data [--seeds 0 1 2] [--only together topics]

`together`: the three experts of `merge_scores.py` (WNUT17, SQuAD, CODAH), alone, merged, and mixed by gates that
`gates.py` trains (made here where they are missing). Each task's own rows as they are and with typos; a question about
a tweet, whose answer is the entity of a type (SQuAD's head answers; the text is of WNUT17's kind); a question whose
paragraph follows three tweets; a tweet that follows a paragraph. No set has entities marked in encyclopedic
paragraphs, and the base is uncased, so that neither tagged paragraphs nor case are tried.

`topics`: SQuAD's training articles in three parts by their titles' order, an expert each; asked is about other
articles. Beside the single experts their merges and mixtures of the three, trained on the rows of all parts; every way
answers by each of the three heads, and the score is the mean. An expert trained on the rows of all parts says what
there is to reach.

By set of rows the score of every way, mean over seeds with its interval over rows, and the difference from the best
single expert, paired by row and seed, its p corrected for all of the table (Holm). Small sets and few steps. A finished
run or answer is never repeated: interrupt it as you like. The result is results/mixing.json.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gates_runs import ALL, HYPOTHESES, MIXTURES, Gating, command_line
from machine import machine
from merge_runs import LORA, RATES, TASKS, TRAINING, trained
from merge_scores import merged
from mixing_rows import (
    behind_paragraph,
    behind_sentences,
    own_tags,
    questions_about,
    with_typos,
)
from weft.answering.evaluation import predictions
from weft.answering.inference import padding_id
from weft.atomic import make_folder, write_text
from weft.comparison.comparing import examples_of
from weft.config import Run, TaskSettings
from weft.data.encoding import encode_examples
from weft.data.reading import find_spec
from weft.runs import RunFolder
from weft.storage.loading import load_run_model
from weft.tasks.contract import Example, Prediction, Task
from weft.tasks.scoring import holm, mean_difference, mean_score

FILE = Path("results") / "mixing.json"
PARTS = ("together", "topics")
MERGES = ("cat", "ties", "soups")
RESAMPLES = 14_000
"""200 for each contrast of the table, so that the smallest p is 0.01 after Holm's correction."""
SCORED = 150
"""Rows of each set, at most."""
GATED = {
    "X-LoRA as published": HYPOTHESES["as published"],
    "X-LoRA, balanced and told": HYPOTHESES["all of these"],
    "early pass": MIXTURES["early_pass, balance: start"],
}
TITLES = {"wnut17": "WNUT17", "squad": "SQuAD", "swag": "CODAH"}
TOPICS = 3
TOPIC_ROWS, TOPIC_EPOCHS = 400, 8
"""Questions of each part, and passes over them."""
TOPIC_STEPS = 60
ALONE = "own expert"

Answers = list[Prediction]
Ways = dict[str, list[Callable[[Sequence[Example]], list[Answers]]]]
"""By name, for each seed what answers rows: by one head, or by each of several."""


@dataclass(frozen=True)
class Rows:
    """A set of rows, the task that scores them, and which of their answers count."""

    task: Task
    examples: Sequence[Example]
    asked: Sequence[Example]
    """The same rows as they are asked."""
    taken: Callable[[Prediction, Example], Prediction] = lambda answer, row: answer


def answered(part: Path, examples: Sequence[Example], kept: Path) -> Answers:
    """What a run says of examples, from its file where it was asked before."""
    said = f"{part.resolve()} {json.dumps(list(examples))}"
    path = kept / f"{hashlib.sha256(said.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        run = load_run_model(part, device="cpu")
        base = run.model.base
        records = encode_examples(run.task, examples, base.tokenizer, cache=None)
        found = predictions(
            run.model,
            run.task,
            examples,
            records,
            head=run.name,
            kind=run.card.head,
            members=run.members,
            pad_id=padding_id(base),
            device=run.device,
            precision=run.precision,
        )
        make_folder(kept)
        write_text(path, json.dumps(found) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def row_of(name: str, rows: Rows, ways: Ways, alone: Sequence[str]) -> dict[str, Any]:
    """One set: every way's score, and its difference from the best of those that are alone."""
    task, metric = rows.task, rows.task.metric
    said: dict[str, list[Answers]] = {}
    for way, seeds in ways.items():
        heads = [answer(rows.asked) for answer in seeds]
        said[way] = [
            [rows.taken(one, row) for one, row in zip(own, rows.examples, strict=True)]
            for by_head in heads
            for own in by_head
        ]
    scores = {way: mean_score(task, runs, rows.examples)[metric] for way, runs in said.items()}
    best = max(alone, key=lambda way: scores[way].value)
    found: dict[str, Any] = {}
    for way, runs in said.items():
        found[way] = {"score": asdict(scores[way])}
        if way not in alone:
            apart = mean_difference(task, runs, said[best], rows.examples, resamples=RESAMPLES)[
                metric
            ]
            found[way]["from_best"] = asdict(apart)
    told_ = ", ".join(f"{way} {own['score']['value']:.3f}" for way, own in found.items())
    print(f"{name} ({len(rows.examples)} rows): {told_}", flush=True)
    return {
        "rows": name,
        "n": len(rows.examples),
        "metric": metric,
        "best_alone": best,
        "ways": found,
    }


def by_parts(folders: Sequence[Path], kept: Path) -> Callable[[Sequence[Example]], list[Answers]]:
    """What answers by each of several parts."""
    return lambda rows: [answered(folder, rows, kept) for folder in folders]


def together(gating: Gating, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Three tasks: every set of rows with the head that answers it."""
    study, kept = gating.study, gating.runs / "answers"
    own = {seed: {task: study.own(task, seed) for task in TASKS} for seed in seeds}
    mixed: dict[str, list[Path]] = {}
    for seed in seeds:
        runs = list(own[seed].values())
        for method in MERGES:
            # As merge_scores.py makes and calls them, scores and all.
            folder = merged(study, f"tasks/{method}-seed{seed}", runs, method, seed=seed)
            mixed.setdefault(f"merge: {method}", []).append(folder.path)
        for name, values in GATED.items():
            mixed.setdefault(name, []).append(gating.run(values, seed).path)

    def ways(task: str) -> Ways:
        alone = [by_parts([own[seed][task].path], kept) for seed in seeds]
        rest = {name: [by_parts([p / task], kept) for p in paths] for name, paths in mixed.items()}
        return {ALONE: alone, **rest}

    loaded = {task: examples_of(own[seeds[0]][task]) for task in TASKS}
    plain = {task: loaded[task].splits["validation"][:SCORED] for task in TASKS}
    tasks = {task: loaded[task].task for task in TASKS}
    tweets, questions = plain["wnut17"], plain["squad"]
    sets: dict[str, tuple[str, Rows]] = {
        f"{TITLES[task]} as it is": (task, Rows(tasks[task], plain[task], plain[task]))
        for task in TASKS
    }
    sets |= {
        f"{TITLES[task]} with typos": (task, Rows(tasks[task], typed, typed))
        for task in TASKS
        for typed in [[with_typos(task, row) for row in plain[task]]]
    }
    about = questions_about(loaded["wnut17"].splits["validation"])[:SCORED]
    behind = [behind_sentences(row, tweets) for row in questions]
    longer = [behind_paragraph(row, questions) for row in tweets]
    sets |= {
        "a question about a tweet": ("squad", Rows(tasks["squad"], about, about)),
        "a question behind tweets": ("squad", Rows(tasks["squad"], behind, behind)),
        "a tweet behind a paragraph": ("wnut17", Rows(tasks["wnut17"], tweets, longer, own_tags)),
    }
    return [row_of(name, rows, ways(task), [ALONE]) for name, (task, rows) in sets.items()]


@dataclass(frozen=True)
class Topics:
    """Experts of parts of SQuAD's articles."""

    data: Path
    runs: Path

    def expert(self, part: str, seed: int) -> RunFolder:
        """The expert of one part, or of all of them on as many rows together."""
        training = TRAINING | {"learning_rate": RATES["squad"], "epochs": TOPIC_EPOCHS}
        values = {"task": self._task(part), "recipe": LORA, "training": training}
        return self._run(f"topics/{part}", values, seed)

    def mixture(
        self, values: Mapping[str, Any], experts: Sequence[RunFolder], seed: int
    ) -> RunFolder:
        """Gates over the experts of all parts."""
        mixture = {
            **values["mixture"],
            "baselines": False,
            "runs": [str(expert.path) for expert in experts],
        }
        training = {
            "base_dropout": 0.0,
            "batch_size": 8,
            "max_steps": TOPIC_STEPS,
            **values["training"],
        }
        tasks = [self._task(f"topic{part}") for part in range(len(experts))]
        own = {"tasks": tasks, "mixture": mixture, "training": training}
        return self._run(f"topics/{mixture['name']}", own, seed)

    def _run(self, what: str, values: Mapping[str, Any], seed: int) -> RunFolder:
        run = Run.model_validate({"base": "minilm", "device": "cpu", "seed": seed, **values})
        return trained(self.runs / what / f"seed{seed}", run)

    def _task(self, part: str) -> dict[str, Any]:
        folder = self.runs / "data" / part
        if not folder.is_dir():
            self._write(part, folder)
        return {"name": str(folder / f"{part}.yaml"), "data": str(folder)}

    def _write(self, part: str, folder: Path) -> None:
        name = "train-v1.1.json"
        said = json.loads((self.data / "squad" / name).read_text(encoding="utf-8"))
        articles = sorted(said["data"], key=lambda article: article["title"])
        size = -(-len(articles) // TOPICS)
        parts = [articles[at : at + size] for at in range(0, len(articles), size)]
        chosen = parts if part == "all" else [parts[int(part.removeprefix("topic"))]]
        first = [article for own in chosen for article in cut(own, TOPIC_ROWS)]
        folder.mkdir(parents=True)
        for split, data in (("train", first), ("validation", self._unseen())):
            text = json.dumps({"version": "1.1", "data": data})
            write_text(folder / f"{split}-v1.1.json", text)
        spec = find_spec(TaskSettings(name="squad"))
        values = spec.model_dump(mode="json", exclude_defaults=True, exclude={"hub"})
        write_text(folder / f"{part}.yaml", yaml.safe_dump({**values, "name": part}))

    def _unseen(self) -> list[dict[str, Any]]:
        path = self.data / "squad" / "validation-v1.1.json"
        return cut(json.loads(path.read_text(encoding="utf-8"))["data"], SCORED)


def cut(articles: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """Articles with as many questions together, the first of every article's paragraphs."""
    share = -(-most // len(articles))
    found, total = [], 0
    for article in articles:
        left, paragraphs = min(share, most - total), []
        for paragraph in article["paragraphs"]:
            questions = paragraph["qas"][:left]
            if questions:
                paragraphs.append({**paragraph, "qas": questions})
            left -= len(questions)
            total += len(questions)
        if paragraphs:
            found.append({**article, "paragraphs": paragraphs})
    return found


def topics(gating: Gating, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Articles that no expert has read."""
    study, kept = Topics(gating.study.data, gating.runs), gating.runs / "answers"
    names = [f"topic{part}" for part in range(TOPICS)]
    ways: Ways = {}
    experts = {seed: [study.expert(name, seed) for name in names] for seed in seeds}
    for at in range(TOPICS):
        ways[f"{ALONE} {at + 1}"] = [by_parts([experts[s][at].path] * TOPICS, kept) for s in seeds]
    alone = list(ways)
    for seed in seeds:
        for method in MERGES:
            what = f"topics/{method}-seed{seed}"
            folder = merged(gating.study, what, experts[seed], method, seed=seed, scores=False)
            heads = by_parts([part.path for part in folder.parts()], kept)
            ways.setdefault(f"merge: {method}", []).append(heads)
        for name, values in GATED.items():
            run = study.mixture(values, experts[seed], seed)
            heads = by_parts([run.path / own for own in names], kept)
            ways.setdefault(name, []).append(heads)
        whole = by_parts([study.expert("all", seed).path] * TOPICS, kept)
        ways.setdefault("one expert of all parts", []).append(whole)
    loaded = examples_of(experts[seeds[0]][0])
    rows = loaded.splits["validation"]
    return [row_of("articles of other topics", Rows(loaded.task, rows, rows), ways, alone)]


def main() -> None:
    """Make and ask what is missing, and write the result file."""
    given, gating = command_line(FILE, PARTS)
    path = given.out
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for part in given.only:
        result[part] = {"together": together, "topics": topics}[part](gating, given.seeds)
    rows = [row for part in PARTS for row in result.get(part, [])]
    apart = {
        f"{row['rows']}/{way}": own
        for row in rows
        for way, own in row["ways"].items()
        if "from_best" in own
    }
    for name, p in holm({name: own["from_best"]["p"] for name, own in apart.items()}).items():
        apart[name]["p_corrected"] = p
    result |= {
        "script": "benchmarks/mixing.py",
        "settings": {
            "seeds": given.seeds,
            "scored": SCORED,
            "merges": MERGES,
            "gated": GATED,
            "all": ALL,
            "topics": {
                "parts": TOPICS,
                "rows": TOPIC_ROWS,
                "epochs": TOPIC_EPOCHS,
                "steps": TOPIC_STEPS,
            },
        },
        "machine": machine("cpu"),
    }
    make_folder(path.parent)
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
