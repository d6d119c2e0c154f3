"""Weights in the loss: classes as in torch, rows as if they stood there several times."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft.model.batching import Item, collate, labelled
from weft.model.heads import kind_of

CLASSES = 3
WEIGHTS = [3.0, 1.0, 0.0, 2.0]
"""Of four rows."""
BY_CLASS = (0.25, 1.0, 4.0)
RECORDS: dict[str, list[dict[str, Any]]] = {
    "sequence_classification": [{"input_ids": [[5]], "labels": label} for label in (0, 2, 1, 2)],
    "several": [
        {"input_ids": [[5]], "labels": labels}
        for labels in ([0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    ],
    "number": [{"input_ids": [[5]], "labels": value} for value in (0.5, -100.0, 2.0, 1.0)],
    "multiple_choice": [
        {"input_ids": [[5], [5, 6], [7]], "labels": label} for label in (0, 2, 1, 2)
    ],
    "token_classification": [
        {"input_ids": [[5, 6, 7]], "labels": [[-100, 0, 1]]},
        {"input_ids": [[5, 6], [7]], "labels": [[2, -100], [1]]},
        {"input_ids": [[5, 6, 7, 8]], "labels": [[0, 0, 0, 2]]},
        {"input_ids": [[5]], "labels": [[1]]},
    ],
    "span_extraction": [
        {"input_ids": [[5, 6, 7]], "labels": [[0, 0]]},
        {"input_ids": [[5, 6], [7, 8, 9]], "labels": [[0, 1], [0, 0]]},
        {"input_ids": [[5, 6, 7, 8]], "labels": [[1, 3]]},
        {"input_ids": [[5]], "labels": [[0, 0]]},
    ],
}
RECORDS["causal_lm"] = RECORDS["masked_lm"] = RECORDS["token_classification"]
KINDS = {"several": "sequence_classification", "number": "sequence_classification"}
CASES = [(name, smoothing) for name in RECORDS for smoothing in (0.0, 0.2)]


def part_of(name: str, rows: list[int], **values: Any) -> tuple[Any, list[int]]:
    """The batch's part for these rows, with its sequences' row numbers."""
    kind = KINDS.get(name, name)
    records = [{**RECORDS[name][row], **values} for row in rows]
    (part,) = collate([Item("h", kind, (), record) for record in records], 0).parts
    owners = [row for row, record in zip(rows, records, strict=True) for _ in record["input_ids"]]
    return part, owners


def logits_of(name: str, rows: list[int], owners: list[int], width: int) -> Tensor:
    """Logits that are a row's own wherever it stands."""
    shapes = {"number": (1,), "span_extraction": (width, 2)}
    by_token = name in ("token_classification", "causal_lm", "masked_lm")
    shape = (width, CLASSES) if by_token else shapes.get(name, (CLASSES,))
    by_sequence = by_token or name == "span_extraction"
    seen: dict[int, int] = {}
    found = []
    for row in owners if by_sequence else rows:
        number = seen.get(row, 0)
        seen[row] = (number + 1) % len(RECORDS[name][row]["input_ids"]) if by_sequence else 0
        draw = torch.Generator().manual_seed(100 * row + number)
        found.append(
            torch.randn(4, *shape[1:], generator=draw, dtype=torch.float64)[: shape[0]]
            if by_sequence
            else torch.randn(shape, generator=draw, dtype=torch.float64)
        )
    return torch.stack(found)


@pytest.mark.parametrize(("name", "smoothing"), CASES)
def test_a_weight_is_how_often_the_row_stands_there(name: str, smoothing: float) -> None:
    kind = kind_of(KINDS.get(name, name))
    own = [0, 1, 2, 3]
    records = [{**RECORDS[name][row], "weight": WEIGHTS[row]} for row in own]
    (part,) = collate([Item("h", KINDS.get(name, name), (), record) for record in records], 0).parts
    owners = [row for row in own for _ in RECORDS[name][row]["input_ids"]]
    found = kind.loss(
        logits_of(name, own, owners, part.width), part.labels, smoothing, part.weights
    )
    times = [row for row in own for _ in range(int(WEIGHTS[row]))]
    repeated, again = part_of(name, times)
    expected = kind.loss(logits_of(name, times, again, repeated.width), repeated.labels, smoothing)
    assert repeated.weights is None
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert part.count == repeated.count > 0


def test_class_weights_of_rows_and_words_are_torch_s_with_its_mean() -> None:
    for name in ("sequence_classification", "token_classification"):
        items = [Item("h", name, (), record, BY_CLASS) for record in RECORDS[name]]
        (part,) = collate(items, 0).parts
        owners = [row for row in range(4) for _ in RECORDS[name][row]["input_ids"]]
        logits = logits_of(name, [0, 1, 2, 3], owners, part.width)
        oracle = nn.CrossEntropyLoss(torch.tensor(BY_CLASS, dtype=torch.float64))
        found = kind_of(name).loss(logits, part.labels, 0.0, part.weights) / part.count
        expected = oracle(logits.flatten(0, -2), part.labels.flatten())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_class_weights_of_several_classes_are_torch_s_pos_weight() -> None:
    name = "sequence_classification"
    items = [Item("h", name, (), record, BY_CLASS) for record in RECORDS["several"]]
    (part,) = collate(items, 0).parts
    logits = logits_of("several", [0, 1, 2, 3], [], 1)
    oracle = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(BY_CLASS, dtype=torch.float64))
    found = kind_of(name).loss(logits, part.labels, 0.0, part.weights) / part.count
    torch.testing.assert_close(found, oracle(logits, part.labels.double()), rtol=1e-12, atol=0)


def test_weights_of_rows_and_classes_multiply() -> None:
    name = "sequence_classification"
    records = [{**r, "weight": w} for r, w in zip(RECORDS[name], WEIGHTS, strict=True)]
    _, weights, count = labelled([Item("h", name, (), record, BY_CLASS) for record in records])
    assert weights is not None
    assert weights.tolist() == [0.75, 4.0, 0.0, 8.0]
    assert count == 12.75
    several = [{**r, "weight": w} for r, w in zip(RECORDS["several"], WEIGHTS, strict=True)]
    _, weights, count = labelled([Item("h", name, (), record, BY_CLASS) for record in several])
    assert weights is not None
    assert weights[0].tolist() == [3.0, 3.0, 12.0]
    assert count == sum(WEIGHTS) * CLASSES


def test_without_weights_labelled_items_are_counted() -> None:
    for name, expected in (("token_classification", 9), ("span_extraction", 5), ("causal_lm", 5)):
        items = [Item("h", name, (), record) for record in RECORDS[name]]
        labels, weights, count = labelled(items)
        assert (weights, count) == (None, expected)
        assert len(labels) == 5
