"""BA-LoRA's three terms against their equations in double precision, and the base as its own teacher in a run."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.methods.adapters.starts import draw
from weft.base.loading import load_base
from weft.config import load_run
from weft.lowrank.route import Route
from weft.methods.penalties.ba_lora import BALoRA, BALoRASettings
from weft.methods.penalties.contract import Penalty, Said
from weft.model.batching import Batch, collate
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.training.assembly import assemble
from weft.training.settings import completed
from weft.training.stepping import Stepper

Settings = Callable[..., dict[str, Any]]
ONLY = {"consistency": 0.0, "diversity": 0.0, "spectral": 0.0}


def term(which: str, Z: Tensor, Z0: Tensor | None = None, *, words: bool, **more: Any) -> Tensor:
    """One term alone, with weight 1."""
    own = BALoRA(BALoRASettings.model_validate({**ONLY, which: 1.0, **more}))

    def bare() -> Tensor:
        assert Z0 is not None, "the base was asked although nothing looks at it"
        return Z0

    return torch.as_tensor(own.output_loss(Said(Z, bare, words)))


def test_consistency_of_classes_is_between_directions() -> None:
    Z, Z0 = draw(7, 4, seed=1), draw(7, 4, seed=2)
    wanted = torch.stack([a / a.norm() - b / b.norm() for a, b in zip(Z, Z0, strict=True)])
    torch.testing.assert_close(
        term("consistency", Z, Z0, words=False), wanted.square().mean(), rtol=1e-12, atol=0
    )
    assert term("consistency", Z, 3 * Z, words=False).item() == pytest.approx(0, abs=1e-30)


def test_consistency_of_words_is_a_divergence_a_word() -> None:
    Z, Z0 = draw(7, 30, seed=1), draw(7, 30, seed=2)
    p, q = Z0.softmax(-1), Z.softmax(-1)
    wanted = (p * (p.log() - q.log())).sum() / 7
    torch.testing.assert_close(
        term("consistency", Z, Z0, words=True), wanted, rtol=1e-12, atol=1e-14
    )
    assert term("consistency", Z, Z + 5, words=True).item() == pytest.approx(0, abs=1e-12)


def test_diversity_of_classes_is_the_covariance_of_different_ones() -> None:
    Z = draw(9, 3, seed=3)
    C = torch.cov(Z.T)
    wanted = sum(C[i, j] ** 2 for i in range(3) for j in range(3) if i != j) / 3
    torch.testing.assert_close(
        term("diversity", Z, words=False), torch.as_tensor(wanted), rtol=1e-12, atol=0
    )
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert term("diversity", signs, words=False) == 0


def test_diversity_of_words_is_minus_their_entropy() -> None:
    even = torch.zeros(5, 40, dtype=torch.float64)
    assert term("diversity", even, words=True).item() == pytest.approx(-math.log(40), rel=1e-12)
    sure = torch.zeros(5, 40, dtype=torch.float64)
    sure[:, 3] = 1e3
    assert term("diversity", sure, words=True).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("words", [True, False])
def test_the_spectral_term_is_the_share_of_the_largest(words: bool) -> None:
    Z = draw(6, 5, seed=4)
    values = torch.linalg.svdvals(Z)
    wanted = -values[:2].sum() / values.sum()
    torch.testing.assert_close(
        term("spectral", Z, words=words, leading=2), wanted, rtol=1e-12, atol=0
    )
    # A matrix of rank k has nothing beside its k largest; equal ones share evenly.
    few = draw(8, 3, seed=5) @ draw(3, 9, seed=6)
    assert term("spectral", few, words=words).item() == pytest.approx(-1, abs=1e-12)
    eye = torch.eye(6, dtype=torch.float64)
    assert term("spectral", eye, words=words).item() == pytest.approx(-0.5, abs=1e-12)


def test_the_spectral_term_looks_at_no_more_rows_than_asked() -> None:
    Z = draw(10, 4, seed=7)
    found = term("spectral", Z, words=False, leading=1, places=5)
    torch.testing.assert_close(
        found, term("spectral", Z[::2], words=False, leading=1), rtol=0, atol=0
    )


@pytest.mark.parametrize("words", [True, False])
def test_one_place_alone_has_finite_terms_and_gradients(words: bool) -> None:
    own = BALoRA(BALoRASettings(consistency=1, diversity=1, spectral=1))
    for Z in (draw(1, 4, seed=8), torch.zeros(1, 4).double()):
        Z.requires_grad_(True)
        loss = torch.as_tensor(own.output_loss(Said(Z, lambda: draw(1, 4, seed=9), words)))
        loss.backward()
        assert loss.isfinite()
        assert Z.grad is not None
        assert Z.grad.isfinite().all()
    assert own.output_loss(Said(draw(0, 4), lambda: draw(0, 4), words)) == 0


def test_the_terms_are_weighted_and_added() -> None:
    Z, Z0 = draw(7, 4, seed=1), draw(7, 4, seed=2)
    weights = {"consistency": 0.3, "diversity": 0.5, "spectral": 0.7}
    whole = BALoRA(BALoRASettings.model_validate(weights)).output_loss(Said(Z, lambda: Z0, False))
    wanted = sum(w * term(name, Z, Z0, words=False) for name, w in weights.items())
    torch.testing.assert_close(torch.as_tensor(whole), torch.as_tensor(wanted), rtol=1e-12, atol=0)


class Watch(Penalty):
    """Keeps what it is shown."""

    reads_outputs = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, bool]] = []

    def output_loss(self, said: Said) -> float:
        self.seen.append((said.logits, said.bare(), said.language_model))
        return 0.0


@pytest.mark.parametrize(
    ("task", "base"),
    [("topic", "bert"), ("tags", "bert"), ("endings", "bert"), ("where", "bert"), ("fill", "bert"),
     ("go_on", "gpt2")],
)  # fmt: skip
def test_the_base_without_adapters_is_the_teacher_of_every_kind(
    task: str, base: str, run_of: Settings
) -> None:
    run = load_run(run_of(task, base=base, recipe={"name": "ba_lora", "rank": 4}))
    session = assemble(completed(run), torch.device("cpu"))
    (learner,), watch = session.learners, Watch()
    expert, recipe = learner.experts[0]
    object.__setattr__(recipe, "penalties", (watch,))
    with torch.no_grad():
        for value in expert.trained().values():
            value.add_(0.1 * draw(*value.shape).to(value.dtype))
    stream = learner.streams[0]
    items = sorted(stream.items(0), key=lambda item: item.length)
    plain, batch, kind = Model(session.base), collate(items, 0), kind_of(stream.kind)
    plain.add(expert, trainable=True)
    part = batch.parts[0]
    assert part.labels is not None
    with torch.no_grad():
        answers = plain.snapshot(Batch(batch.inputs, batch.parts, Route.everywhere()))
    wanted = kind.places(answers[part.head], part.labels)
    Stepper(session, Accelerator()).step([learner], 0)
    ((said, taught, words),) = watch.seen[:1]
    assert words == (task in ("fill", "go_on"))
    assert not taught.requires_grad
    assert said.shape == taught.shape
    assert not torch.allclose(said, taught, atol=1e-3)
    torch.testing.assert_close(taught, wanted, rtol=0, atol=1e-12)
    rows = {"topic": len(items), "endings": len(items)}.get(task)
    tokens = part.labels[:, 2].sum().item() if task == "where" else kind.count(part.labels)
    assert len(said) == (rows or tokens) > 1


def test_where_the_adapters_add_nothing_base_and_expert_say_the_same(
    run_of: Settings,
) -> None:
    run = load_run(run_of("tags", recipe={"name": "ba_lora", "rank": 4}))
    session = assemble(completed(run), torch.device("cpu"))
    (learner,), watch = session.learners, Watch()
    _, recipe = learner.experts[0]
    object.__setattr__(recipe, "penalties", (watch,))
    Stepper(session, Accelerator()).step([learner], 0)
    said, taught, _ = watch.seen[0]
    # In the precision of the base; dropout of the base is off in these runs.
    torch.testing.assert_close(said, taught, rtol=0, atol=1e-12)
    assert load_base(run.base).digest == session.base.digest
