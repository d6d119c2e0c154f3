"""Token classification: entities in text, as an IOB2 tag for each word."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from weft.config import Settings, validate
from weft.registry import unknown
from weft.tasks.cases import Case, Claim, Mark, apart
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec, place_of
from weft.tasks.details import Details, class_table, confusion
from weft.tasks.metrics import entities_of, f1, gold, ratio, softmax
from weft.tasks.spans import tagged
from weft.tasks.tagging import Scheme, classes_of, recognise, split, to_iob2
from weft.tasks.text import (
    UNLABELLED,
    encoding_of,
    identity,
    most_context,
    pick,
    sequences,
    text_of,
    trimmed,
    valid_text,
    word_starts,
    word_windows,
)
from weft.tasks.words import Way, words_of
from weft.tasks.words import recognise as recognise_way

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Options(Settings):
    scheme: Literal["auto", Scheme] = "auto"
    """How the files' tags are written: iob2, iob1, io, bioes, bilou; auto reads it off the tags. They are IOB2 here."""
    words: Literal["auto", Way] = "auto"
    """What a word of running text is: web, unicode, characters, dictionary, spaces; auto follows the tokens of the
    training rows, and is `web` where there are none."""


class TokenClassification(Task):
    """Entities in text, as an IOB2 tag for each word.

    Columns: `tokens`, the words; `tags`, one for each word, in any scheme of `weft.tasks.tagging`;
    in the checked example they are IOB2. Or `text` and `spans`, its entities as
    `{start, end, label}`. For prediction also `text` alone: its words are found by
    `weft.tasks.words.words_of`, and kept with their `offsets` in the checked example. Beside
    `tokens`, a `text` without `offsets` is not looked at. Classes are `O`, and B- and I- of every
    type in the training split, sorted.

    Encoding: the words, without white space of their own, joined by spaces, in windows of at most
    `max_length` tokens that begin and end with whole words and share up to `stride` tokens.
    `labels`: the tag's class at a word's first sub-word in the one window that shows most of its
    context, -100 everywhere else, so that each word counts once in the loss and is predicted once.
    Of a word longer than a window the first sub-words are kept: only the first matters. A word
    without sub-words (empty, control characters) has no label and is predicted `O`. Output per
    sequence (tokens, classes).

    Prediction: `{id, tags, entities: [{type, text, score, start, end}]}`; start and end are
    character offsets into the user's text, or into `" ".join(tokens)`, with no white space at the
    ends; score is the mean probability of the entity's tags.

    Scores: `f1`, `precision`, `recall` of whole entities, micro-averaged and as lenient as
    seqeval's default (an entity may begin with I-); `accuracy` of tags. Selected on f1.
    """

    columns = ("tokens",)
    optional = ("text", "offsets")
    instead = (("text", "spans"),)
    target = "tags"
    classes_per = "word"
    metric = "f1"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = _options(spec)
        self.choose(("f1", "precision", "recall", "accuracy"))
        self._class_of = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def read(cls, spec: TaskSpec, example: Example, where: str) -> Example:
        options = _options(spec)
        if example.get("spans") is not None and example.get("tags") is None:
            text = text_of(example, "text", where)
            example = {**example, **tagged(text, example["spans"], _way(options), where)}
        if example.get("tokens") is not None:
            _words(example["tokens"], where)  # which tell what a word is, before rows are checked
        tags = example.get("tags")
        if tags is not None:
            tags = _listed(tags, "tags", "tags", where)
            for place, tag in enumerate(tags):
                try:
                    split(str(tag), None if options.scheme == "auto" else options.scheme)
                except ValueError as error:
                    word = str((example.get("tokens") or [""])[:1])
                    hint = "`columns:` says which column has the tags" + (
                        ", `comments: '#'` that such lines hold no token" if "#" in word else ""
                    )
                    raise ValueError(f"{place_of(where, place)}: {error}; {hint}") from None
        return example

    @classmethod
    def settle(cls, spec: TaskSpec, examples: Sequence[Example]) -> TaskSpec:
        """The scheme of the tags, and what a word is, as the rows have it."""
        options = _options(spec)
        scheme, words = options.scheme, options.words
        if scheme == "auto":
            scheme = _recognised(spec, examples)
        if words == "auto":
            own = [row["tokens"] for row in examples if row.get("offsets") is None]
            words = recognise_way(own) if own else _way(options)
        return spec.model_copy(update={"options": {"scheme": scheme, "words": words}})

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        """`spec.labels`, else `O` with B- and I- of every type that occurs, sorted."""
        said = _options(spec).scheme
        scheme = None if said == "auto" else said
        if spec.labels is None:
            tags = {tag for row in examples for tag in row.get("tags") or ()}
            types = {own[1] for tag in tags if (own := split(tag, scheme))}
            labels = ["O", *sorted(f"{letter}-{kind}" for kind in types for letter in "BI")]
        else:
            try:
                labels = classes_of(spec.labels, scheme)
            except ValueError as error:
                raise ValueError(f"task {spec.name}: labels: {error}") from None
        if "O" not in labels or len(labels) < 2 or len(set(labels)) < len(labels):
            raise ValueError(
                f"task {spec.name}: expected different tags, O among them, got {', '.join(labels)[:200] or 'none'}"
            )
        return labels

    def check(self, example: Example, where: str) -> Example:
        checked: dict[str, object] = {"id": identity(example, where)}
        tokens, tags = example.get("tokens"), example.get("tags")
        if tokens is None and example.get("text") is not None:
            text = text_of(example, "text", where)
            words = words_of(text, _way(self.options))
            tokens = [word for word, _, _ in words]
            checked |= {"text": text, "offsets": [[start, end] for _, start, end in words]}
        elif example.get("offsets") is not None:
            if len(example["offsets"]) != len(tokens or ()):
                raise ValueError(f"{where}: 'offsets' must hold [start, end] of each of 'tokens'")
            checked |= {"text": text_of(example, "text", where), "offsets": example["offsets"]}
        tokens = _words(tokens, where)
        valid_text("".join(tokens), "column 'tokens'", where)
        checked["tokens"] = list(tokens)
        if tags is None:
            return checked
        if not isinstance(tags, list | tuple) or len(tags) != len(tokens):
            raise ValueError(
                f"{where}: expected a tag for each of the {len(tokens)} tokens, got "
                f"{f'{len(tags)} tags' if isinstance(tags, list | tuple) else f'{tags!r:.80}'}"
            )
        if self.options.scheme not in ("auto", "iob2"):
            tags = to_iob2(tags, self.options.scheme)
        for place, tag in enumerate(tags):
            if tag not in self._class_of:
                raise ValueError(
                    f"{place_of(where, place)}: {unknown('tag', str(tag), self.labels)}; classes are those of the "
                    "types in the training split, or `labels` in the set's YAML"
                )
        return {**checked, "tags": list(tags)}

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        tokens, row = [word.strip() for word in example["tokens"]], f"row {example['id']!r}"
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
        text, offsets = laid_out(example)
        entities = []
        for kind, first, last in entities_of(tags):
            start, end = trimmed(text, offsets[first][0], offsets[last][1])
            score = float(scores[first : last + 1].mean())
            entities.append(
                {"type": kind, "text": text[start:end], "score": score, "start": start, "end": end}
            )
        return {"id": example["id"], "tags": tags, "entities": entities}

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Entities: correct, predicted, gold; tags: correct, all."""
        said, right = prediction["tags"], gold(example, "tags")
        found, there = set(entities_of(said)), set(entities_of(right))
        same = sum(a == b for a, b in zip(said, right, strict=True))
        counts = [len(found & there), len(found), len(there), same, len(right)]
        return np.array(counts, dtype=np.float64)

    def case(self, prediction: Prediction, example: Example) -> Case:
        tokens = example["tokens"]
        text, offsets = laid_out(example)
        said, right = (entities_of(tags) for tags in (prediction["tags"], gold(example, "tags")))
        scores = [entity["score"] for entity in prediction["entities"]]
        marks, wrong, claims, loss = [], [], [], 0.0
        places = {(first, last): kind for kind, first, last in right}
        for (kind, first, last), score in zip(said, scores, strict=True):
            true = places.get((first, last))
            claims.append(Claim(score, true == kind))
            near = [own for own in right if own[1] <= last and own[2] >= first]
            if true == kind:
                word = ""
            elif true is not None:
                word = f"{true} taken for {kind}"
            else:
                word = "wrong extent" if near else "invented"
            label = kind if not word else f"{kind}: {'is ' + true if true else word}"
            start, end = trimmed(text, offsets[first][0], offsets[last][1])
            marks.append(Mark(start, end, label, "wrong" if word else "right"))
            wrong += [word] if word else []
            loss += score if word else 0.0
        for kind, first, last in right:
            if not any(one[1] <= last and one[2] >= first for one in said):
                start, end = trimmed(text, offsets[first][0], offsets[last][1])
                marks.append(Mark(start, end, f"missed {kind}", "missed"))
                wrong.append("missed")
                loss += 1.0

        def told(entities: Sequence[tuple[str, int, int]]) -> str:
            parts = (f"{' '.join(tokens[a : b + 1])} ({kind})" for kind, a, b in entities)
            return ", ".join(parts) or "none"

        return Case(
            id=example["id"],
            text=text,
            said=told(said),
            right=told(right),
            claims=tuple(claims),
            wrong=tuple(wrong),
            loss=loss,
            marks=apart(marks),
        )

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        correct, found, there, same, words = np.moveaxis(np.asarray(totals), -1, 0)
        return {
            "f1": f1(correct, found, there),
            "precision": ratio(correct, found),
            "recall": ratio(correct, there),
            "accuracy": ratio(same, words),
        }

    def details(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> Details:
        """The scores of every type of entity, and which tag was taken for which."""
        said = [prediction["tags"] for prediction in predictions]
        right = [gold(example, "tags") for example in examples]
        counts = {label[2:]: np.zeros(3) for label in self.labels if label != "O"}
        for own, true in zip(said, right, strict=True):
            found, there = set(entities_of(own)), set(entities_of(true))
            for at, group in enumerate((found & there, found, there)):
                for kind, _, _ in group:
                    counts[kind][at] += 1
        types = sorted(counts)
        table = class_table(types, *np.stack([counts[kind] for kind in types], axis=1))
        tags = ([tag for row in rows for tag in row] for rows in (right, said))
        return Details("entity type", table, confusion(self.labels, *tags))


def laid_out(example: Example) -> tuple[str, Sequence[Sequence[int]]]:
    """A row's running text and the place of each token in it; tokens alone are joined by spaces."""
    text, offsets = example.get("text"), example.get("offsets")
    if text is not None and offsets is not None:
        return text, offsets
    tokens = example["tokens"]
    starts = word_starts(tokens).tolist()
    return " ".join(tokens), [(at, at + len(word)) for word, at in zip(tokens, starts, strict=True)]


def _options(spec: TaskSpec) -> Options:
    return validate(Options, spec.options, f"task {spec.name}: options")


def _way(options: Options) -> Way:
    return "web" if options.words == "auto" else options.words


def _recognised(spec: TaskSpec, examples: Iterable[Mapping[str, Any]]) -> Scheme:
    try:
        return recognise(row["tags"] for row in examples if row.get("tags") is not None)
    except ValueError as error:
        raise ValueError(f"task {spec.name}: options: {error}") from None


def _words(tokens: object, where: str) -> Sequence[str]:
    words = _listed(tokens, "tokens", "words", where)
    if not all(isinstance(word, str) for word in words):
        raise ValueError(f"{where}: column 'tokens' must be a list of words, got {words!r:.80}")
    return words


def _listed(value: object, column: str, what: str, where: str) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    as_text = "; a list written as text is none: use jsonl or parquet"
    hint = as_text if str(value)[:1] == "[" else ""
    raise ValueError(
        f"{where}: column {column!r} must be a list of {what}, got {value!r:.80}{hint}"
    )
