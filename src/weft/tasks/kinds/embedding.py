"""Embedding: a text as one vector; texts of like meaning have vectors of like direction."""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from weft.config import Settings, validate
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import gold, pearson, ratio
from weft.tasks.ranks import nearest_is_own, spearman
from weft.tasks.text import encoding_of, extent, fit, identity, sequences, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Form = Literal["scored", "pairs", "triples"]
Loss = Literal["cosent", "cosine_similarity", "multiple_negatives_ranking"]


class Options(Settings):
    form: Form | None = None
    """What a row is: two texts and how alike they are, an anchor and its positive, or these and a negative; None reads
    it off the columns of the first training row."""
    loss: Loss | None = None
    """sentence-transformers' loss of that name; None is `cosent` for scored rows, else `multiple_negatives_ranking`."""
    scale: float = Field(default=20.0, gt=0)
    """What the loss multiplies similarities by, an inverse temperature; `cosine_similarity` has none."""
    highest: float = Field(default=1.0, gt=0)
    """The score of two texts that mean the same; the lowest is 0."""
    normalize: bool = True
    """Whether a predicted vector has length 1."""


SCORED: tuple[Loss, ...] = ("cosent", "cosine_similarity")
"""Losses that learn from scores."""
LOSSES: tuple[Loss, ...] = (*SCORED, "multiple_negatives_ranking")
"""In the order of the numbers that records have for them."""
SCORES: dict[Form, tuple[str, ...]] = {
    "scored": ("spearman", "pearson"),
    "pairs": ("retrieval_accuracy",),
    "triples": ("retrieval_accuracy", "triplet_accuracy"),
}
"""What each form can be selected on, its own choice first."""
COLUMNS: dict[Form, tuple[str, ...]] = {
    "scored": ("text_a", "text_b", "score"),
    "pairs": ("anchor", "positive"),
    "triples": ("anchor", "positive", "negative"),
}
_FORMS: dict[tuple[str, ...], Form] = {columns: form for form, columns in COLUMNS.items()}


class Embedding(Task):
    """One vector for a text, the mean of its tokens' last states; alike are texts whose vectors point the same way.

    Columns, one form in all rows of a set: `text_a`, `text_b` and `score`, how alike they are, from 0 to
    `options.highest`; or `anchor` and `positive`, texts that belong together, with or without `negative`, one that
    looks as if it did. For prediction `text` alone as well, and `text_a`, `text_b` without score.

    Encoding: a sequence for each text, none sees another; white space around a text says nothing. A text longer than
    `max_length` is an error, or with `truncate: true` loses tokens from its end. `labels`, for each sequence: the
    number of the loss in `LOSSES`, its scale, and the score from 0 to 1. Output: a vector for each sequence.

    Prediction: of one text `{id, vector}`; of two `{id, similarity}`, the cosine of their vectors; of an anchor with
    its positive `vectors` too, of length 1, in the order of the columns.

    Scores: of scored rows `spearman` and `pearson`, between similarities and scores. Of others `retrieval_accuracy`:
    the share of anchors whose own positive is nearer than every other positive and every negative of the rows that are
    scored together; no text is held against its own, nor against another that is given as its positive.
    `triplet_accuracy`: the share of anchors that are nearer to their positive than to their own negative. Selected on
    spearman or retrieval_accuracy.
    """

    columns = ("text_a", "text_b")
    optional = ("text", "anchor", "positive", "negative")
    instead = (("anchor", "positive"),)
    target = "score"
    metric = "spearman"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = _options(spec)
        self.form: Form = self.options.form or "scored"
        self.metric = SCORES[self.form][0]
        self.choose(SCORES[self.form])
        self.loss = self.options.loss or ("cosent" if self.form == "scored" else LOSSES[-1])
        if (self.loss in SCORED) != (self.form == "scored"):
            fitting = SCORED if self.form == "scored" else [n for n in LOSSES if n not in SCORED]
            raise ValueError(
                f"task {spec.name}: options: {self.loss} is no loss for rows of {', '.join(COLUMNS[self.form])}; take "
                f"{' or '.join(fitting)}"
            )
        if "weight" in spec.columns:
            raise ValueError(
                f"task {spec.name}: columns: rows of an embedding have no weight: their losses set rows against each "
                "other; remove it"
            )

    @classmethod
    def settle(cls, spec: TaskSpec, examples: Sequence[Example]) -> TaskSpec:
        """The form of the rows, as the first has it."""
        form = _options(spec).form or _form_of(examples[0])
        return spec.model_copy(update={"options": {**spec.options, "form": form}})

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        _options(spec)
        if spec.labels:
            raise ValueError(f"task {spec.name}: an embedding has no classes; remove `labels`")
        return []

    def check(self, example: Example, where: str) -> Example:
        texts = _texts_of(example)
        checked: dict[str, Any] = {"id": identity(example, where)}
        checked |= {name: text_of(example, name, where) for name in texts}
        score = example.get("score")
        if score is not None and texts == COLUMNS["scored"][:2]:
            checked["score"] = self._score(score, where)
        answered = "score" in checked or "anchor" in checked
        if self.options.form is not None and answered and _form_of(checked) != self.form:
            raise ValueError(
                f"{where}: the row has {', '.join(name for name in checked if name != 'id')}, but the rows of this "
                f"task have {', '.join(COLUMNS[self.form])}; give all rows one form"
            )
        return checked

    def _score(self, value: object, where: str) -> float:
        try:
            score = math.nan if isinstance(value, bool) else float(str(value))
        except ValueError:
            score = math.nan
        highest = self.options.highest
        if not 0 <= score <= highest:
            raise ValueError(
                f"{where}: column 'score' must be a number from 0 to {highest:g}, got {value!r:.60}; where 5 means the "
                "same, say `options: {highest: 5}`"
            )
        return score

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        inputs: dict[str, list[list[int]]] = {}
        texts = _texts_of(example)
        for name in texts:
            row = f"row {example['id']!r}, {name}"
            encoding = encoding_of(tokenizer, example[name].strip())
            extent(encoding, 0, row)
            kept = fit(encoding, self.spec.max_length, self.spec.truncate, row)
            for key, values in sequences(tokenizer, encoding, [kept]).items():
                inputs.setdefault(key, []).extend(values)
        record: Record = {"id": example["id"], **inputs}
        if "score" in example or "anchor" in example:
            score = example.get("score", 0.0) / self.options.highest
            label = [float(LOSSES.index(self.loss)), self.options.scale, score]
            record["labels"] = [label for _ in texts]
        return record

    def decode(self, example: Example, record: Record, output: Sequence[np.ndarray]) -> Prediction:
        vectors = [np.asarray(vector, dtype=np.float64) for vector in output]
        units = [vector / max(np.linalg.norm(vector), 1e-12) for vector in vectors]
        if len(vectors) == 1:
            said = units[0] if self.options.normalize else vectors[0]
            return {"id": example["id"], "vector": _short(said)}
        found: Prediction = {"id": example["id"], "similarity": float(units[0] @ units[1])}
        if "anchor" in example:
            found["vectors"] = [_short(unit) for unit in units]
        return found

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Scored: rows; sums of x, y, xx, yy and xy, x the similarity. Others: see `_compared`."""
        if self.form != "scored":
            return _compared(prediction, example)
        x, y = prediction["similarity"], gold(example, "score")
        return np.array([1, x, y, x * x, y * y, x * y])

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        totals = np.asarray(totals, dtype=np.float64)
        if self.form == "scored":
            return {"pearson": pearson(totals)}
        if self.form == "triples":
            return {"triplet_accuracy": ratio(totals[..., 1], totals[..., 0])}
        return {}

    def ranked(self, statistics: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        if self.form == "scored":
            return {"spearman": spearman(statistics[:, 1], statistics[:, 2], counts)}
        texts = len(COLUMNS[self.form])
        keys, vectors = np.split(statistics[:, 2:], [texts], axis=1)
        hits = nearest_is_own(keys, vectors.reshape(len(keys), texts, -1))
        # Anchors are drawn anew; what they are held against stays.
        return {"retrieval_accuracy": ratio(counts @ hits, counts.sum(1), empty=np.nan)}


def _options(spec: TaskSpec) -> Options:
    return validate(Options, spec.options, f"task {spec.name}: options")


def _texts_of(example: Example) -> tuple[str, ...]:
    """The columns of a row that are embedded, in order; those of a pair where it has none of any."""
    held = {name for name, value in example.items() if value is not None}
    if held & {"text_a", "text_b"}:
        return COLUMNS["scored"][:2]
    if held & {*COLUMNS["triples"]}:
        return COLUMNS["triples" if "negative" in held else "pairs"]
    return ("text",) if "text" in held else COLUMNS["scored"][:2]


def _form_of(example: Example) -> Form:
    return _FORMS.get(_texts_of(example), "scored")


def _compared(prediction: Prediction, example: Example) -> np.ndarray:
    """What retrieval is told by: 1; whether a negative is further than the positive; texts by number; their vectors."""
    names = _texts_of(example)
    if "vectors" not in prediction:
        raise ValueError(
            f"row {example['id']!r} was predicted without its vectors; predict it as {', '.join(names)}"
        )
    vectors = np.array(prediction["vectors"], dtype=np.float64)
    apart = vectors[1:] @ vectors[0]
    keys = [_number_of(example[name]) for name in names]
    return np.concatenate([[1, apart[0] > apart[-1]], keys, vectors.ravel()])


def _number_of(text: str) -> float:
    """48 bits of a text's hash: a number that a float holds exactly."""
    digest = hashlib.blake2b(text.strip().encode(), digest_size=6).digest()
    return float(int.from_bytes(digest))


def _short(vector: np.ndarray) -> list[float]:
    """The shortest numbers that are these in single precision, which is what the model computes in."""
    return [float(str(value)) for value in vector.astype(np.float32)]
