"""What a user costs where there are thousands: bytes on disk, seconds to list them all, milliseconds to bring one in.

    python benchmarks/personal_loading.py [--users 5000]

A personal run on all-MiniLM-L6-v2 (population rank 8, users rank 2 and a head of their own), on query and value and on
all linear maps; its users are made up, because what they have learnt costs nothing. One is brought in as the server
does it: read by its place in the file, the version looked at before and after, woven in beside those that are there.
Processor time, one thread, medians and quartiles over 200 users, the first left out, for it opens the files.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import weft
from machine import machine
from weft.atomic import make_folder, write_text
from weft.config import Run
from weft.serving.entries import place_of
from weft.serving.resident import Resident, Wanted, load
from weft.storage.loading import ground_of
from weft.storage.personal.experts import layout_of, new_expert
from weft.storage.personal.users import FOLDER, TENSORS, Index, Trained, Users, write_users
from weft.training.loop import train

RESULT = Path("results") / "personal" / "loading.json"
TARGETS: dict[str, list[str]] = {
    "query and value": ["query", "value"],
    "all linear": ["all-linear"],
}
RANK, POPULATION_RANK = 2, 8
READ = 200
RESIDENT = 50
"""Users that are in memory beside the one who comes."""
TASK = """\
kind: sequence_classification
labels: ["0", "1"]
columns: {text: text, label: label, user: user}
"""


def personal_run(folder: Path, targets: Sequence[str], users: int) -> Path:
    """A personal run with so many users."""
    rows = folder / "rows"
    make_folder(rows)
    lines = [
        json.dumps({"text": f"row {at}", "label": str(at % 2), "user": f"user {at % 3}"})
        for at in range(24)
    ]
    for split in ("train", "validation"):
        write_text(rows / f"{split}.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "task.yaml", TASK)
    config = Run.model_validate(
        {
            "base": "minilm",
            "task": {"name": str(folder / "task.yaml"), "data": str(rows)},
            "experts": "shared+personal",
            "personal": {"rank": RANK, "epochs": 1},
            "recipe": {"name": "lora", "rank": POPULATION_RANK, "targets": list(targets)},
            "training": {"max_steps": 2},
            "device": "cpu",
        }
    )
    run = train(config, out=folder / "run").path
    model = weft.load(run, device="cpu").model
    [population] = model.experts.values()
    generator = torch.Generator().manual_seed(0)
    sample = new_expert(
        "",
        population,
        model.base,
        config.personal,
        head=population.head,
        generator=generator,
    )
    layout = layout_of(sample, own_head=True)
    trained = {f"user {at}": Trained(1, 1, 0.0, 0.0) for at in range(users)}
    index = Index(RANK, config.personal.alpha, "own", True, layout, trained)
    write_users(
        run, index, {user: torch.rand(index.numbers, generator=generator) for user in trained}
    )
    return run


def loading(run: Path) -> dict[str, Any]:
    """What the users of a run cost."""
    began = time.process_time()
    users = Users(run)
    count = len(users.names)
    listed = time.process_time() - began
    ground = ground_of(run, device="cpu")
    place = place_of(run)
    assert place is not None
    there: list[Resident] = []
    taken = []
    for at in range(READ + 1):
        wanted = Wanted(f"run@user {at}", f"user-{at}", replace(place, user=f"user {at}"), None)
        began = time.process_time()
        there.append(load(wanted, ground))
        taken.append(1000 * (time.process_time() - began))
        if len(there) > RESIDENT:
            there.pop(0).leave()
    lower, median, upper = statistics.quantiles(taken[1:], n=4)
    return {
        "users": count,
        "seconds_to_list": round(listed, 3),
        "bytes_a_user": (run / FOLDER / TENSORS).stat().st_size // count,
        "numbers_a_user": users.index.numbers,
        "milliseconds_to_load": {
            "median": round(median, 2),
            "quartiles": [round(lower, 2), round(upper, 2)],
        },
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=5000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, targets in TARGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            row = {
                "targets": name,
                **loading(personal_run(Path(folder), targets, given.users)),
            }
        print(json.dumps(row), flush=True)
        rows.append(row)
    settings = {"base": "minilm", "rank": RANK, "population_rank": POPULATION_RANK, "read": READ}
    result = {
        "script": "benchmarks/personal_loading.py",
        "settings": settings,
        "results": rows,
        "machine": machine(),
    }
    make_folder(RESULT.parent)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
