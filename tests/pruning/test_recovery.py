"""What recovery puts back on the base that was pruned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from torch import Tensor

from tests.pruning.places import NEURONS, Places, heads, neurons, places_of
from tests.pruning.runs import TASKS, answer, changed_copy, deltas, ids, make_run
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.methods.adapters.contract import NotLowRank
from weft.methods.recipes import resolve
from weft.model.card import Card
from weft.model.expert import build
from weft.model.model import Model
from weft.pruning.prune import prune
from weft.pruning.record import FILE, read_pruning
from weft.pruning.recovery import recover
from weft.storage.experts import save_expert, save_full
from weft.storage.loading import load_run_model
from weft.storage.tensors import linear_shapes

Folder = Callable[[str], Path]

# PEFT itself asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CLASSES = {
    "bert": "AutoModelForSequenceClassification",
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
}


@pytest.mark.parametrize("model_type", TASKS)
def test_recovery_scatters_the_change_and_adds_nothing(
    model_type: str, tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    run = make_run(half(model_type), tmp_path / "run", model_type)
    recover(run, tmp_path / "out", base=str(tiny_folder(model_type)))
    small, large = deltas(run), deltas(tmp_path / "out")
    shapes = linear_shapes(load_base(str(tiny_folder(model_type))).trunk)
    places = places_of(model_type, half(model_type))
    assert list(small) == list(large)
    for module, change in small.items():
        found = large[module]
        assert tuple(found.shape) == shapes[module]
        rows, columns = places.get(module, (range(len(found)), range(found.shape[1])))
        S_out = torch.eye(len(found), dtype=torch.float64)[:, list(rows)]
        S_in = torch.eye(found.shape[1], dtype=torch.float64)[:, list(columns)]
        torch.testing.assert_close(S_out.T @ found @ S_in, change, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(found, S_out @ change @ S_in.T, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(found.norm(), change.norm(), rtol=1e-13, atol=0)
        assert change.norm() > 0
    assert set(places) <= set(small)


@pytest.mark.parametrize("model_type", CLASSES)
def test_where_pruned_units_did_nothing_both_models_answer_alike(
    model_type: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    idle = list(range(0, NEURONS, 2))
    dead = {0: neurons(model_type, 0, idle), 1: neurons(model_type, 1, idle)}
    if model_type == "llama":
        dead[0] |= heads(0, [0])
        dead[1] |= heads(1, [1])
    lines = {name: places for layer in dead.values() for name, places in layer.items()}

    def zero(tensors: dict[str, Tensor]) -> None:
        before = {"bert": "bert.", "gpt2": "transformer.", "llama": "model."}[model_type]
        for name, (rows, columns) in lines.items():
            weight = tensors[f"{before}{name}.weight"]
            (weight.T if model_type == "gpt2" else weight)[
                torch.tensor(rows)[:, None], torch.tensor(columns)
            ] = 0

    full = changed_copy(tiny_folder(model_type), tmp_path / "full", zero)
    prune(str(full), tmp_path / "p", kind="structured", ratio=0.5)
    run = make_run(tmp_path / "p", tmp_path / "run", model_type)
    recover(run, tmp_path / "out", base=str(full))
    before = answer(run)
    torch.testing.assert_close(answer(tmp_path / "out"), before, rtol=1e-11, atol=1e-11)
    without = make_run(full, tmp_path / "none", model_type, alpha=1e-9)
    assert (answer(without) - before).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", CLASSES)
@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "structured", "ratio": 0},
        {"kind": "unstructured", "ratio": 0.0},
        {"kind": "semi", "pattern": "8:8"},
    ],
)
def test_pruning_nothing_changes_nothing(
    model_type: str, settings: Any, tiny_folder: Folder, tmp_path: Path
) -> None:
    base = str(tiny_folder(model_type))
    prune(base, tmp_path / "p", **settings)
    pruning = read_pruning(tmp_path / "p")
    assert pruning.digest == pruning.base_digest == load_base(base).digest
    run = make_run(tmp_path / "p", tmp_path / "run", model_type)
    recover(run, tmp_path / "out", base=base)
    name = "expert/adapter_model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("model_type", CLASSES)
def test_peft_opens_a_recovered_expert_with_equal_answers(
    model_type: str, tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    run = make_run(half(model_type), tmp_path / "run", model_type)
    recover(run, tmp_path / "out", base=str(tiny_folder(model_type)))
    labels = {"num_labels": 2} if model_type == "bert" else {}
    model = getattr(transformers, CLASSES[model_type]).from_pretrained(
        tiny_folder(model_type), dtype=torch.float64, attn_implementation="sdpa", **labels
    )
    plain = PeftModel.from_pretrained(
        model, str(tmp_path / "out" / "expert"), autocast_adapter_dtype=False
    )
    with torch.no_grad():
        theirs = plain.eval()(input_ids=ids(), attention_mask=torch.ones(4, 7)).logits
    torch.testing.assert_close(answer(tmp_path / "out"), theirs, rtol=1e-10, atol=1e-10)


def test_a_masked_bases_expert_is_recovered_as_it_is(tiny_folder: Folder, tmp_path: Path) -> None:
    prune(str(tiny_folder("bert")), tmp_path / "p", kind="semi")
    run = make_run(tmp_path / "p", tmp_path / "run", "bert", train_also=["norms"])
    recover(run, tmp_path / "out", base=str(tiny_folder("bert")))
    name = "expert/adapter_model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not torch.equal(answer(run), answer(tmp_path / "out"))


def test_head_and_copies_and_settings_come_along_scores_do_not(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    run = make_run(half("bert"), tmp_path / "run", "bert", train_also=["norms", "embeddings"])
    recover(run, tmp_path / "out", base=str(tiny_folder("bert")))
    before, after = load_run_model(run, device="cpu"), load_run_model(tmp_path / "out")
    old, new = (one.model.expert("mine").state_dict() for one in (before, after))
    same = [name for name in old if not name.startswith("_adapters")]
    assert {name.partition(".")[0] for name in same} == {"_copies", "head"}
    assert all(torch.equal(old[name], new[name]) for name in same)
    assert after.card.digest == load_base(str(tiny_folder("bert"))).digest
    assert after.card.recipe == before.card.recipe
    assert (after.card.metrics, before.card.metrics) == ({}, {"accuracy": 0.5})
    assert after.run.base == str(tiny_folder("bert"))
    assert after.run.model_copy(update={"base": before.run.base}) == before.run


def assert_put_back(run: Path, recovered: Path, places: Places) -> None:
    """The change of each pruned map stands in the rows and columns that stayed."""
    small, large = deltas(run), deltas(recovered)
    for module, (rows, columns) in places.items():
        found = large[module][rows][:, columns]
        torch.testing.assert_close(found, small[module], rtol=1e-12, atol=1e-14)


def test_a_variant_with_factors_is_recovered_as_plain_lora(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    targets = ["query", "ffn_in", "ffn_out"]
    run = make_run(half("bert"), tmp_path / "run", "bert", name="pissa", targets=targets)
    assert (run / "expert" / "native.safetensors").is_file()
    recover(run, tmp_path / "out", base=str(tiny_folder("bert")))
    assert not (tmp_path / "out" / "expert" / "native.safetensors").exists()
    assert_put_back(run, tmp_path / "out", places_of("bert", half("bert")))


def test_an_aligned_copy_is_recovered_with_the_pruned_folder(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    def train_further(tensors: dict[str, Tensor]) -> None:
        for value in tensors.values():
            value.add_(0.01)

    aligned = changed_copy(half("llama"), tmp_path / "aligned", train_further)
    run = make_run(aligned, tmp_path / "run", "llama")
    base = str(tiny_folder("llama"))
    with pytest.raises(ValueError, match=r"holds another checkpoint .* than pruning.json says"):
        recover(run, tmp_path / "out", base=base)
    (aligned / FILE).unlink()
    with pytest.raises(ValueError, match=r"aligned has no pruning.json, so it is no pruned base"):
        recover(run, tmp_path / "out", base=base)
    recover(run, tmp_path / "out", base=base, pruned=half("llama"))
    assert_put_back(run, tmp_path / "out", places_of("llama", half("llama")))


def test_what_cannot_be_recovered_is_refused(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    base = str(tiny_folder("bert"))

    def refused(message: str, run: Path, **other: Any) -> None:
        with pytest.raises(ValueError, match=message):
            recover(run, tmp_path / "out", **{"base": base} | other)
        assert not (tmp_path / "out").exists()

    plain = make_run(half("bert"), tmp_path / "plain", "bert")
    other = changed_copy(
        tiny_folder("bert"), tmp_path / "other", lambda t: t["bert.pooler.dense.bias"].add_(1)
    )
    refused(r"is not the base that was pruned: that is .*digest", plain, base=str(other))
    refused("does not say which|rows or columns, but", plain, pruned=_lying(half("bert"), tmp_path))
    whole = make_run(tiny_folder("bert"), tmp_path / "whole", "bert")
    refused("has no pruning.json", whole)
    recipe: dict[str, Any] = {"targets": ["query"], "train_also": ["output.dense"]}
    copied = make_run(half("bert"), tmp_path / "copied", "bert", **recipe)
    refused(r"trained a copy of encoder.layer.0.output.dense, which is pruned", copied)
    prune(base, tmp_path / "semi", kind="semi", layers=[1])
    masked = make_run(tmp_path / "semi", tmp_path / "masked", "bert", **recipe)
    refused(r"trained a copy of encoder.layer.1.attention.output.dense, which is pruned", masked)
    dora = make_run(half("bert"), tmp_path / "dora", "bert", name="dora", targets=["query"])
    with pytest.raises(NotLowRank, match="DoRA rescales every row"):
        recover(dora, tmp_path / "out", base=base)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists"):
        recover(plain, tmp_path / "there", base=base)


def _lying(folder: Path, out: Path) -> Path:
    """A pruned folder whose `pruning.json` names one neuron too few."""
    shutil.copytree(folder, out / "lying")
    values = json.loads((folder / FILE).read_text())
    del values["kept"]["neurons"]["0"][0]
    (out / "lying" / FILE).write_text(json.dumps(values))
    return out / "lying"


def test_runs_without_adapters_are_refused(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    run = make_run(half("bert"), tmp_path / "run", "bert")
    loaded = load_run_model(run, device="cpu")
    base = load_base(str(half("bert")), dtype=torch.float64)
    head = loaded.model.expert("mine").head
    assert head is not None
    for name, told in (("head", "a head alone"), ("full", "every weight")):
        method = resolve(RecipeSettings(name=name))
        expert = build("mine", base, method, head, seed=0)
        values: dict[str, Any] = {"recipe": {"name": name}, "targets": (), "metrics": {}}
        card = Card(**{**vars(loaded.card), **values})
        shutil.rmtree(run / "expert")
        if name == "head":
            save_expert(expert, card, base, run / "expert")
        else:
            save_full(Model(base, private=True), expert, card, run / "expert")
        with pytest.raises(ValueError, match=f"{told}, so there is no adapter to recover"):
            recover(run, tmp_path / "out", base=str(tiny_folder("bert")))
