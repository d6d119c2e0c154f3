"""Words as tones and as grey squares: a tiny set of recordings and pictures of the same texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from weft.tasks.inputs.audio import write_wav

WORDS = ("good", "bad", "film", "book")
RATE = 8000
ENCODERS = {
    "audio": {"sample_rate": RATE, "mels": 12, "width": 16, "layers": 1},
    "image": {"height": 8, "patch": 4, "width": 16, "layers": 1},
}
RATES = {"audio": [2, 4], "image": [1, 3]}
INPUTS = {"hear": ["audio"], "see": ["image"], "both": ["audio", "image"]}


def tone(words: list[str], generator: np.random.Generator) -> np.ndarray:
    """(samples,): a tone for each word, of 0.11 to 0.21 seconds."""
    parts = [
        np.sin(np.arange(generator.integers(900, 1700)) * (0.2 + 0.4 * WORDS.index(word)))
        for word in words
    ]
    return 0.5 * np.concatenate(parts) + 0.01 * generator.normal(size=sum(map(len, parts)))


def write_sounds(folder: Path, train: int = 14, validation: int = 6) -> Path:
    """Write `hear`, `see` and `both` with the rows, WAV files and pictures of all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("validation", validation)):
        rows: list[dict[str, Any]] = []
        for at in range(count):
            words = [WORDS[place] for place in generator.integers(0, 4, size=1 + at % 3)]
            write_wav(folder / f"{split}{at}.wav", tone(words, generator), RATE)
            grey = np.concatenate(
                [np.full((8, 8), WORDS.index(word) / 3, np.float32) for word in words], axis=1
            )
            np.save(folder / f"{split}{at}.npy", grey)
            files = {"audio": f"{split}{at}.wav", "image": f"{split}{at}.npy"}
            rows.append({"id": f"{split}{at}", **files, "text": " ".join(words)})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def spec_of(name: str, **options: Any) -> dict[str, Any]:
    """The set's description, as a task's YAML would hold it."""
    own = {"inputs": INPUTS[name], "rates": {n: RATES[n] for n in INPUTS[name]}}
    own |= {"encoders": {n: ENCODERS[n] for n in INPUTS[name]}, "max_new_tokens": 4, **options}
    return {"kind": "transcription", "format": "jsonl", "max_length": 100, "options": own}


def sound_task(name: str, folder: Path, *, options: Any = None, **settings: Any) -> dict[str, Any]:
    """One of the tasks, as settings of a run."""
    spec = spec_of(name, **(options or {}))
    return {"name": name, "spec": spec, "data": str(folder), **settings}
