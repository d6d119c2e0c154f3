"""A head is transformers' task class on given states; it trains what the checkpoint lacks."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from weft.base.loading import Base, load_base
from weft.model.head import Head
from weft.model.heads import fitting, heads, kind_for, kind_of
from weft.model.heads.contract import IGNORE
from weft.model.model import Model
from weft.tasks.kinds import kinds

FITTING = {
    **dict.fromkeys(
        ("bert", "distilbert", "roberta", "modernbert"),
        (
            "sequence_classification",
            "token_classification",
            "multiple_choice",
            "span_extraction",
            "masked_lm",
            "embedding",
        ),
    ),
    **dict.fromkeys(
        ("gpt2", "llama"),
        (
            "sequence_classification",
            "token_classification",
            "span_extraction",
            "causal_lm",
            "embedding",
            "transcription",
        ),
    ),
}
PAIRS = [
    (model_type, kind)
    for model_type, fitting in FITTING.items()
    for kind in fitting
    # Transformers has no class that pools: `test_embedding.py` holds it against sentence-transformers. Its classes
    # read no files: `test_prefix.py` holds a prefix against its parts.
    if kind not in ("embedding", "transcription")
]
NUM_LABELS = 3

Load = Callable[..., Base]


@pytest.fixture(scope="module")
def load(tiny_folder: Callable[[str], Path]) -> Load:
    """A base in double precision, by model type."""
    made: dict[str, Base] = {}

    def base(model_type: str) -> Base:
        if model_type not in made:
            made[model_type] = load_base(str(tiny_folder(model_type)), dtype=torch.float64)
        return made[model_type]

    return base


@pytest.fixture
def headless(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Load:
    """The same base from a checkpoint that holds the trunk alone."""

    def base(model_type: str) -> Base:
        full = load_base(str(tiny_folder(model_type)))
        full.trunk.save_pretrained(tmp_path)
        full.tokenizer.save_pretrained(tmp_path)
        if full.transposed:
            pytest.fail("GPT-2's trunk is saved in another layout")
        return load_base(str(tmp_path), dtype=torch.float64)

    return base


def pad_id(base: Base) -> int:
    return 0 if base.tokenizer.pad_token_id is None else base.tokenizer.pad_token_id


def inputs_for(base: Base, kind: str, padded: bool = True) -> tuple[dict[str, Tensor], list[int]]:
    """Flat inputs and sequences per row; no row's text holds the padding token."""
    rows, width = (2, 9) if kind == "multiple_choice" else (4, 9)
    per_row = [3] * rows if kind == "multiple_choice" else [1] * rows
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 90, (sum(per_row), width), generator=draw)
    mask = torch.ones_like(ids)
    if padded:
        for at, length in enumerate([9, 5, 7, 2, 8, 6][: len(ids)]):
            ids[at, length:] = pad_id(base)
            mask[at, length:] = 0
    return {"input_ids": ids, "attention_mask": mask}, per_row


def oracle(base: Base, head: Head, folder: Path, **settings: Any) -> PreTrainedModel:
    """The task class from the checkpoint, with the head's tensors by name."""
    auto = getattr(transformers, kind_of(head.kind_name).auto)
    if head.kind.has_classes:
        settings["num_labels"] = head.module.config.num_labels
    if base.config.pad_token_id is None:
        settings["pad_token_id"] = pad_id(base)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        trunk = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64)
        model = auto.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="sdpa", **settings
        )
    finally:
        transformers.logging.set_verbosity(level)
    # Llama's span class calls its trunk otherwise than Llama's checkpoints do, and would draw one.
    model.base_model.load_state_dict(trunk.state_dict(), strict=False)
    own = {
        name: value.detach().clone()
        for name, value in head.module.named_parameters(remove_duplicate=False)
    }
    assert own
    assert model.load_state_dict(own, strict=False).unexpected_keys == []
    return model.eval()


def disturbed(head: Head) -> Head:
    """Every trained tensor away from its start, so that a zero bias hides nothing."""
    draw = torch.Generator().manual_seed(4)
    head.load_state(
        {
            name: value + 0.3 * torch.randn(value.shape, generator=draw)
            for name, value in head.state().items()
        }
    )
    return head.eval()


def own_logits(base: Base, head: Head, inputs: dict[str, Tensor], per_row: list[int]) -> Tensor:
    states = Model(base).eval().states(inputs, None)
    return head(states, inputs["attention_mask"], per_row)


def by_choice(inputs: dict[str, Tensor], per_row: list[int], kind: str) -> dict[str, Tensor]:
    if kind != "multiple_choice":
        return inputs
    return {name: value.view(len(per_row), per_row[0], -1) for name, value in inputs.items()}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("model_type", "kind"), PAIRS)
def test_logits_equal_transformers_own_class(
    model_type: str, kind: str, padded: bool, load: Load, tiny_folder: Callable[[str], Path]
) -> None:
    base = load(model_type)
    head = disturbed(Head(kind, base, NUM_LABELS, seed=1))
    inputs, per_row = inputs_for(base, kind, padded)
    model = oracle(base, head, tiny_folder(model_type))
    with torch.inference_mode():
        got = own_logits(base, head, inputs, per_row)
        expected = kind_of(kind).logits(model(**by_choice(inputs, per_row, kind)))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    # The answers differ between rows: a head that ignored its states would not pass.
    assert got.flatten(1).std(0).max() > 1e-3


def gold(kind: str, rows: int, width: int, form: str) -> tuple[list[Any], dict[str, Tensor]]:
    """Labels of full rows in our records' form, and as transformers takes them."""
    draw = torch.Generator().manual_seed(2)
    if kind == "sequence_classification":
        values = {
            "classes": torch.randint(0, NUM_LABELS, (rows,), generator=draw),
            "several": torch.randint(0, 2, (rows, NUM_LABELS), generator=draw).float(),
            "number": torch.randn(rows, generator=draw),
        }[form]
        return values.tolist(), {"labels": values}
    if kind == "multiple_choice":
        values = torch.randint(0, 3, (rows,), generator=draw)
        return values.tolist(), {"labels": values}
    if kind == "span_extraction":
        pairs = torch.randint(0, width, (rows, 2), generator=draw)
        # Row 0 has two windows.
        records = [pairs[:2].tolist(), *([pair] for pair in pairs[2:].tolist())]
        return records, {"start_positions": pairs[:, 0], "end_positions": pairs[:, 1]}
    limit = NUM_LABELS if kind == "token_classification" else 90
    values = torch.randint(0, limit, (rows, width), generator=draw)
    values[0, ::2] = IGNORE
    return [[row] for row in values.tolist()], {"labels": values}


@pytest.mark.parametrize(
    ("model_type", "kind", "form"),
    [
        (*pair, form)
        for pair in PAIRS
        for form in (
            ("classes", "several", "number")
            if pair[1] == "sequence_classification"
            else ("classes",)
        )
    ],
)
def test_the_loss_of_a_full_batch_is_transformers_mean(
    model_type: str, kind: str, form: str, load: Load, tiny_folder: Callable[[str], Path]
) -> None:
    base = load(model_type)
    head = disturbed(Head(kind, base, 1 if form == "number" else NUM_LABELS, seed=1))
    inputs, per_row = inputs_for(base, kind, padded=False)
    ours, theirs = gold(kind, len(per_row), inputs["input_ids"].shape[1], form)
    width = inputs["input_ids"].shape[1]
    records = [
        {
            "labels": labels,
            "input_ids": [[0] * width] * (len(labels) if kind == "span_extraction" else 1),
        }
        for labels in ours
    ]
    labels = kind_of(kind).labels(records, width)
    model = oracle(base, head, tiny_folder(model_type))
    with torch.inference_mode():
        logits = own_logits(base, head, inputs, per_row)
        mean = kind_of(kind).loss(logits, labels, 0.0) / kind_of(kind).count(labels)
        if form == "several":
            theirs["labels"] = theirs["labels"].double()
        expected = model(**by_choice(inputs, per_row, kind), **theirs).loss
    # Some of transformers' losses are taken in single precision.
    torch.testing.assert_close(mean.double(), expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model_type", FITTING)
def test_kinds_that_do_not_fit_are_refused_with_those_that_do(model_type: str, load: Load) -> None:
    base = load(model_type)
    found = fitting(base.config)
    assert set(found) == set(FITTING[model_type])
    for kind in set(heads.names()) - set(found):
        message = f"a {model_type} base cannot serve {kind}; kinds that fit: {', '.join(found)}$"
        with pytest.raises(ValueError, match=message):
            Head(kind, base, NUM_LABELS, seed=0)
    for kind in found:
        assert kind_for(kind, base.config) is kind_of(kind)


def test_every_kind_of_head_is_a_kind_of_task() -> None:
    assert set(heads.names()) == set(kinds.names())


def test_a_classifier_keeps_the_checkpoints_pooler_frozen(load: Load) -> None:
    base = load("bert")
    head = Head("sequence_classification", base, NUM_LABELS, seed=0)
    assert head.trained_names() == ["classifier.weight", "classifier.bias"]
    assert head.module.bert.pooler is base.pooler
    assert not any(value.requires_grad for value in base.pooler.parameters())


def test_multiple_choice_trains_a_copy_of_the_pooler(load: Load) -> None:
    base = load("bert")
    head = Head("multiple_choice", base, NUM_LABELS, seed=0)
    names = {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert set(head.trained_names()) == names
    before = {name: value.clone() for name, value in base.pooler.state_dict().items()}
    for name, value in before.items():
        assert torch.equal(head.state()[f"bert.pooler.{name}"], value)
    disturbed(head)
    assert all(torch.equal(value, before[name]) for name, value in base.pooler.state_dict().items())


@pytest.mark.parametrize("kind", ["sequence_classification", "multiple_choice"])
def test_a_pooler_that_the_checkpoint_lacks_is_drawn_from_the_seed_and_trained(
    kind: str, headless: Load
) -> None:
    base = headless("bert")
    assert base.pooler is None
    first, same, other = (Head(kind, base, NUM_LABELS, seed=seed) for seed in (0, 0, 1))
    name = "bert.pooler.dense.weight"
    assert name in first.trained_names()
    assert torch.equal(first.state()[name], same.state()[name])
    assert not torch.equal(first.state()[name], other.state()[name])
    assert abs(first.state()[name].std().item() - base.config.initializer_range) < 0.002


def output_weight(head: Head) -> nn.Parameter:
    """The map from states to the vocabulary, (vocabulary, hidden)."""
    (name,) = (
        target
        for target, source in head.module._tied_weights_keys.items()
        if source.startswith(f"{head.prefix}.")
    )
    return head.module.get_parameter(name)


LANGUAGE_MODELS = [pair for pair in PAIRS if pair[1].endswith("_lm")]


@pytest.mark.parametrize(("model_type", "kind"), LANGUAGE_MODELS)
def test_a_language_model_head_comes_with_the_checkpoint_frozen(
    model_type: str, kind: str, load: Load, tiny_folder: Callable[[str], Path]
) -> None:
    base = load(model_type)
    head = Head(kind, base, NUM_LABELS, seed=0)
    assert head.trained_names() == []
    assert head.state() == {}
    assert not any(value.requires_grad for value in head.parameters())
    inputs, per_row = inputs_for(base, kind)
    auto = getattr(transformers, kind_of(kind).auto)
    model = auto.from_pretrained(
        tiny_folder(model_type), dtype=torch.float64, attn_implementation="sdpa"
    ).eval()
    with torch.inference_mode():
        got = own_logits(base, head, inputs, per_row)
        expected = model(**inputs).logits
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    if base.config.tie_word_embeddings:
        assert output_weight(head) is base.trunk.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("model_type", "kind", "trained"),
    [
        (
            "bert",
            "masked_lm",
            {
                "cls.predictions.bias",
                "cls.predictions.transform.dense.weight",
                "cls.predictions.transform.dense.bias",
                "cls.predictions.transform.LayerNorm.weight",
                "cls.predictions.transform.LayerNorm.bias",
            },
        ),
        (
            "roberta",
            "masked_lm",
            {
                "lm_head.bias",
                "lm_head.dense.weight",
                "lm_head.dense.bias",
                "lm_head.layer_norm.weight",
                "lm_head.layer_norm.bias",
            },
        ),
        ("llama", "causal_lm", {"lm_head.weight"}),
    ],
)
def test_a_language_model_head_that_the_checkpoint_lacks_is_trained(
    model_type: str, kind: str, trained: set[str], headless: Load
) -> None:
    base = headless(model_type)
    head = Head(kind, base, NUM_LABELS, seed=0)
    assert set(head.trained_names()) == trained
    own = dict(head.module.named_parameters())
    assert {name for name, value in own.items() if value.requires_grad} == trained
    if base.config.tie_word_embeddings:
        embeddings = base.trunk.get_input_embeddings().weight
        assert output_weight(head) is embeddings
        assert not embeddings.requires_grad


@pytest.mark.parametrize(("model_type", "kind"), PAIRS)
def test_the_same_seed_draws_the_same_head(model_type: str, kind: str, load: Load) -> None:
    base = load(model_type)
    torch.manual_seed(1)
    first = Head(kind, base, NUM_LABELS, seed=0).state()
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again = Head(kind, base, NUM_LABELS, seed=0).state()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    other = Head(kind, base, NUM_LABELS, seed=1).state()
    drawn = [name for name, value in first.items() if value.dim() == 2]
    assert not any(torch.equal(first[name], other[name]) for name in drawn if "pooler" not in name)
    torch.manual_seed(1)
    Head(kind, base, NUM_LABELS, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("model_type", "kind"), PAIRS)
def test_no_start_value_is_left_to_chance(model_type: str, kind: str, load: Load) -> None:
    """Memory nobody wrote to reads as NaN here."""
    base = load(model_type)
    torch.use_deterministic_algorithms(True)
    try:
        head = Head(kind, base, NUM_LABELS, seed=0)
    finally:
        torch.use_deterministic_algorithms(False)
    values = head.module.state_dict()
    assert [name for name, value in values.items() if not value.isfinite().all()] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_start_values_do_not_depend_on_the_bases_type(
    dtype: torch.dtype, load: Load, tiny_folder: Callable[[str], Path]
) -> None:
    base = load_base(str(tiny_folder("bert")), dtype=dtype)
    embeddings = base.trunk.get_input_embeddings().weight
    for kind in FITTING["bert"]:
        got = Head(kind, base, NUM_LABELS, seed=0).state()
        expected = Head(kind, load("bert"), NUM_LABELS, seed=0).state()
        assert list(got) == list(expected)
        for name, value in got.items():
            if "pooler" not in name:
                assert value.dtype == torch.float32
                assert torch.equal(value, expected[name].float())
    # Nothing of the base was turned into another type on the way.
    assert embeddings.dtype == base.pooler.dense.weight.dtype == dtype


def test_a_state_goes_from_one_head_to_another(load: Load) -> None:
    base = load("bert")
    source = disturbed(Head("multiple_choice", base, NUM_LABELS, seed=0))
    target = Head("multiple_choice", base, NUM_LABELS, seed=9)
    target.load_state(source.state())
    inputs, per_row = inputs_for(base, "multiple_choice")
    with torch.inference_mode():
        expected = own_logits(base, source, inputs, per_row)
        assert torch.equal(own_logits(base, target.eval(), inputs, per_row), expected)


def test_a_state_of_another_head_is_refused(load: Load) -> None:
    head = Head("sequence_classification", load("bert"), NUM_LABELS, seed=0)
    state = head.state()
    wide = {**state, "classifier.weight": torch.zeros(NUM_LABELS + 1, 32)}
    with pytest.raises(
        ValueError, match=r"classifier\.weight: expected shape \(3, 32\), got \(4, 32\)"
    ):
        head.load_state({**wide, "classifier.bias": torch.full((NUM_LABELS,), 7.0)})
    # Nothing was taken over.
    assert not (head.state()["classifier.bias"] == 7.0).any()
    with pytest.raises(
        ValueError, match=r"has the tensors \['classifier.bias', 'classifier.weight'\]"
    ):
        head.load_state({"classifier.weight": state["classifier.weight"]})


def test_rows_with_other_numbers_of_choices_are_refused(load: Load) -> None:
    head = Head("multiple_choice", load("bert"), NUM_LABELS, seed=0)
    hidden = torch.zeros(5, 4, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"equal choices, got \[2, 3\]"):
        head(hidden, torch.ones(5, 4), [2, 3])


@pytest.mark.parametrize(("model_type", "kind"), PAIRS)
def test_an_assembled_task_class_shares_trunk_and_head(
    model_type: str, kind: str, tiny_folder: Callable[[str], Path]
) -> None:
    base = load_base(str(tiny_folder(model_type)), dtype=torch.float64)
    head = disturbed(Head(kind, base, NUM_LABELS, seed=1))
    inputs, per_row = inputs_for(base, kind, padded=kind != "sequence_classification")
    module = head.assembled(base.trunk, base.pooler).eval()
    with torch.inference_mode():
        expected = own_logits(base, head, inputs, per_row)
        got = kind_of(kind).logits(module(**by_choice(inputs, per_row, kind)))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    trunk = {id(value) for value in base.trunk.parameters()}
    assert trunk <= {id(value) for value in module.parameters()}
    # Making it changed neither.
    assert getattr(base.trunk, "pooler", None) is None
    with torch.inference_mode():
        assert torch.equal(own_logits(base, head, inputs, per_row), expected)


def record(**values: Any) -> dict[str, Any]:
    return values


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
class TestKinds:
    """Sums over labelled items against torch's means."""

    def test_classes(self, smoothing: float) -> None:
        logits = torch.randn(5, 4, dtype=torch.float64)
        for name in ("sequence_classification", "multiple_choice"):
            kind = kind_of(name)
            labels = kind.labels([record(labels=value) for value in (3, 0, 1, 1, 2)], 7)
            expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            got = kind.loss(logits, labels, smoothing) / kind.count(labels)
            torch.testing.assert_close(got, expected)

    def test_several_classes_and_numbers(self, smoothing: float) -> None:
        kind = kind_of("sequence_classification")
        logits = torch.randn(3, 2, dtype=torch.float64)
        labels = kind.labels(
            [record(labels=row) for row in ([1.0, 0.0], [1.0, 1.0], [0.0, 0.0])], 7
        )
        expected = F.binary_cross_entropy_with_logits(logits, labels.double())
        torch.testing.assert_close(
            kind.loss(logits, labels, smoothing) / kind.count(labels), expected
        )
        numbers = kind.labels([record(labels=value) for value in (0.5, -1.0, 2.0)], 7)
        expected = F.mse_loss(logits[:, 0], numbers.double())
        got = kind.loss(logits[:, :1], numbers, smoothing) / kind.count(numbers)
        torch.testing.assert_close(got, expected)

    def test_tokens(self, smoothing: float) -> None:
        rows = [record(labels=[[IGNORE, 1, 2]]), record(labels=[[0], [IGNORE, 1]])]
        wide = torch.full((3, 4), IGNORE)
        wide[0, 1], wide[0, 2], wide[1, 0], wide[2, 1] = 1, 2, 0, 1
        logits = torch.randn(3, 4, 3, dtype=torch.float64)
        for name, seen, spoken in (
            ("token_classification", logits, wide),
            ("masked_lm", logits, wide),
            ("causal_lm", logits[:, :-1], wide[:, 1:]),
        ):
            kind = kind_of(name)
            labels = kind.labels(rows, 4)
            assert torch.equal(labels, wide)
            expected = F.cross_entropy(
                seen.flatten(0, 1), spoken.flatten(), ignore_index=IGNORE, label_smoothing=smoothing
            )
            assert kind.count(labels) == (spoken != IGNORE).sum()
            torch.testing.assert_close(
                kind.loss(logits, labels, smoothing) / kind.count(labels), expected
            )

    def test_spans_whatever_the_padding(self, smoothing: float) -> None:
        kind = kind_of("span_extraction")
        rows = [
            record(labels=[[2, 4], [0, 0]], input_ids=[[0] * 5, [0] * 3]),
            record(labels=[[1, 1]], input_ids=[[0] * 4]),
        ]
        logits = torch.randn(3, 9, 2, dtype=torch.float64, requires_grad=True)
        parts = []
        for at, (length, pair) in enumerate([(5, (2, 4)), (3, (0, 0)), (4, (1, 1))]):
            own = logits[at, :length].T
            parts.append(F.cross_entropy(own, torch.tensor(pair), label_smoothing=smoothing))
        expected = torch.stack(parts).mean()
        (wanted,) = torch.autograd.grad(expected, logits)
        for width in (5, 9):
            labels = kind.labels(rows, width)
            got = kind.loss(logits[:, :width], labels, smoothing) / kind.count(labels)
            torch.testing.assert_close(got, expected)
            (gradient,) = torch.autograd.grad(got, logits)
            torch.testing.assert_close(gradient, wanted)

    def test_half_precision_logits_are_summed_in_single(self, smoothing: float) -> None:
        logits = torch.randn(4, 3).to(torch.bfloat16)
        for labels in (
            torch.tensor([0, 2, 1, 1]),
            torch.tensor([0.123, 2.345, 1.5, 1.0]),
            torch.tensor([[0.0, 1.0, 1.0]] * 4),
        ):
            kind = kind_of("sequence_classification")
            seen = logits[:, :1] if labels.is_floating_point() and labels.dim() == 1 else logits
            got = kind.loss(seen, labels, smoothing)
            assert got.dtype == torch.float32
            assert torch.equal(got, kind.loss(seen.float(), labels, smoothing))


LENGTHS = [(3,), (4, 2)]
"""Tokens of a row with one sequence and of a row with two."""


def test_outputs_by_row_are_single_precision_arrays() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64)
    for name in ("sequence_classification", "multiple_choice"):
        rows = kind_of(name).outputs(logits, None, [(2,)] * 3)
        assert [row.dtype for row in rows] == [np.float32] * 3
        assert np.array_equal(np.stack(rows), logits.float().numpy())


def test_outputs_by_token_are_cut_to_their_sequences() -> None:
    logits = torch.randn(3, 5, 2)
    for name in ("token_classification", "span_extraction"):
        rows = kind_of(name).outputs(logits, None, LENGTHS)
        assert [[part.shape for part in row] for row in rows] == [[(3, 2)], [(4, 2), (2, 2)]]
        assert np.array_equal(rows[0][0], logits[0, :3].numpy())
        assert np.array_equal(rows[1][1], logits[2, :2].numpy())


def test_a_causal_models_output_is_each_tokens_own_surprise() -> None:
    kind = kind_of("causal_lm")
    logits = torch.randn(3, 5, 7)
    labels = torch.randint(0, 7, (3, 5))
    labels[0, 2] = IGNORE
    rows = kind.outputs(logits, labels, LENGTHS)
    nll = -logits.log_softmax(-1)[:, :-1].gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0]
    assert np.isnan([rows[0][0][0, 0], rows[1][1][0, 0], rows[0][0][2, 0]]).all()
    np.testing.assert_allclose(rows[1][0][1:, 0], nll[1, :3].numpy(), rtol=1e-5)
    np.testing.assert_allclose(rows[0][0][1, 0], nll[0, 0].item(), rtol=1e-5)
    with pytest.raises(ValueError, match="use generation"):
        kind.outputs(logits, None, LENGTHS)


def test_a_masked_models_output_is_surprise_and_the_best_candidates() -> None:
    kind = kind_of("masked_lm")
    logits = torch.randn(3, 5, 7)
    labels = torch.full((3, 5), IGNORE)
    labels[0, 1] = 4
    rows = kind.outputs(logits, labels, LENGTHS)
    probabilities = logits.softmax(-1)
    assert rows[1][0].shape == (4, 1 + 2 * 5)
    best = probabilities[1, 2].argsort(descending=True)[:5]
    assert rows[1][0][2, 1:6].tolist() == best.tolist()
    np.testing.assert_allclose(rows[1][0][2, 6:], probabilities[1, 2, best].numpy(), rtol=1e-5)
    np.testing.assert_allclose(rows[0][0][1, 0], -probabilities[0, 1, 4].log().item(), rtol=1e-5)
    assert np.isnan(rows[0][0][[0, 2], 0]).all()
    without = kind.outputs(logits, None, LENGTHS)
    assert np.isnan(without[0][0][:, 0]).all()
    assert np.array_equal(without[1][1][:, 1:], rows[1][1][:, 1:])


def test_only_language_models_and_given_sizes_decide_the_number_of_logits(load: Load) -> None:
    base = load("bert")
    sizes = {
        kind: own_logits(base, Head(kind, base, 5, seed=0).eval(), *inputs_for(base, kind)).shape
        for kind in FITTING["bert"]
    }
    assert sizes == {
        "sequence_classification": (4, 5),
        "token_classification": (4, 9, 5),
        "multiple_choice": (2, 3),
        "span_extraction": (4, 9, 2),
        "masked_lm": (4, 9, base.config.vocab_size),
        "embedding": (4, base.config.hidden_size),
    }


def test_a_head_leaves_its_base_as_it_was(load: Load) -> None:
    base = load("bert")
    modules: list[nn.Module] = [base.trunk, base.pooler]
    before = copy.deepcopy([module.state_dict() for module in modules])
    config = base.config.to_dict()
    for kind in FITTING["bert"]:
        head = disturbed(Head(kind, base, NUM_LABELS, seed=3))
        head.train()
        inputs, per_row = inputs_for(base, kind)
        logits = own_logits(base, head, inputs, per_row)
        if head.trained_names():
            logits.square().sum().backward()
    for module, values in zip(modules, before, strict=True):
        assert all(torch.equal(v, values[name]) for name, v in module.state_dict().items())
        assert all(value.grad is None for value in module.parameters())
    assert base.config.to_dict() == config
