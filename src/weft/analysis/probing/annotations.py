"""What probes are to find: words, pairs of words and spans of real sentences, each with a label that people gave it.

    part of speech, relation   ud_ewt/{train,validation}.conllu: a word; a word and its head
    supersense                 streusle/train.conllulex, of which a share is held out: a word
    entity                     wnut17/{train,validation}.conll: a span

Of these folders below `--data` the treebank must be there; what else is there is read too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.analysis.texts import TREEBANK, Corpus, Sentence, corpus_of, read_conllu
from weft.base.loading import Base
from weft.config import TaskSettings
from weft.data.reading import load_task

SUPERSENSES = "streusle"
ENTITIES = "wnut17"
FOLDERS = {TREEBANK: "part of speech and relation", SUPERSENSES: "supersense", ENTITIES: "entity"}
"""Folders below `--data`, and what is annotated there."""
TRAINING, HELD = 300, 200
"""Sentences to train probes on, and to ask them about, of each annotation."""
_SENSE = 13
"""The column of CoNLL-U-Lex that has an expression's supersense: `_` where it has none, or is no first word."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels of one split."""

    corpus: Corpus
    parts: Tensor
    """(n, 1 or 2): the corpus' units that are looked at for each label."""
    labels: tuple[str, ...]
    words: tuple[str, ...]
    """What control tasks give a label to: the first part's words."""

    @property
    def sentence(self) -> Tensor:
        """Each label's sentence by number, (n,)."""
        return self.corpus.sentence[self.parts[:, 0]]

    def vectors(self, states: Tensor) -> Tensor:
        """(..., units, hidden) to (..., n, hidden of all parts)."""
        return states[..., self.parts, :].flatten(-2)


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one kind of annotation has to train probes on, and to ask them about."""

    name: str
    train: Labelled
    held: Labelled


def annotations(
    data: Path,
    base: Base,
    *,
    train: tuple[Corpus, Sequence[Sentence]],
    held: tuple[Corpus, Sequence[Sentence]],
    generator: torch.Generator,
) -> list[Annotation]:
    """Everything annotated that is below a folder.

    Args:
        data: The folder.
        base: Whose tokens are read.
        train: Sentences of the treebank, and the corpus of them.
        held: The same of others.
        generator: Draws sentences of the other sets.
    """
    found = [
        Annotation("part of speech", _words(*train, "tags"), _words(*held, "tags")),
        Annotation("relation", _relations(*train), _relations(*held)),
    ]
    path = data / SUPERSENSES / "train.conllulex"
    if path.is_file():
        sentences = _drawn(read_conllu(path, sense=_SENSE), TRAINING + HELD, generator)
        # There is no other split.
        cut = len(sentences) * TRAINING // (TRAINING + HELD)
        sides = (
            corpus_of(f"{SUPERSENSES} {name}", own, base)
            for name, own in (("train", sentences[:cut]), ("held out", sentences[cut:]))
        )
        both = [
            _words(corpus, [sentences[at + start] for at in kept], "senses")
            for (corpus, kept), start in zip(sides, (0, cut), strict=True)
        ]
        found.append(Annotation("supersense", *both))
    if (data / ENTITIES).is_dir():
        both = [
            _spans(data, base, split, most, generator)
            for split, most in (("train", TRAINING), ("validation", HELD))
        ]
        found.append(Annotation("entity", *both))
    return found


def _drawn(found: Sequence[Sentence], most: int, generator: torch.Generator) -> list[Sentence]:
    return [found[at] for at in torch.randperm(len(found), generator=generator)[:most].tolist()]


def _words(corpus: Corpus, sentences: Sequence[Sentence], column: str) -> Labelled:
    """A label a word; words that have none are left out."""
    labels = [label for sentence in sentences for label in getattr(sentence, column)]
    words = [word.casefold() for sentence in sentences for word in sentence.words]
    own = [at for at, label in enumerate(labels) if label]
    return Labelled(
        corpus,
        torch.tensor(own)[:, None],
        tuple(labels[at] for at in own),
        tuple(words[at] for at in own),
    )


def _relations(corpus: Corpus, sentences: Sequence[Sentence]) -> Labelled:
    """A label a word and its head; the root has none."""
    parts, labels, words, start = [], [], [], 0
    for sentence in sentences:
        for at, (head, relation) in enumerate(zip(sentence.heads, sentence.relations, strict=True)):
            if head:
                parts.append((start + at, start + head - 1))
                labels.append(relation)
                words.append(sentence.words[at].casefold())
        start += len(sentence.words)
    return Labelled(corpus, torch.tensor(parts), tuple(labels), tuple(words))


def _spans(data: Path, base: Base, split: str, most: int, generator: torch.Generator) -> Labelled:
    """A label a named entity, of sentences that have one; a unit is all of its tokens."""
    settings = TaskSettings(name=ENTITIES, data=str(data / ENTITIES))
    rows = load_task(settings, splits=[split], seed=0).splits[split]  # type: ignore[list-item,index]
    sentences, spans = [], []
    for row in rows:
        own = _entities(row["tags"])
        if own:
            blank = ("",) * len(row["tokens"])
            sentences.append(Sentence(tuple(row["tokens"]), blank, (0,) * len(blank), blank))
            spans.append(own)
    chosen = torch.randperm(len(sentences), generator=generator)[:most].tolist()
    corpus, kept = corpus_of(f"{ENTITIES} {split}", [sentences[at] for at in chosen], base)
    units, labels, words = [], [], []
    for own, at in zip(corpus.units, kept, strict=True):
        here = spans[chosen[at]]
        text = sentences[chosen[at]].words
        units.append(
            tuple(
                tuple(token for word in own[first:stop] for token in word)
                for first, stop, _ in here
            )
        )
        labels += [label for *_, label in here]
        words += [" ".join(text[first:stop]).casefold() for first, stop, _ in here]
    spanned = Corpus(corpus.name, corpus.records, tuple(units), {})
    return Labelled(spanned, torch.arange(len(labels))[:, None], tuple(labels), tuple(words))


def _entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """First word, the one after the last, and the label of each run of B- and I- tags."""
    found: list[tuple[int, int, str]] = []
    for at, tag in enumerate(tags):
        kind, _, label = tag.partition("-")
        if kind == "I" and found and found[-1][1:] == (at, label):
            found[-1] = found[-1][0], at + 1, label
        elif kind in ("B", "I"):
            found.append((at, at + 1, label))
    return found
