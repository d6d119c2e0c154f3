"""Which metric follows people, and whether metrics and judges prefer the same notes of a decoder.

    python benchmarks/decoder_judging.py people --data ../shared/data     a minute
    python benchmarks/decoder_judging.py notes --data ../shared/data      within an hour on two cores

`people`: 400 machine notes of 100 doctor-patient conversations (MTS-Dialog), four systems' each, with what people
scored of them. Each metric of weft, and the length of a note, is correlated with each of those scores over rows; more
is better on both sides (errors count negative). Four notes share a reference, so a resample draws conversations with
all their notes: 95 % percentile intervals of 1,000 resamples.

`notes`: LoRA on all linear maps of smollm2, trained on short conversations with their notes, one epoch at the rule's
rate, three seeds, against the base without training, on validation conversations; greedy. Both tracks of `weft.judge`,
the judge smollm2 itself by the probabilities of its answers (refused where it cannot tell a note from disorder), and
whatever `--judge server,url=...` names. Interrupt it as you like: the same call goes on.

Each part replaces its own in results/decoders/judging.json.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import weft
from machine import machine
from weft.answering.generation import Generation, generate
from weft.answering.metrics import metrics
from weft.atomic import make_folder, write_text
from weft.base.loading import load_base
from weft.cli.judge import settings_of
from weft.config import Run
from weft.judging import agreement
from weft.judging.trust import RefusedError
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model
from weft.tasks.scoring import LEVEL, interval

RESULT = Path("results") / "decoders" / "judging.json"
RESAMPLES = 1000
HUMAN = {
    "FactualF1": 1,
    "FactualPrecision": 1,
    "FactualRecall": 1,
    "HallucinationRate": -1,
    "OmissionRate": -1,
    "Edit Distance (Correction)": -1,
}
"""What people scored, and whether more of it is better."""
WAYS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": agreement.spearman,
    "kendall": agreement.kendall,
    "pearson": agreement.pearson,
}
BESIDE = "rouge1"
"""The metric that the others' differences are from: what most notes are scored by."""

BASE = "smollm2"
SEEDS = (0, 1, 2)
ASK = "Write the section of the clinical note that this conversation belongs into.\n\n"
LONGEST = 512
"""Tokens of a conversation with its note, at most."""
CRITERIA = (
    "Judge how well a section of a clinical note says what the conversation says: no fact that is not there, none "
    "left out. Its length does not count."
)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def people(data: Path, rows: int | None) -> dict[str, Any]:
    """Every metric beside every score of people."""
    notes, scores = (
        table(data / name)[:rows] for name in ("automatic_notes.csv", "manual_scores.csv")
    )
    if len(notes) != len(scores):
        raise SystemExit(f"{len(notes)} notes and {len(scores)} rows of scores")
    candidates, references = (
        [note[column] for note in notes] for column in ("Automatic Summary", "Reference Summary")
    )
    columns: dict[str, np.ndarray] = {
        "words": np.array([len(text.split()) for text in candidates], dtype=np.float64)
    }
    signatures: dict[str, str] = {}
    for name in metrics.names():
        for score, found in metrics.load(name)().measure(candidates, references).items():
            columns[score], signatures[score] = found.rows, found.signature
    wanted = {
        name: sign * np.array([float(row[name]) for row in scores]) for name, sign in HUMAN.items()
    }
    groups = [note["ID"] for note in notes]
    found = [
        line
        for human, values in wanted.items()
        for way in WAYS
        for line in beside(human, way, columns, values, groups)
    ]
    return {
        "rows": len(notes),
        "conversations": len(set(groups)),
        "resamples": RESAMPLES,
        "level": LEVEL,
        "beside": BESIDE,
        "signatures": signatures,
        "correlations": found,
    }


def beside(
    human: str,
    way: str,
    columns: dict[str, np.ndarray],
    values: np.ndarray,
    groups: Sequence[str],
) -> list[dict[str, Any]]:
    """One score of people: every metric's correlation, and how far it is from that of `BESIDE`."""
    members = [np.flatnonzero(np.array(groups) == one) for one in dict.fromkeys(groups)]
    generator = np.random.default_rng(0)
    chosen = [
        np.concatenate([members[at] for at in generator.integers(len(members), size=len(members))])
        for _ in range(RESAMPLES)
    ]
    correlate = WAYS[way]
    whole = {name: correlate(own, values) for name, own in columns.items()}
    drawn = {
        name: np.array([correlate(own[rows], values[rows]) for rows in chosen])
        for name, own in columns.items()
    }
    print(human, way, {name: round(value, 3) for name, value in whole.items()}, flush=True)
    return [
        {
            "human": human,
            "way": way,
            "metric": name,
            **asdict(interval(whole[name], drawn[name], LEVEL)),
            "from_beside": asdict(
                interval(whole[name] - whole[BESIDE], drawn[name] - drawn[BESIDE], LEVEL)
            ),
        }
        for name in columns
    ]


def chats(path: Path, base: Any, most: int) -> list[dict[str, Any]]:
    """The first conversations that are short enough, as chats."""
    found = []
    for row in table(path):
        user = {"role": "user", "content": f"{ASK}{row['dialogue']}"}
        answer = {"role": "assistant", "content": row["section_text"]}
        ids = base.tokenizer.apply_chat_template([user, answer], tokenize=True, return_dict=True)
        if len(ids["input_ids"]) <= LONGEST and row["section_text"].strip():
            found.append({"id": row["ID"], "messages": [user, answer]})
        if len(found) == most:
            break
    return found


def settings(seed: int) -> Run:
    """Those of one expert; the rate is the rule's."""
    return Run.model_validate(
        {
            "base": BASE,
            "task": {
                "name": "notes",
                "spec": {"kind": "causal_lm", "max_length": LONGEST},
            },
            "recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["all-linear"]},
            "training": {"epochs": 1, "batch_size": 4},
            "seed": seed,
            "device": "cpu",
        }
    )


def notes(data: Path, runs: Path, rows: int, asked: int, judges: Sequence[str]) -> dict[str, Any]:
    """Experts against their base, on both tracks."""
    base = load_base(BASE)
    train = chats(data / "train.csv", base, rows)
    held = chats(data / "validation.csv", base, asked)
    prompts = [row["messages"][:1] for row in held]
    references = [row["messages"][1]["content"] for row in held]
    generation = Generation(max_new_tokens=96, batch_size=8)
    plain = Model(base)
    plain.add(Expert("base", {}, Head("causal_lm", base, 0, seed=0)))
    without = kept(
        runs / "base.json",
        lambda: [one.text for one in generate(plain, "base", prompts, generation, device="cpu")],
    )
    found = []
    asks = [row["messages"][0]["content"] for row in held]
    every = [{"name": "local", "base": BASE, "device": "cpu"}, *map(settings_of, judges)]
    for seed in SEEDS:
        folder = runs / f"seed{seed}"
        if not (folder / "run" / "metrics.json").is_file():
            print(f"training seed {seed}", flush=True)
            weft.train(
                settings(seed), data={"train": train, "validation": held}, out=folder / "run"
            )
        own = kept(folder / "notes.json", lambda at=folder: written(at / "run", held, generation))
        for way in ("pairwise", "rubric"):
            for judge in every:
                name = str(judge.get("model") or judge.get("base"))
                print(f"seed {seed}: {way} by {name}", flush=True)
                given = {"against": without, "questions": asks, "criteria": CRITERIA}
                out = folder / f"{way}-{name}"
                one = track(own, references, judge=judge, protocol=way, out=out, **given)
                found.append({"seed": seed, **one})
    return {
        "base": BASE,
        "train_rows": len(train),
        "rows": len(held),
        "seeds": SEEDS,
        "settings": settings(SEEDS[0]).model_dump(mode="json"),
        "generation": generation.model_dump(mode="json"),
        "criteria": CRITERIA,
        "found": found,
        "over_seeds": over_seeds(found),
    }


def track(
    own: list[str], references: list[str], *, judge: dict[str, Any], protocol: str, **given: Any
) -> dict[str, Any]:
    """Both tracks of one expert by one judge; the lexical one alone where the judge is refused."""
    who = {
        "judge": {key: value for key, value in judge.items() if key != "url"},
        "protocol": protocol,
    }
    try:
        found = weft.judge(own, references, judges=[judge], protocol=protocol, **given)
    except RefusedError as error:
        found = weft.judge(own, references, **given)
        return {**who, "refused": str(error), **found.as_json()}
    return {**who, "refused": None, **found.as_json()}


def over_seeds(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of each metric's difference."""
    values: dict[str, dict[int, float]] = {}
    for one in found:
        for line in one["lexical"]:
            values.setdefault(line["metric"], {})[one["seed"]] = line["difference"]["value"]
    return {
        name: {"mean": statistics.mean(own.values()), "deviation": statistics.stdev(own.values())}
        for name, own in values.items()
    }


def written(run: Path, held: list[dict[str, Any]], generation: Generation) -> list[str]:
    """What an expert writes."""
    found = weft.predict(run, held, generation=generation, device="cpu")
    return [str(one["continuation"]) for one in found]


def kept(path: Path, make: Callable[[], list[str]]) -> list[str]:
    """Texts from their file, or made now."""
    if not path.is_file():
        make_folder(path.parent)
        write_text(path, json.dumps(make(), ensure_ascii=False, indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Run a part and write it into the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("people", "notes"))
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/decoder-judging")
    parser.add_argument("--rows", type=int, help="people: notes; notes: rows of train")
    parser.add_argument("--asked", type=int, default=60, help="notes: rows of validation")
    parser.add_argument("--judge", action="append", default=[], help="as of weft judge")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    data = Path(arguments.data) / "mts_dialog"
    if arguments.part == "people":
        found = people(data, arguments.rows)
    else:
        rows = arguments.rows or 300
        found = notes(data, Path(arguments.runs), rows, arguments.asked, arguments.judge)
    result: dict[str, Any] = {"script": "benchmarks/decoder_judging.py"}
    if arguments.result.is_file():
        result = json.loads(arguments.result.read_text(encoding="utf-8"))
    result[arguments.part] = {**found, "machine": machine("cpu")}
    make_folder(arguments.result.parent)
    write_text(arguments.result, json.dumps(result, indent=1) + "\n")
    print(arguments.result)


if __name__ == "__main__":
    main()
