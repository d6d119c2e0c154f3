"""Run folders to analyse, and a small treebank."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.merging.runs import Made, made_on

WORDS = ("the", "good", "dog", "found", "a", "red", "house")
TAGS = ("DET", "ADJ", "NOUN", "VERB", "DET", "ADJ", "NOUN")
HEADS = (3, 3, 4, 0, 7, 7, 4)
RELATIONS = ("det", "amod", "nsubj", "root", "det", "amod", "obj")
PAIRS = (
    ("good dog", "good cat", 4.2),
    ("a red house", "the city", 1.0),
    ("big book", "big film", 3.1),
    ("the river", "mary said no", 0.2),
    ("old world", "new world", 2.4),
    ("good day", "good day", 5.0),
)
"""Graded pairs of sentences."""


def conllu(count: int) -> str:
    """So many sentences, each the same words from another one on; heads turn with them."""
    found = []
    for at in range(count):
        turn = at % len(WORDS)
        lines = [f"# sent_id = {at}", "1-2\tboth\t_\t_\t_\t_\t_\t_\t_\t_"]
        for place in range(len(WORDS)):
            own = (place + turn) % len(WORDS)
            head = HEADS[own] and (HEADS[own] - 1 - turn) % len(WORDS) + 1
            lines.append(
                f"{place + 1}\t{WORDS[own]}\t_\t{TAGS[own]}\t_\t_\t{head}\t{RELATIONS[own]}:x\t_\t_"
            )
        found.append("\n".join([*lines, "7.1\tunsaid\t_\tNOUN\t_\t_\t_\t_\t_\t_"]))
    return "\n\n".join(found) + "\n\n"


@pytest.fixture
def made(tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path: Path) -> Made:
    """Makes runs on the tiny BERT."""
    return made_on(tiny_folder, tasks_folder, tmp_path)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data with a treebank in it; never to be changed."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "ud_ewt").mkdir()
    (folder / "ud_ewt" / "train.conllu").write_text(conllu(40))
    (folder / "ud_ewt" / "validation.conllu").write_text(conllu(24))
    (folder / "stsb").mkdir()
    pairs = [f"{a},{b},{score}" for a, b, score in PAIRS]
    (folder / "stsb" / "validation.csv").write_text("\n".join(pairs) + "\n")
    return folder
