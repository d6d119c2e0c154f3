"""Token classification: entities in text, as an IOB2 tag for each word."""

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from weft.config import Settings, validate
from weft.registry import unknown
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import entities_of, f1, gold, ratio, softmax
from weft.tasks.text import (
    UNLABELLED,
    encoding_of,
    identity,
    most_context,
    pick,
    sequences,
    text_of,
    valid_text,
    word_starts,
    word_windows,
    words_of,
)


class Options(Settings):
    """This kind has no options."""


class TokenClassification(Task):
    """Entities in text, as an IOB2 tag for each word.

    Columns: `tokens`, the words; `tags`, one of `O`, `B-<type>`, `I-<type>` for each word. For
    prediction also `text` alone: its words are found by `weft.tasks.text.words_of`, and kept with their
    `offsets` in the checked example. Beside `tokens`, a `text` without `offsets` is not looked at.
    Classes are the tags of the training split, `O` first.

    Encoding: the words joined by spaces, in windows of at most `max_length` tokens that begin and
    end with whole words and share up to `stride` tokens. `labels`: the tag's class at a word's
    first sub-word in the one window that shows most of its context, -100 everywhere else, so that
    each word counts once in the loss and is predicted once. Of a word longer than a window the
    first sub-words are kept: only the first matters. A word without sub-words (empty, control
    characters) has no label and is predicted `O`. Output per sequence (tokens, classes).

    Prediction: `{id, tags, entities: [{type, text, score, start, end}]}`; start and end are
    character offsets into the user's text, or into `" ".join(tokens)`; score is the mean
    probability of the entity's tags.

    Scores: `f1`, `precision`, `recall` of whole entities, micro-averaged and as lenient as
    seqeval's default (an entity may begin with I-); `accuracy` of tags. Selected on f1.
    """

    columns = ("tokens",)
    optional = ("text", "offsets")
    target = "tags"
    metric = "f1"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        validate(Options, spec.options, f"task {spec.name}: options")
        self._class_of = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        """`spec.labels`, else the tags that occur: `O`, then the others sorted."""
        found = {tag for row in examples for tag in row.get("tags") or ()} - {"O"}
        labels = ["O", *sorted(found, key=str)] if spec.labels is None else list(spec.labels)
        wrong = [tag for tag in labels if not re.fullmatch(r"O|[BI]-.+", str(tag))]
        if wrong or "O" not in labels or len(labels) < 2 or len(set(labels)) < len(labels):
            raise ValueError(
                f"task {spec.name}: expected different IOB2 tags (O, B-<type>, I-<type>), "
                f"got {labels!s:.200}"
            )
        return labels

    def check(self, example: Example, where: str) -> Example:
        checked: dict[str, object] = {"id": identity(example, where)}
        tokens, tags = example.get("tokens"), example.get("tags")
        if tokens is None and example.get("text") is not None:
            text = text_of(example, "text", where)
            words = words_of(text)
            tokens = [word for word, _, _ in words]
            checked |= {"text": text, "offsets": [[start, end] for _, start, end in words]}
        elif example.get("offsets") is not None:
            if len(example["offsets"]) != len(tokens or ()):
                raise ValueError(f"{where}: 'offsets' must hold [start, end] of each of 'tokens'")
            checked |= {"text": text_of(example, "text", where), "offsets": example["offsets"]}
        if not isinstance(tokens, list | tuple) or not all(isinstance(t, str) for t in tokens):
            raise ValueError(f"{where}: column 'tokens' must be a list of words, got {tokens!r}")
        valid_text("".join(tokens), "column 'tokens'", where)
        checked["tokens"] = list(tokens)
        if tags is None:
            return checked
        if not isinstance(tags, list | tuple) or len(tags) != len(tokens):
            raise ValueError(
                f"{where}: expected a tag for each of the {len(tokens)} tokens, got "
                f"{f'{len(tags)} tags' if isinstance(tags, list | tuple) else repr(tags)}"
            )
        for tag in tags:
            if tag not in self._class_of:
                raise ValueError(
                    f"{where}: {unknown('tag', str(tag), self.labels)}; classes are the tags of "
                    "the training split, or `labels` in the set's YAML"
                )
        return {**checked, "tags": list(tags)}

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerFast) -> Record:
        tokens, row = example["tokens"], f"row {example['id']!r}"
        encoding = encoding_of(tokenizer, " ".join(tokens))
        inside = [place for place, text in enumerate(encoding.sequence_ids) if text is not None]
        if not len(encoding):
            raise ValueError(f"{row}: 'tokens' has no sub-words: the tokenizer drops all of it")
        before = list(range(inside[0] if inside else 1))
        after = list(range(inside[-1] + 1 if inside else 1, len(encoding)))
        room = self.spec.max_length - len(before) - len(after)
        # Some tokenizers count the space before a word to its token: only its last character tells.
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[inside]
        lasts = np.maximum(offsets[:, 1] - 1, offsets[:, 0])
        word_of = np.searchsorted(word_starts(tokens), lasts, side="right") - 1
        pieces: list[list[int]] = [[] for _ in tokens]
        for place, word in zip(inside, word_of.tolist(), strict=True):
            if len(pieces[word]) < room:
                pieces[word].append(place)
        spans = word_windows([len(piece) for piece in pieces], room, self.spec.stride, row)
        borders = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        owner = most_context(
            [(int(borders[first]), int(borders[last])) for first, last in spans], int(borders[-1])
        )
        rows: list[list[int]] = []
        words: list[list[int]] = []
        for number, (first, last) in enumerate(spans):
            shown = [
                (place, word if rank == 0 and owner[borders[word]] == number else -1)
                for word in range(first, last)
                for rank, place in enumerate(pieces[word])
            ]
            rows.append([*before, *(place for place, _ in shown), *after])
            words.append([-1] * len(before) + [word for _, word in shown] + [-1] * len(after))
        record: Record = {
            "id": example["id"],
            **sequences(tokenizer, encoding, rows),
            "words": words,
        }
        if "tags" in example:
            classes = [self._class_of[tag] for tag in example["tags"]]
            record["labels"] = pick([*classes, UNLABELLED], words)
        return record

    def decode(self, example: Example, record: Record, output: Sequence[np.ndarray]) -> Prediction:
        tokens = example["tokens"]
        tags, scores = ["O"] * len(tokens), np.ones(len(tokens))
        for words, logits in zip(record["words"], output, strict=True):
            probabilities = softmax(logits)
            best = probabilities.argmax(-1)
            for place, word in enumerate(words):
                if word >= 0:
                    tags[word] = self.labels[best[place]]
                    scores[word] = probabilities[place, best[place]]
        text, offsets = example.get("text"), example.get("offsets")
        if text is None or offsets is None:
            text, starts = " ".join(tokens), word_starts(tokens).tolist()
            offsets = [(at, at + len(word)) for word, at in zip(tokens, starts, strict=True)]
        entities = [
            {
                "type": kind,
                "text": text[offsets[first][0] : offsets[last][1]],
                "score": float(scores[first : last + 1].mean()),
                "start": offsets[first][0],
                "end": offsets[last][1],
            }
            for kind, first, last in entities_of(tags)
        ]
        return {"id": example["id"], "tags": tags, "entities": entities}

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Entities: correct, predicted, gold; tags: correct, all."""
        said, right = prediction["tags"], gold(example, "tags")
        found, there = set(entities_of(said)), set(entities_of(right))
        same = sum(a == b for a, b in zip(said, right, strict=True))
        counts = [len(found & there), len(found), len(there), same, len(right)]
        return np.array(counts, dtype=np.float64)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        correct, found, there, same, words = np.moveaxis(np.asarray(totals), -1, 0)
        return {
            "f1": f1(correct, found, there),
            "precision": ratio(correct, found),
            "recall": ratio(correct, there),
            "accuracy": ratio(same, words),
        }
