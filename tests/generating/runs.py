"""Tasks of one kind that differ in a word, and experts of them as run folders, without a training."""

from pathlib import Path

from tests.merging.runs import Made

WORDS = ("cat", "red", "film", "big")
SETTINGS = {
    "channels": [4, 4, 4],
    "pad": 8,
    "latent": 4,
    "epochs": 6,
    "batch_size": 3,
    "checkpoint_every": 2,
    "learning_rate": 1e-3,
}
"""Of a generator that trains in an instant."""


def write_tasks(folder: Path) -> Path:
    """For every word a task: does a text hold it? The texts are the same for all."""
    texts = [f"the {a} {b}" for a in WORDS for b in (*WORDS, "dog", "city")]
    for word in WORDS:
        own = folder / word
        own.mkdir(parents=True)
        (own / f"{word}.yaml").write_text(
            "kind: sequence_classification\nformat: csv\nlabels: [without, with]\nmax_length: 16\n"
        )
        rows = [f"{text},{'with' if word in text.split() else 'without'}" for text in texts]
        for split, part in (("train", rows[::2]), ("validation", rows[1::2])):
            (own / f"{split}.csv").write_text("\n".join(["text,label", *part]) + "\n")
    return folder


def runs_of(made: Made, words: tuple[str, ...] = WORDS) -> list[Path]:
    """A run for each word."""
    return [made(word) for word in words]
