"""Expert folders that somebody damaged, or made to do harm, and what weft says of each.

Run as a program it tries a list of them in a process of its own, with limits on time and memory:
`python -m tests.storage.mutants JOB`, where JOB is a JSON file of `Job`.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load as load_bytes
from torch import Tensor

from weft.base.loading import Base, load_base
from weft.config import validate
from weft.lowrank.route import Route
from weft.model.model import Model
from weft.storage.experts import load_expert
from weft.storage.importing import expert_of
from weft.storage.links import refuse_links
from weft.storage.mixture import load_mixture
from weft.tasks.contract import TaskSpec

SECONDS = 5
"""Most processor time for one folder."""
BYTES = 500 << 20
"""Most memory beyond what the imports and the base take."""
MEANT = {
    "lora_alpha",
    "alpha",
    "init_r",
    "alpha_pattern",
    "use_rslora",
    "init_lora_weights",
    "use_dora",
    "trainable_token_indices",
}
"""Settings of a PEFT config that change what the expert computes; nothing in the folder contradicts another value."""
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    7,
    10**12,
    1.5,
    1e308,
    "",
    "x",
    "(",
    [],
    ["x"],
    [1],
    {},
    {"a": 1},
    {"query": "2"},
)


@dataclass(frozen=True)
class Source:
    """A good folder: whose it is (weft, peft or mixture), its base and its task."""

    owner: str
    folder: str
    base: str
    task: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What became of one mutant: equal, meant (another answer, as the file says), refused, or a fault."""

    source: int
    seed: int
    did: str
    outcome: str
    said: str = ""
    seconds: float = 0.0


def mutate(folder: Path, others: list[Path], seed: int) -> str:
    """Change one thing in a folder; what was done."""
    draw = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    weights = [path for path in files if path.suffix == ".safetensors"]
    words = [path for path in files if path.name in ("adapter_config.json", "weft.json")]
    ways: list[Callable[[], str]] = [
        lambda: _bytes(draw.choice(files), draw),
        lambda: _json(draw.choice(words), draw) if words else _bytes(draw.choice(files), draw),
        lambda: _json(draw.choice(words), draw) if words else _bytes(draw.choice(files), draw),
        lambda: _header(draw.choice(weights), draw) if weights else _cut(draw.choice(files), draw),
        lambda: _header(draw.choice(weights), draw) if weights else _cut(draw.choice(files), draw),
        lambda: _cut(draw.choice(files), draw),
        lambda: _swapped(files, others, folder, draw),
        lambda: _linked(draw.choice(files), folder, draw),
    ]
    return draw.choice(ways)()


def _bytes(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 3))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"flipped bits of {path.name}"


def _cut(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    way = draw.choice(("cut", "empty", "longer", "text", "deep", "gone"))
    if way == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "cut": data[: draw.randrange(len(data))],
                "empty": b"",
                "longer": data + bytes(draw.randrange(1, 99)),
                "text": b"\xff\xfe not what it says",
                "deep": b"[" * 100_000,
            }[way]
        )
    return f"{way}: {path.name}"


def _json(path: Path, draw: random.Random) -> str:
    said = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(said)
    holder, key = draw.choice(places)
    way = draw.choice(("odd", "odd", "gone", "deep", "more"))
    if way == "odd":
        holder[key] = draw.choice(ODD)
    elif way == "gone":
        del holder[key]
    elif way == "deep":
        for _ in range(90):
            holder[key] = [holder[key]]
    else:
        said[draw.choice(("use_new", "new_size", "r", "bias", "x"))] = draw.choice(ODD)
    path.write_text(json.dumps(said))
    return f"{way}: {key} in {path.name}"


def _header(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return _cut(path, draw)
    name = draw.choice(names)
    entry = header[name]
    way = draw.choice(("offsets", "shape", "type", "name", "gone", "other", "metadata", "length"))
    if way == "offsets":
        entry["data_offsets"] = draw.choice(
            ([0, 10**15], [8, 0], [0, 0], ["a", 1], [-4, 4], 3, [1])
        )
    elif way == "shape":
        shape = entry["shape"]
        entry["shape"] = draw.choice(
            (shape[::-1], [*shape, 1], [10**9, 10**9], [-1], "x", [], [1.5])
        )
    elif way == "type":
        entry["dtype"] = draw.choice(
            ("I32", "F16", "BF16", "F64", "F8_E4M3", "BOOL", "Q9", 3, None)
        )
    elif way == "name":
        header[draw.choice((f"{name}x", "a", "", "base_model.model.x", name.upper()))] = header.pop(
            name
        )
    elif way == "gone":
        del header[name]
    elif way == "other":
        header[name] = header[draw.choice(names)]
    elif way == "metadata":
        header["__metadata__"] = draw.choice(
            ({"ranks": "[["}, {"ranks": '{"a": -1}'}, {"x": 1}, [], None)
        )
    text = json.dumps(header).encode()
    length = draw.choice((0, 7, 10**18, size + 8)) if way == "length" else len(text)
    path.write_bytes(length.to_bytes(8, "little") + text + data[8 + size :])
    return f"{way} of {name[-40:]} in {path.name}"


def _swapped(files: list[Path], others: list[Path], folder: Path, draw: random.Random) -> str:
    if draw.random() < 0.5 and len(files) > 1:
        one, other = draw.sample(files, 2)
        kept = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(kept)
        return f"{one.name} and {other.name} swapped"
    strange = draw.choice([p for other in others for p in sorted(other.rglob("*")) if p.is_file()])
    place = folder / strange.name
    place.write_bytes(strange.read_bytes())
    return f"{strange.name} of {strange.parent.name}"


def _linked(path: Path, folder: Path, draw: random.Random) -> str:
    way = draw.choice(("zero", "passwd", "pipe", "folder", "nowhere", "inside", "itself"))
    path.unlink()
    if way == "pipe":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    else:
        inside = next((other for other in sorted(folder.rglob("*")) if other.is_file()), folder)
        path.symlink_to(
            {
                "zero": Path("/dev/zero"),
                "passwd": Path("/etc/passwd"),
                "nowhere": folder / "nothing",
                "inside": inside,
                "itself": path,
            }[way]
        )
    return f"{path.name} is {way}"


def loaded(source: Source, folder: Path, base: Base) -> Tensor:
    """The last states, and with a head the logits, of what is in a folder, as `weft import` takes it."""
    refuse_links(folder)
    head = None
    if source.owner == "mixture":
        expert: Any = load_mixture(folder, base)[0]
    elif source.owner == "weft":
        expert, _ = load_expert(folder, base, name="mine")
        head = expert.head
    else:
        expert, _ = expert_of(folder, base, validate(TaskSpec, source.task, "task"))
        head = expert.head
    model = Model(base).eval()
    model.add(expert)
    try:
        ids = torch.randint(5, 90, (4, 7), generator=torch.Generator().manual_seed(0))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            states = model.states(batch, Route.everywhere(expert.name))
            return states if head is None else head(states, batch["attention_mask"], (1,) * 4)
    finally:
        model.remove(expert.name)


def is_meant(folder: Path, good: Path) -> bool:
    """Whether the files say, consistently, another expert: other values in the same tensors, or another setting."""
    for path in sorted(good.rglob("*")):
        other = folder / path.relative_to(good)
        if not path.is_file() or path.read_bytes() == other.read_bytes():
            continue
        if path.suffix in (".safetensors", ".bin"):
            one, two = (_tensors(p) for p in (path, other))
            if {n: v.shape for n, v in one.items()} != {n: v.shape for n, v in two.items()}:
                return False
            return any(not torch.equal(one[name], two[name]) for name in one)
        if path.name == "adapter_config.json":
            one, two = (json.loads(p.read_text()) for p in (path, other))
            return {key for key in one | two if one.get(key) != two.get(key)} <= MEANT
        if path.suffix == ".yaml":
            return yaml.safe_load(path.read_text()) != yaml.safe_load(other.read_text())
    return False


def _tensors(path: Path) -> dict[str, Tensor]:
    return torch.load(path) if path.suffix == ".bin" else load_bytes(path.read_bytes())


def tried(
    number: int, seed: int, sources: list[Source], bases: dict[str, Base], good: dict[int, Tensor]
) -> Found:
    """One mutant, made, loaded and judged."""
    source = sources[number]
    place = Path(tempfile.mkdtemp(prefix="mutant-"))
    folder = place / "it"
    shutil.copytree(source.folder, folder)
    others = [Path(other.folder) for other in sources]
    did = mutate(folder, others, seed)
    started = time.process_time()
    try:
        answer = loaded(source, folder, bases[source.base])
        if answer.shape == good[number].shape and torch.equal(answer, good[number]):
            outcome, said = "equal", ""
        elif is_meant(folder, Path(source.folder)):
            outcome, said = "meant", ""
        else:
            outcome, said = "WRONG ANSWER", ""
    except (ValueError, KeyError, TypeError) as error:
        said = str(error)
        outcome = "refused" if str(place) in said else "NAMES NO FILE"
        if outcome != "refused":
            said = traceback.format_exc()[-1500:]
        elif len(said) > 900:
            outcome = "LONG SENTENCE"
    except Exception:
        outcome, said = "TRACEBACK", traceback.format_exc()[-1500:]
    finally:
        seconds = time.process_time() - started
        shutil.rmtree(place, ignore_errors=True)
    return Found(number, seed, did, outcome, said, seconds)


def main(job: Path) -> None:
    """Try what a job says; one line of JSON for each, and before it one that says which it will be."""
    said = json.loads(job.read_text())
    sources = [Source(**values) for values in said["sources"]]
    bases = {source.base: load_base(source.base) for source in sources}
    torch.set_num_threads(1)
    good = {at: loaded(s, Path(s.folder), bases[s.base]) for at, s in enumerate(sources)}
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + BYTES, taken + BYTES))
    for number, seed in said["cases"]:
        print(json.dumps(["try", number, seed]), flush=True)
        # The default action: the process ends, and its last line says with what.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
        found = tried(number, seed, sources, bases, good)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
