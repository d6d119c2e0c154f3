"""Strings of spoken and handwritten digits as ordinary files: what `omni_digits.py` trains and scores on.

    python benchmarks/omni_strings.py OUT [--recordings ../shared/data/spoken_digits] [--seed 0]

Each row is a string of 3 to 6 digits: recordings of one speaker one after another, with pauses of 20 to 120 ms (WAV),
and scikit-learn's handwritten digits side by side (`.npy`, 8 pixels high), a stand-in for the lips that say them: two
channels, of which each tells the whole string. One speaker, and half of the handwriting, are in validation alone.
Training rows have a noise of their own on each channel, drawn from `LEVELS`; validation is written once for each of
`CONDITIONS`, with the same strings. Noise is white, its strength a ratio to the mean square of the signal.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weft.atomic import atomic_folder, write_text
from weft.tasks.inputs.audio import read_wav, write_wav

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD = "theo"
"""The speaker of validation alone."""
LEVELS: tuple[float | None, ...] = (None, 10.0, 5.0, 0.0, -5.0)
"""Signal to noise in decibels; None is none."""
CONDITIONS: dict[str, tuple[float | None, float | None]] = {
    "clean": (None, None),
    "sound 5 dB": (5.0, None),
    "sound -5 dB": (-5.0, None),
    "picture 0 dB": (None, 0.0),
    "sound -5 dB, picture 0 dB": (-5.0, 0.0),
}
"""Noise on recordings and pictures of validation."""
ROWS = {"train": 900, "validation": 120}


def noisy(signal: np.ndarray, level: float | None, draw: np.random.Generator) -> np.ndarray:
    """The signal with white noise at so many decibels below it."""
    if level is None:
        return signal
    power = np.mean(signal**2) / 10 ** (level / 10)
    return signal + draw.normal(size=signal.shape) * np.sqrt(power)


class Digits:
    """Recordings by speaker and digit, and handwriting by digit, both halves apart.

    Args:
        recordings: Folder of `DIGIT_SPEAKER_N.wav`.

    Raises:
        ValueError: If there are none, or none of the speaker that is held out.
    """

    def __init__(self, recordings: Path) -> None:
        self.sounds: dict[str, dict[int, list[np.ndarray]]] = {}
        self.rate = 0
        for path in sorted(recordings.glob("?_*_*.wav")):
            digit, speaker, _ = path.stem.split("_")
            samples, self.rate = read_wav(path)
            self.sounds.setdefault(speaker, {}).setdefault(int(digit), []).append(samples)
        if HELD not in self.sounds or len(self.sounds) < 2:
            raise ValueError(
                f"{recordings}: expected DIGIT_SPEAKER_N.wav of {HELD} and of others, found speakers "
                f"{sorted(self.sounds) or 'none'}; give the folder of spoken digits as --recordings"
            )
        from sklearn.datasets import load_digits

        loaded: Any = load_digits()
        self.pictures = {
            digit: (loaded.images[loaded.target == digit] / 16).astype(np.float32)
            for digit in range(10)
        }

    def row(
        self, split: str, draw: np.random.Generator
    ) -> tuple[list[int], str, np.ndarray, np.ndarray]:
        """A string, who says it, (samples,) and (8, 8 x length)."""
        string = draw.integers(0, 10, size=draw.integers(3, 7)).tolist()
        others = sorted(set(self.sounds) - {HELD})
        speaker = HELD if split == "validation" else others[draw.integers(len(others))]
        parts, half = [], int(split == "validation")
        for digit in string:
            own = self.sounds[speaker][digit]
            parts += [own[draw.integers(len(own))]]
            parts += [np.zeros(int(self.rate * draw.uniform(0.02, 0.12)))]
        written = []
        for digit in string:
            own = self.pictures[digit][half::2]
            written.append(own[draw.integers(len(own))])
        return string, speaker, np.concatenate(parts), np.concatenate(written, axis=1)


def compose(recordings: Path, out: Path, *, seed: int = 0, rows: Mapping[str, int] = ROWS) -> Path:
    """Write the set, whole or not at all; one that is there is left as it is.

    Args:
        recordings: Folder of `DIGIT_SPEAKER_N.wav`.
        out: Folder to write: `train.jsonl`, and a folder with a `validation.jsonl` for each condition.
        seed: Decides strings, choice and noise.
        rows: How many rows by split.
    """
    if out.is_dir():
        return out
    digits = Digits(recordings)
    with atomic_folder(out) as draft:
        _write(draft, "train", None, digits, seed=seed, count=rows["train"])
        for name, levels in CONDITIONS.items():
            place = draft / name.replace(" ", "_").replace(",", "")
            _write(place, "validation", levels, digits, seed=seed, count=rows["validation"])
            if name == "clean":
                # What a run itself scores at its end.
                _write(draft, "validation", levels, digits, seed=seed, count=rows["validation"])
    return out


def _write(
    folder: Path,
    split: str,
    levels: tuple[float | None, ...] | None,
    digits: Digits,
    *,
    seed: int,
    count: int,
) -> None:
    """One split; `levels` None draws each row's own."""
    (folder / split).mkdir(parents=True)
    lines = []
    for at in range(count):
        draw = np.random.default_rng([seed, at, *split.encode()])
        string, speaker, sound, picture = digits.row(split, draw)
        drawn = [LEVELS[place] for place in draw.integers(0, len(LEVELS), size=2)]
        own = drawn if levels is None else list(levels)
        name = f"{split}/{at:04}"
        write_wav(folder / f"{name}.wav", noisy(sound, own[0], draw), digits.rate)
        np.save(folder / f"{name}.npy", noisy(picture, own[1], draw).astype(np.float32))
        row = {
            "id": f"{split}-{at}",
            "audio": f"{name}.wav",
            "image": f"{name}.npy",
            "prompt": "=",
            "text": " ".join(WORDS[digit] for digit in string),
            "speaker": speaker,
            "noise": own,
        }
        lines.append(json.dumps(row))
    write_text(folder / f"{split}.jsonl", "\n".join(lines) + "\n")


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--recordings", default="../shared/data/spoken_digits")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(compose(Path(given.recordings), Path(given.out), seed=given.seed))


if __name__ == "__main__":
    main()
