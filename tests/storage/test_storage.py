"""Experts on disk: what is saved comes back, and what does not belong together is refused."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft.base.loading import load_base
from weft.lowrank.attach import frozen_linear
from weft.lowrank.peft.writing import CONFIG, WEIGHTS
from weft.methods.adapters.contract import Adapter, NotLowRank, Spec
from weft.model.card import Card
from weft.model.expert import Expert, build
from weft.model.head import Head
from weft.model.model import Model
from weft.storage.card import CARD, read_card, versions
from weft.storage.experts import HEAD, NATIVE, load_expert, restore, save_expert


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def saved(lab: Any, tmp_path: Path) -> Any:
    """A BERT expert with two labels and its folder."""
    made = lab.make()
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    return made, tmp_path / "e"


def test_training_goes_on_from_the_same_bits(saved: Any) -> None:
    made, folder = saved
    found, card = load_expert(folder, made.base)
    before, after = made.expert.trained(), found.trained()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert found.name == "mine"
    assert load_expert(folder, made.base, name="other")[0].name == "other"
    assert card == dataclasses.replace(made.card, versions=versions())
    scales = {name: adapter.scaling for name, adapter in made.expert.adapters.items()}
    assert {name: adapter.scaling for name, adapter in found.adapters.items()} == scales


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "rslora", "alpha": 0.1, "rank": 7},
        {"alpha": 1, "rank": 5, "ranks": {"query": 2, "output": 6}, "train_also": ["norms"]},
        {"name": "head"},
    ],
)
def test_three_cycles_change_no_byte(lab: Any, tmp_path: Path, recipe: dict[str, Any]) -> None:
    made = lab.make("roberta", **recipe)
    save_expert(made.expert, made.card, made.base, tmp_path / "0")
    for cycle in (1, 2, 3):
        expert, card = load_expert(tmp_path / str(cycle - 1), made.base)
        save_expert(expert, card, made.base, tmp_path / str(cycle))
        assert files(tmp_path / str(cycle)) == files(tmp_path / "0")


def test_an_expert_replaces_an_expert_but_nothing_else(
    saved: Any, lab: Any, tmp_path: Path
) -> None:
    _, folder = saved
    other = lab.make(rank=2)
    save_expert(other.expert, other.card, other.base, folder)
    assert load_file(folder / WEIGHTS).keys() == set(load_file(folder / WEIGHTS))
    assert json.loads((folder / CONFIG).read_text())["r"] == 2
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(ValueError, match="holds no expert, so it is not overwritten"):
        save_expert(other.expert, other.card, other.base, tmp_path / "home")
    assert files(tmp_path / "home") == {"letter": b"dear"}


def test_experts_with_two_and_five_labels_live_side_by_side(lab: Any, tmp_path: Path) -> None:
    two, five = lab.make(), lab.make(labels=tuple("abcde"))
    alone = {made.card.labels: lab.answer(made.base, made.expert) for made in (two, five)}
    for made in (two, five):
        save_expert(made.expert, made.card, made.base, tmp_path / str(len(made.card.labels)))
    base = load_base(two.base.source)
    model = Model(base)
    for count in (2, 5):
        model.add(load_expert(tmp_path / str(count), base, name=str(count))[0])
    for count, labels in ((2, two.card.labels), (5, five.card.labels)):
        found = lab.answer(base, model.expert(str(count)), model)
        assert found.shape == (4, count)
        assert torch.equal(found, alone[labels])


def test_an_expert_of_another_base_is_refused_with_both_names(
    saved: Any, lab: Any, tmp_path: Path
) -> None:
    made, folder = saved
    # The same shapes, one number changed.
    tensors = load_file(made.folder / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][7, 3] += 1
    (tmp_path / "twin").mkdir()
    for name, content in files(made.folder).items():
        (tmp_path / "twin" / name).write_bytes(content)
    save_file(tensors, tmp_path / "twin" / "model.safetensors", metadata={"format": "pt"})
    twin = load_base(str(tmp_path / "twin"))
    message = (
        f"expert for another base: .*{made.base.name}.*{made.base.digest}.*twin.*{twin.digest}"
    )
    with pytest.raises(ValueError, match=message):
        load_expert(folder, twin)
    with pytest.raises(ValueError, match="the card says base digest"):
        save_expert(made.expert, made.card, twin, tmp_path / "new")


def test_a_wrong_card_is_refused_at_save(lab: Any, tmp_path: Path) -> None:
    made = lab.make()
    for change, message in (
        ({"head": "token_classification"}, "the card says head 'token_classification'"),
        ({"targets": made.card.targets[1:]}, "the card says targets"),
        ({"train_also": ("embeddings.LayerNorm",)}, "the card says train_also"),
    ):
        card = dataclasses.replace(made.card, **change)
        with pytest.raises(ValueError, match=message):
            save_expert(made.expert, card, made.base, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def change_card(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / CARD).read_text()) | changes
    kept = {key: value for key, value in values.items() if value != "REMOVED"}
    (folder / CARD).write_text(json.dumps(kept))


TASK = {"name": "mine", "kind": "sequence_classification", "labels": ["no", "yes"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "weft.json: format 2, this weft reads 1; update weft"),
        ({"colour": "red"}, "weft.json: expected the keys of a card, it differs in colour"),
        ({"digest": "REMOVED"}, "weft.json: expected the keys of a card, it differs in digest"),
        ({"labels": 3}, "weft.json: labels: Input should be a valid tuple, got 3"),
        ({"labels": ["yes", "no"]}, r"labels are \['no', 'yes'\], but the head's \['yes', 'no'\]"),
        (
            {"labels": list("abc"), "task": TASK | {"labels": None}},
            r"classifier.*\(3, 32\), got \(2",
        ),
        ({"head": "token_classification"}, "is sequence_classification, but the head is token_"),
        (
            {"head": "token_classification", "task": TASK | {"kind": "token_classification"}},
            "task_type is SEQ_CLS, but a token_classification expert was expected .TOKEN_CLS",
        ),
        ({"task": {"kind": "x"}}, "weft.json: task: name"),
        ({"recipe": {"name": "lorra"}}, "no recipe named 'lorra'. Did you mean 'lora'"),
        ({"recipe": {"name": "full"}}, "whole trained model, no expert to weave in; use load_full"),
        ({"targets": ["encoder.layer.0.output.dense"]}, "differ in their targets: encoder"),
        ({"train_also": ["embeddings.LayerNorm"]}, "lacks bert.embeddings.LayerNorm.bias"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    saved: Any, changes: dict[str, Any], message: str
) -> None:
    made, folder = saved
    change_card(folder, **changes)
    with pytest.raises((ValueError, KeyError), match=message):
        load_expert(folder, made.base)


def test_missing_and_broken_cards_are_named(saved: Any) -> None:
    made, folder = saved
    (folder / CARD).write_text("{")
    with pytest.raises(ValueError, match=r"weft.json:1: not JSON"):
        load_expert(folder, made.base)
    (folder / CARD).unlink()
    with pytest.raises(ValueError, match=r"has no weft.json, .* import_expert"):
        load_expert(folder, made.base)


def change_tensors(path: Path, changes: dict[str, Tensor | None]) -> None:
    tensors = load_file(path) | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model.model.classifier.bias": None}, r"head .* has the tensors .*classifier.bias"),
        (
            {"base_model.model.classifier.scale": torch.ones(2)},
            "head of .* no tensor classifier.sc",
        ),
        (
            {"base_model.model.classifier.bias": torch.ones(3)},
            r"classifier.bias: .*\(2,\), got \(3,\)",
        ),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    saved: Any, changes: dict[str, Tensor | None], message: str
) -> None:
    made, folder = saved
    change_tensors(folder / WEIGHTS, changes)
    with pytest.raises(ValueError, match=message):
        load_expert(folder, made.base)


def test_a_head_alone_is_one_file(lab: Any, tmp_path: Path) -> None:
    made = lab.make("bert", "multiple_choice", name="head")
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    assert sorted(files(tmp_path / "e")) == [HEAD, CARD]
    found, _ = load_expert(tmp_path / "e", made.base)
    assert torch.equal(lab.answer(made.base, found), lab.answer(made.base, made.expert))


def test_a_second_expert_may_be_built_and_saved_on_a_trunk_in_use(lab: Any, tmp_path: Path) -> None:
    first = lab.make("bert", train_also=["norms", "embeddings"])
    save_expert(first.expert, first.card, first.base, tmp_path / "e")
    base = load_base(first.base.source)
    plain = lab.answer(base, load_expert(tmp_path / "e", base)[0])
    model = Model(base)
    model.add(load_expert(tmp_path / "e", base, name="resident")[0])
    again, card = load_expert(tmp_path / "e", base)
    assert torch.equal(lab.answer(base, again, model), plain)
    save_expert(again, card, base, tmp_path / "f")
    assert files(tmp_path / "f") == files(tmp_path / "e")
    fresh = build("fresh", base, first.recipe, None, seed=0)
    assert fresh.copies.keys() == first.expert.copies.keys()
    # The base's own values, not the resident expert's.
    for module, copy in fresh.copies.items():
        own = first.base.trunk.get_submodule(module).state_dict()
        assert copy.state_dict().keys() == own.keys()
        assert all(torch.equal(value, own[name]) for name, value in copy.state_dict().items())


class Rotated(Adapter):
    """A variant whose state is more: dW = U (p A - A0), p shared, U and A0 as drawn at the start."""

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        A0 = torch.randn(self.rank, weight.shape[1], generator=generator)
        self.A = nn.Parameter(A0.clone())
        self.register_buffer("A0", A0)
        self.register_buffer("up", torch.randn(weight.shape[0], self.rank, generator=generator))

    @classmethod
    def share(cls, weights: Any, spec: Spec, generator: torch.Generator) -> nn.Module:
        return nn.Linear(spec.rank, 1, bias=False)

    def delta(self, weight: Tensor) -> Tensor:
        return self.up @ (self.shared.weight.T * self.A - self.A0)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.shared.weight.T * self.A - self.A0, self.up


class Liar(Rotated):
    """Its factors are not its change of the weight."""

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.up


class Dense(Rotated):
    """Has no factors."""

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotLowRank("its change has full rank")


def native(lab: Any, variant: type[Adapter]) -> Any:
    """An expert of a variant that no recipe names."""
    made = lab.make("bert", targets=["query"], rank=3)
    weights = {m: frozen_linear(made.base.trunk, m).weight for m in made.expert.adapters}
    generator = torch.Generator().manual_seed(3)
    shared = variant.share(weights, Spec(rank=3), generator)
    ranks = dict(zip(weights, (3, 3), strict=True))
    adapters = {m: variant(w, Spec(rank=ranks[m]), generator, shared) for m, w in weights.items()}
    expert = Expert("mine", adapters, made.expert.head, shared=shared)
    lab.shake(expert.trained().values())
    recipe = dataclasses.replace(made.recipe, adapter=variant, spec=Spec(rank=3))
    return dataclasses.replace(made, expert=expert, recipe=recipe)


def test_a_variants_own_state_is_stored_beside_its_exact_factors(lab: Any, tmp_path: Path) -> None:
    made = native(lab, Rotated)
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    names = set(load_file(tmp_path / "e" / NATIVE))
    one = "encoder.layer.0.attention.self.query"
    assert {name for name in names if "layer.1" not in name} == {
        "shared.weight",
        *(f"{one}.{name}" for name in ("A", "A0", "up")),
    }
    # Drawn anew, A0 and up would differ.
    torch.manual_seed(9)
    found = restore(tmp_path / "e", made.card, made.base, made.recipe)
    before, after = made.expert.trained(), found.trained()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(lab.answer(made.base, found), lab.answer(made.base, made.expert))
    save_expert(found, made.card, made.base, tmp_path / "f")
    assert files(tmp_path / "f") == files(tmp_path / "e")
    # What stands for it elsewhere is the plain LoRA.
    config = json.loads((tmp_path / "e" / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 3)
    (tmp_path / "e" / NATIVE).unlink()
    plain, _ = load_expert(tmp_path / "e", made.base)
    torch.testing.assert_close(lab.answer(made.base, plain), lab.answer(made.base, made.expert))


def test_native_state_and_factors_must_be_of_one_expert(lab: Any, tmp_path: Path) -> None:
    made = native(lab, Rotated)
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    name = "encoder.layer.0.attention.self.query.A"
    other = {name: load_file(tmp_path / "e" / NATIVE)[name] + 0.01}
    tensors = load_file(tmp_path / "e" / NATIVE) | other
    ranks = json.dumps(dict.fromkeys(made.expert.adapters, 3))
    save_file(tensors, tmp_path / "e" / NATIVE, metadata={"ranks": ranks})
    with pytest.raises(ValueError, match=r"factors of .*query differ from the state in .*native"):
        restore(tmp_path / "e", made.card, made.base, made.recipe)
    del tensors[name]
    save_file(tensors, tmp_path / "e" / NATIVE, metadata={"ranks": ranks})
    with pytest.raises(ValueError, match=rf"native.safetensors: lacks {name}"):
        restore(tmp_path / "e", made.card, made.base, made.recipe)
    (tmp_path / "e" / NATIVE).unlink()
    with pytest.raises(ValueError, match=r"needs native.safetensors, which is missing"):
        restore(tmp_path / "e", made.card, made.base, made.recipe)


def test_factors_that_are_not_the_change_are_never_saved(lab: Any, tmp_path: Path) -> None:
    made = native(lab, Liar)
    with pytest.raises(
        ValueError, match=r"factors of encoder.*query differ from its variant's own"
    ):
        save_expert(made.expert, made.card, made.base, tmp_path / "e")
    made = native(lab, Dense)
    with pytest.raises(NotLowRank, match="its change has full rank"):
        save_expert(made.expert, made.card, made.base, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
from weft.base.loading import load_base
from weft.storage.experts import load_expert, save_expert
base = load_base(sys.argv[1])
expert, card = load_expert(Path(sys.argv[2]), base)
for value in expert.parameters():
    value.data.add_(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    save_expert(expert, card, base, Path(sys.argv[2]))
except OSError as error:
    sys.exit(f"OSError: {error}")
"""


def test_a_full_disk_leaves_the_older_expert_whole(saved: Any) -> None:
    made, folder = saved
    before = files(folder)
    # Enough for the settings, not for the tensors, which are written first.
    limit = max(len(before[CONFIG]), len(before[CARD])) + 100
    assert limit < len(before[WEIGHTS])
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, made.base.source, str(folder), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert "OSError" in result.stderr
    assert "File too large" in result.stderr
    assert files(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_card_is_sorted_json_with_its_format_and_versions(saved: Any) -> None:
    made, folder = saved
    values = json.loads((folder / CARD).read_text())
    assert list(values) == sorted(values)
    assert values["format"] == 1
    assert set(values["versions"]) == {"python", "weft", "torch", "transformers", "safetensors"}
    assert values["labels"] == ["no", "yes"]
    assert values["metrics"] == {"accuracy": 0.5}
    assert read_card(folder) == dataclasses.replace(made.card, versions=values["versions"])
    assert isinstance(read_card(folder), Card)


def test_a_head_of_five_takes_no_head_of_two(saved: Any) -> None:
    made, folder = saved
    state = Head("sequence_classification", made.base, 5, seed=0).state()
    change_tensors(folder / WEIGHTS, {f"base_model.model.{k}": v for k, v in state.items()})
    with pytest.raises(ValueError, match=r"classifier.* expected shape \(2.*, got \(5"):
        load_expert(folder, made.base)
