"""`retokenised.json`: where the tokenizer and the embeddings of a base come from, beside its checkpoint."""

import json
from pathlib import Path
from typing import Literal

from weft.atomic import write_text
from weft.config import Settings, validate
from weft.guard import read_json

FILE = "retokenised.json"


class CorpusFile(Settings):
    """A file that the tokenizer was trained on."""

    name: str
    sha256: str
    lines: int


class Retokenised(Settings):
    """What `retokenised.json` says."""

    format: Literal[1] = 1
    """Grows when the file changes meaning."""
    base: str
    """The base whose tokenizer was replaced, as the user said it."""
    source: str
    """Its hub id or absolute folder."""
    revision: str | None = None
    base_digest: str
    """Its identity."""
    tokenizer: str | None = None
    """The tokenizer that was given; None where it was trained."""
    size: int | None = None
    """Tokens asked for, where it was trained; a small corpus has fewer."""
    corpus: list[CorpusFile] = []
    """What it was trained on."""
    tokens_before: int
    tokens: int
    tied: bool
    """Whether output embeddings are the input's."""
    copied: int
    """Tokens whose embedding is that of one old token."""
    averaged: int
    """Tokens whose embedding is the mean of several."""
    unknown: int
    """Tokens that no old token says anything of."""
    tokens_per_byte_before: float | None = None
    """Of the corpus, by the tokenizer that was replaced."""
    tokens_per_byte: float | None = None
    notes: list[str] = []
    """What a user should know."""


def read_record(folder: str | Path) -> Retokenised:
    """What `retokenised.json` in `folder` says.

    Raises:
        ValueError: If it is missing or damaged.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise ValueError(f"{folder} has no {FILE}; give a folder that `weft retokenise` wrote")
    return validate(Retokenised, read_json(path), str(path))


def write_record(record: Retokenised, folder: Path) -> None:
    """Write `retokenised.json`."""
    write_text(folder / FILE, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")
