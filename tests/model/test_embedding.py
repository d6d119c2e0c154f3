"""Vectors and losses of an embedding against sentence-transformers' own modules, on whole tensors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from weft.base.loading import load_base
from weft.model.batching import Item, collate, pieces, share_of
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.heads.embedding import MAKERS, same_meaning
from weft.tasks.kinds.embedding import LOSSES

KIND = kind_of("embedding")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_vectors_are_the_mean_of_real_tokens_as_sentence_transformers_pools(
    dtype: torch.dtype, tiny_folder: Callable[[str], Path]
) -> None:
    head = Head("embedding", load_base(str(tiny_folder("bert"))), 0, seed=0)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 9, 32, generator=draw).to(dtype)
    mask = torch.arange(9) < torch.tensor([9, 1, 5, 7])[:, None]
    found = head(hidden, mask, [2, 1, 1])
    features = {"token_embeddings": hidden, "attention_mask": mask.long()}
    assert torch.equal(found, Pooling(32, "mean")(features)["sentence_embedding"])
    disturbed = hidden.masked_fill(~mask[..., None], 7.0)
    assert torch.equal(head(disturbed, mask, [2, 1, 1]), found)


def test_a_head_has_nothing_to_train(tiny_folder: Callable[[str], Path]) -> None:
    head = Head("embedding", load_base(str(tiny_folder("bert"))), 0, seed=0)
    assert head.state() == {}
    assert (head.prefix, head.class_name) == ("", "BertModel")


def records(
    texts: Sequence[Sequence[int]], loss: str, scores: Sequence[float] | None = None
) -> Any:
    """Rows of texts of one token each."""
    number = float(LOSSES.index(loss))  # type: ignore[arg-type]
    given = scores or [0.0] * len(texts)
    return [
        {"input_ids": [[text] for text in row], "labels": [[number, 20.0, score]] * len(row)}
        for row, score in zip(texts, given, strict=True)
    ]


class Given(nn.Module):
    """Stands for a sentence encoder: what it is given are vectors already."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}


THEIRS = {
    "cosent": losses.CoSENTLoss,
    "cosine_similarity": losses.CosineSimilarityLoss,
    "multiple_negatives_ranking": losses.MultipleNegativesRankingLoss,
}


def test_there_is_a_maker_for_every_loss() -> None:
    assert set(MAKERS) == set(LOSSES) == set(THEIRS)


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_different_texts_is_the_librarys(name: str, columns: int) -> None:
    if columns == 3 and name != "multiple_negatives_ranking":
        pytest.skip("scored rows have two texts")
    draw = torch.Generator().manual_seed(1)
    vectors = torch.randn(5 * columns, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    scores = [0.1, 0.9, 0.5, 0.5, 0.0]
    texts = torch.arange(5 * columns).view(5, columns).tolist()
    labels = KIND.labels(records(texts, name, scores), 1)
    own = KIND.loss(vectors, labels, 0.0) / KIND.count(labels)
    features = [{"vectors": part} for part in vectors.view(5, columns, 8).unbind(1)]
    model: Any = Given()
    theirs = THEIRS[name](model)(features, torch.tensor(scores, dtype=torch.float64))
    torch.testing.assert_close(own, theirs, rtol=1e-7, atol=0)
    gradients = [torch.autograd.grad(loss, vectors)[0] for loss in (own, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def plain_ranking(vectors: Tensor, texts: list[list[int]]) -> Tensor:
    """InfoNCE by loops: each anchor's positive against what no row calls the same."""
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    total = vectors.new_zeros(())
    for at, row in enumerate(texts):
        same = {row[0], *(other[1] for other in texts if other[0] == row[0])}
        own = 20 * units[at, 0] @ units[at, 1]
        rivals = [
            20 * units[at, 0] @ units[other, place]
            for place in range(1, len(row))
            for other in range(len(texts))
            if texts[other][place] not in same
        ]
        total = total + torch.stack([own, *rivals]).logsumexp(0) - own
    return total / len(texts)


@pytest.mark.parametrize(
    "texts",
    [
        [
            [1, 2],
            [1, 3],
            [4, 2],
            [5, 1],
        ],  # two positives of an anchor, a positive twice, an anchor as positive
        [[1, 2, 9], [3, 4, 2], [1, 5, 4], [6, 6, 1]],  # a positive as another row's negative
        [[1, 2], [1, 2]],  # nothing to be told apart from
    ],
)
def test_the_same_text_is_never_a_negative(texts: list[list[int]]) -> None:
    draw = torch.Generator().manual_seed(2)
    by_text = torch.randn(10, 6, generator=draw, dtype=torch.float64)
    vectors = by_text[torch.tensor(texts)].requires_grad_()
    labels = KIND.labels(records(texts, "multiple_negatives_ranking"), 1)
    found = KIND.loss(vectors.flatten(0, 1), labels, 0.0) / KIND.count(labels)
    expected = plain_ranking(vectors, texts)
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad(loss, vectors)[0] for loss in (found, expected))
    assert one.isfinite().all()
    torch.testing.assert_close(one, other)
    naive = losses.MultipleNegativesRankingLoss(None)  # type: ignore[arg-type]
    theirs = naive.compute_loss_from_embeddings(list(vectors.unbind(1)), labels)
    assert theirs > found + 1e-3


def test_what_is_no_negative_is_told_by_tokens_alone() -> None:
    labels = KIND.labels(records([[1, 2], [3, 1]], "multiple_negatives_ranking"), 1)
    assert labels[:, :3].tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 1, 0]]
    assert same_meaning([labels[::2, 2], labels[1::2, 2]]).tolist() == [
        [False, True],
        [False, False],
    ]


def items(*heads: tuple[str, str, int]) -> list[Item]:
    """Rows of heads and kinds, of lengths that any piece would be cut at."""
    return [
        Item(head, kind, (head,), {"input_ids": [[7] * (2 + 300 * (at % 2))], "id": f"{head}{at}"})
        for head, kind, count in heads
        for at in range(count)
    ]


def test_rows_that_learn_from_each_other_are_one_piece_and_on_one_process() -> None:
    rows = items(
        ("alike", "embedding", 6), ("words", "token_classification", 6), ("beside", "embedding", 4)
    )
    found = pieces(rows, 3, 512)
    heads = [{item.head for item in piece} for piece in found]
    assert [len(piece) for piece, own in zip(found, heads, strict=True) if "alike" in own] == [6]
    assert [len(piece) for piece, own in zip(found, heads, strict=True) if "beside" in own] == [4]
    assert all(len(own) == 1 for own in heads)
    assert sorted(item.record["id"] for piece in found for item in piece) == sorted(
        item.record["id"] for item in rows
    )
    shares = [share_of(rows, process, 3) for process in range(3)]
    assert sorted(item.record["id"] for own in shares for item in own) == sorted(
        item.record["id"] for item in rows
    )
    counts = [
        [sum(item.head == head for item in own) for own in shares]
        for head in ("alike", "words", "beside")
    ]
    assert counts == [[6, 0, 0], [2, 2, 2], [0, 4, 0]]
    plain = items(("words", "token_classification", 7))
    assert [share_of(plain, process, 3) for process in range(3)] == [
        plain[at::3] for at in range(3)
    ]


def test_a_row_of_several_texts_routes_each_alone() -> None:
    record = {"id": "1", "input_ids": [[1, 2], [3]], "labels": [[0.0, 20.0, 1.0]] * 2}
    assert collate([Item("alike", "embedding", ("alike",), record)], 0).route.rows is None
