"""One expert of several: what it changes, which heads it answers with, how its folder is used."""

from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from torch import Tensor

import weft
from tests.merging.runs import Made
from tests.methods.adapters.starts import draw
from tests.pruning.runs import answer, ids
from weft.base.loading import Base
from weft.lowrank.attach import frozen_linear
from weft.merging.record import read_record
from weft.model.expert import Expert
from weft.runs import RunFolder
from weft.storage.experts import load_expert
from weft.storage.exporting import export
from weft.training.loop import train
from weft.training.settings import mix_config

# PEFT itself asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TEXTS = ["the good cat came", "a bad book in london", "new dog", "paris is big and small"]


def expert_in(run: Path, base: Base) -> Expert:
    return load_expert(RunFolder.open(run).expert, base)[0]


def changes(run: Path, base: Base) -> dict[str, Tensor]:
    """The dense change of every map that an expert adapts."""
    with torch.no_grad():
        return {
            name: adapter.delta(frozen_linear(base.trunk, name).weight)
            for name, adapter in expert_in(run, base).adapters.items()
        }


def weighted_sum(runs: list[Path], weights: list[float], base: Base) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for run, weight in zip(runs, weights, strict=True):
        for name, delta in changes(run, base).items():
            found[name] = found.get(name, torch.zeros_like(delta)) + weight * delta
    return found


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12)


def test_cat_is_the_weighted_sum_across_ranks_targets_scales_and_variants(made: Made) -> None:
    runs = [
        made("topic", targets=["query", "value"], rank=2),
        made("tags", targets=["value", "ffn_in"], rank=3, alpha=7),
        made("fill", name="pissa", targets=["query", "output"], rank=4),
        made("endings", name="lora_xs", targets=["query"], rank=3),
    ]
    weights = [0.7, -0.3, 1.1, 2.0]
    out = weft.merge(runs, weights=weights, out=made.folder / "out", scores=False)
    wanted = weighted_sum(runs, weights, made.base)
    for part in out.parts():
        assert_same(changes(part.path, made.base), wanted)
    record = read_record(out.path)
    assert record is not None
    assert record.error == pytest.approx(0, abs=1e-7)
    assert set(record.errors) == {"query", "value", "output", "ffn_in"}
    assert [one.weight for one in record.experts] == weights
    # Of a PiSSA expert the exact factors have twice the rank.
    assert record.rank == 2 + 8 + 3


def test_its_forward_change_is_the_weighted_sum_of_theirs_in_double_precision(made: Made) -> None:
    runs = [made("topic"), made("tags", rank=3, alpha=5)]
    out = weft.merge(runs, weights=[0.25, 0.75], out=made.folder / "out", scores=False)
    merged = expert_in(out.path / "topic", made.base)
    experts = [expert_in(run, made.base) for run in runs]
    for name, adapter in merged.adapters.items():
        W0 = frozen_linear(made.base.trunk, name).weight
        x = draw(5, W0.shape[1])
        with torch.no_grad():
            parts = [own.adapters[name](x, W0) for own in experts]
            wanted = 0.25 * parts[0] + 0.75 * parts[1]
            torch.testing.assert_close(adapter(x, W0), wanted, rtol=1e-12, atol=1e-13)


def test_one_expert_merged_alone_answers_as_it_did(made: Made) -> None:
    run = made("topic")
    out = weft.merge([run], weights=[1.0], out=made.folder / "out", scores=False)
    before, after = weft.predict(run, TEXTS), weft.predict(out.path, TEXTS)
    for one, other in zip(before, after, strict=True):
        assert other["probabilities"] == pytest.approx(one["probabilities"], rel=1e-10)


def test_peft_opens_it_and_answers_alike(made: Made) -> None:
    runs = [made("topic"), made("tags", rank=3)]
    out = weft.merge(runs, weights=[0.6, 0.6], out=made.folder / "out", scores=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        made.where, num_labels=2, dtype=torch.float64
    )
    folder = out.path / "topic" / "expert"
    peft = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).eval()
    batch = {"input_ids": ids(), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    with torch.no_grad():
        theirs = peft(**batch).logits
    torch.testing.assert_close(answer(out.path / "topic"), theirs, rtol=1e-11, atol=1e-11)


def test_every_task_answers_with_its_own_head_and_is_scored_before_and_after(made: Made) -> None:
    runs = [made("topic"), made("tags"), made("where")]
    out = weft.merge(runs, "cat", out=made.folder / "out")
    record = read_record(out.path)
    assert record is not None
    tasks = ["topic", "tags", "where"]
    assert [row.task for row in record.scores] == tasks
    for row, run in zip(record.scores, runs, strict=True):
        own = weft.evaluate(run, save=False)
        merged = weft.evaluate(out.path / row.task, save=False)
        assert not isinstance(own, list)
        assert not isinstance(merged, list)
        assert row.before.value == pytest.approx(own.scores[row.metric].value)
        assert row.after == merged.scores[row.metric]
        assert row.difference.value == pytest.approx(row.after.value - row.before.value)
        assert row.difference.low <= row.difference.value <= row.difference.high
        stored = {one["name"]: one["value"] for one in RunFolder(out.path / row.task).metrics}
        assert stored[row.metric] == row.after.value
    every = weft.evaluate(out.path, save=False)
    assert isinstance(every, list)
    assert len(every) == len(tasks)
    assert weft.load(out.path).predict(["red cat"], task="tags")


def test_a_merged_run_is_merged_again_and_its_change_counts_once(made: Made) -> None:
    runs = [made("topic"), made("tags")]
    first = weft.merge(runs, weights=[1, 1], out=made.folder / "first", scores=False)
    third = made("endings")
    out = weft.merge([first.path, third], weights=[1, 0.5], out=made.folder / "o", scores=False)
    assert [part.path.name for part in out.parts()] == ["topic", "tags", "endings"]
    wanted = weighted_sum([*runs, third], [1, 1, 0.5], made.base)
    assert_same(changes(out.path / "endings", made.base), wanted)


def test_it_is_mixed_and_exported_like_any_other(made: Made) -> None:
    runs = [made("topic"), made("tags")]
    out = weft.merge(runs, out=made.folder / "out", scores=False)
    mixed = train(mix_config([out.path], "uniform"), out=made.folder / "mixed")
    assert [part.path.name for part in mixed.parts()] == ["topic", "tags"]
    export(out.path / "topic", made.folder / "peft", "peft")
    export(out.path / "topic", made.folder / "dense", "merged")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made.folder / "dense")
    base = made.base.trunk.state_dict()
    found = {name.removeprefix("bert."): value for name, value in model.state_dict().items()}
    for name, delta in weighted_sum(runs, [0.5, 0.5], made.base).items():
        wanted = (base[f"{name}.weight"] + delta).to(found[f"{name}.weight"].dtype)
        torch.testing.assert_close(found[f"{name}.weight"], wanted, rtol=1e-12, atol=1e-12)


def test_of_one_task_the_first_head_is_kept_or_the_one_asked_for_and_it_is_said(made: Made) -> None:
    runs = [made("topic", "one"), made("topic", "two")]
    first = weft.merge(runs, out=made.folder / "first", scores=False)
    second = weft.merge(runs, head=runs[1], out=made.folder / "second", scores=False)
    for out, run in ((first, runs[0]), (second, runs[1])):
        assert out.run.task is not None
        merged, own = expert_in(out.path, made.base), expert_in(run, made.base)
        assert merged.head is not None
        assert own.head is not None
        for name, value in own.head.state().items():
            assert torch.equal(merged.head.state()[name], value)
        record = read_record(out.path)
        assert record is not None
        assert any(f"the head is that of {run}" in note for note in record.notes)
        assert_same(changes(out.path, made.base), weighted_sum(runs, [0.5, 0.5], made.base))


def test_an_expert_of_another_kind_lends_its_change_to_the_head_asked_for(made: Made) -> None:
    runs = [made("fill"), made("topic")]
    out = weft.merge(runs, head=runs[1], weights=[1, 1], out=made.folder / "out")
    assert out.run.task is not None
    assert out.run.task.label == "topic"
    assert_same(changes(out.path, made.base), weighted_sum(runs, [1, 1], made.base))


def test_a_rank_cuts_and_says_by_role_how_much(made: Made) -> None:
    runs = [made("topic", rank=4), made("tags", rank=4)]
    out = weft.merge(runs, "cat", weights=[1, 1], rank=3, out=made.folder / "out", scores=False)
    wanted = weighted_sum(runs, [1, 1], made.base)
    missed: dict[str, float] = {}
    whole: dict[str, float] = {}
    for name, delta in wanted.items():
        S = torch.linalg.svdvals(delta).square()
        role = "query" if "query" in name else "value"
        missed[role] = missed.get(role, 0.0) + S[3:].sum().item()
        whole[role] = whole.get(role, 0.0) + S.sum().item()
    record = read_record(out.path)
    assert record is not None
    assert record.rank == 3
    for role, squared in whole.items():
        assert record.errors[role] == pytest.approx((missed[role] / squared) ** 0.5, rel=1e-9)
    total = (sum(missed.values()) / sum(whole.values())) ** 0.5
    assert record.error == pytest.approx(total, rel=1e-9)


def test_a_rank_over_the_exact_one_is_clamped_and_said(made: Made) -> None:
    out = weft.merge([made("topic"), made("tags")], rank=9, out=made.folder / "o", scores=False)
    record = read_record(out.path)
    assert record is not None
    assert record.rank == 4
    assert any("rank 9 is more than the change has at 4 of 4 maps" in n for n in record.notes)


def test_dora_enters_as_the_nearest_of_a_rank_and_the_error_counts_it(made: Made) -> None:
    runs = [made("topic"), made("tags", name="dora", rank=2)]
    out = weft.merge(runs, weights=[1, 1], dense=5, out=made.folder / "out", scores=False)
    wanted = weighted_sum(runs, [1, 1], made.base)
    found = changes(out.path / "topic", made.base)
    missed = sum((found[name] - delta).square().sum().item() for name, delta in wanted.items())
    whole = sum(delta.square().sum().item() for delta in wanted.values())
    record = read_record(out.path)
    assert record is not None
    assert record.error == pytest.approx((missed / whole) ** 0.5, rel=1e-6)
    assert record.error > 1e-3
    assert record.experts[1].lost > 1e-3
    assert any("has no exact factors" in note for note in record.notes)


def test_what_is_not_at_hand_is_not_scored_and_said(made: Made) -> None:
    run = made.labelled("far", ["a", "b"])
    out = weft.merge([run], out=made.folder / "out")
    record = read_record(out.path)
    assert record is not None
    assert record.scores == ()
    assert any("not scored, its rows are not at hand" in note for note in record.notes)
