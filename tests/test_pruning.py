"""LoRAM: what pruning takes away, and what recovery puts back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from weft.adapters.base import NotLowRank
from weft.base import load_base
from weft.config import RecipeSettings, Run, to_yaml
from weft.expert import Card, build, factors_of
from weft.heads import Head
from weft.loading import load_run_model
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import ALL_LINEAR
from weft.lowrank.roles import resolve as maps_of
from weft.lowrank.route import Route
from weft.model import Model
from weft.pruning import prune
from weft.pruning.record import FILE, read_pruning
from weft.pruning.recovery import recover
from weft.pruning.units import counts_kept, notes_on
from weft.recipes import resolve
from weft.storage import save_expert, save_full
from weft.storage.tensors import linear_shapes

# PEFT itself asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Folder = Callable[[str], Path]

TASKS = {"bert": "sequence_classification", "gpt2": "causal_lm", "llama": "causal_lm"}
CLASSES = {
    "bert": "AutoModelForSequenceClassification",
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
}
LABELS = ("no", "yes")
NEURONS = 64
WIDTHS = {"distilbert": "hidden_dim", "gpt2": "n_inner"}
LAYERS = {
    "bert": "encoder.layer.{}.",
    "roberta": "encoder.layer.{}.",
    "distilbert": "transformer.layer.{}.",
    "modernbert": "layers.{}.",
    "gpt2": "h.{}.",
    "llama": "layers.{}.",
}
FFN = {
    "bert": (["intermediate.dense"], "output.dense"),
    "roberta": (["intermediate.dense"], "output.dense"),
    "distilbert": (["ffn.lin1"], "ffn.lin2"),
    "modernbert": (["mlp.Wi"], "mlp.Wo"),
    "gpt2": (["mlp.c_fc"], "mlp.c_proj"),
    "llama": (["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj"),
}


def neurons(model_type: str, layer: int, kept: list[int]) -> dict[str, tuple[list[int], list[int]]]:
    """Rows and columns of a layer's maps that belong to some of its neurons, written out."""
    before = LAYERS[model_type].format(layer)
    rising, falling = FFN[model_type]
    rows = kept + [NEURONS + unit for unit in kept] if model_type == "modernbert" else kept
    hidden = list(range(32))
    return {before + name: (rows, hidden) for name in rising} | {before + falling: (hidden, kept)}


def heads(layer: int, kept: list[int]) -> dict[str, tuple[list[int], list[int]]]:
    """The same of a Llama's groups: two query heads and one key-value head of size 8."""
    before = f"layers.{layer}.self_attn."
    two = [16 * unit + at for unit in kept for at in range(16)]
    one = [8 * unit + at for unit in kept for at in range(8)]
    hidden = list(range(32))
    return {
        f"{before}q_proj": (two, hidden),
        f"{before}k_proj": (one, hidden),
        f"{before}v_proj": (one, hidden),
        f"{before}o_proj": (hidden, two),
    }


def places_of(model_type: str, folder: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Rows and columns that stayed, of every pruned map, from what `pruning.json` kept."""
    kept = read_pruning(folder).kept
    found: dict[str, tuple[list[int], list[int]]] = {}
    for layer, units in kept["neurons"].items():
        found |= neurons(model_type, layer, units)
    for layer, units in kept.get("heads", {}).items():
        found |= heads(layer, units)
    return found


def weights(trunk: nn.Module) -> dict[str, Tensor]:
    return {name: frozen_linear(trunk, name).weight for name in linear_shapes(trunk)}


def make_run(base_folder: Path, out: Path, model_type: str, **recipe: Any) -> Path:
    """A run folder with an expert on that base, as if it was trained, in double precision."""
    base = load_base(str(base_folder), dtype=torch.float64)
    kind = TASKS[model_type]
    labels = LABELS if kind == "sequence_classification" else ()
    method = resolve(RecipeSettings(**{"name": "loram", "rank": 3, "dropout": 0.0} | recipe))
    expert = build("mine", base, method, Head(kind, base, len(labels), seed=1), seed=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in expert.trained().values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    card = Card(
        task={"name": "mine", "kind": kind, "labels": list(labels) or None},
        labels=labels,
        head=kind,
        recipe=method.describe().model_dump(mode="json"),
        targets=tuple(expert.adapters),
        base=base.name,
        source=base.source,
        revision=None,
        digest=base.digest,
        train_also=tuple(expert.copies),
        metrics={"accuracy": 0.5},
    )
    out.mkdir()
    (out / "mine.yaml").write_text(yaml.safe_dump({"kind": kind, "labels": list(labels) or None}))
    values = {
        "base": str(base_folder),
        "task": str(out / "mine.yaml"),
        "recipe": method.describe(),
        "training": {"precision": "fp64"},
    }
    (out / "run.yaml").write_text(to_yaml(Run.model_validate(values)))
    save_expert(expert, card, base, out / "expert")
    return out


def ids() -> Tensor:
    return torch.randint(5, 90, (4, 7), generator=torch.Generator().manual_seed(0))


def answer(run: Path) -> Tensor:
    """A run's logits."""
    loaded = load_run_model(run, device="cpu")
    batch = {"input_ids": ids(), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    head = loaded.model.expert(loaded.name).head
    assert head is not None
    with torch.no_grad():
        hidden = loaded.model.states(batch, Route.everywhere(loaded.name))
        return head(hidden, batch["attention_mask"], (1, 1, 1, 1))


def deltas(run: Path) -> dict[str, Tensor]:
    """The change of every adapted map's weight."""
    loaded = load_run_model(run, device="cpu")
    found = factors_of(loaded.model.expert(loaded.name), loaded.model.trunk)
    return {module: B @ A for module, (A, B) in found.items()}


def changed_copy(folder: Path, out: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A base folder with other weights."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module")
def half(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """From a model type to its tiny base, pruned to half by a draw."""
    made: dict[str, Path] = {}

    def folder(model_type: str) -> Path:
        if model_type not in made:
            out = tmp_path_factory.mktemp("half") / model_type
            base = str(tiny_folder(model_type))
            made[model_type] = prune(
                base, out, kind="structured", ratio=0.5, importance="random", seed=7
            )
        return made[model_type]

    return folder


def test_a_structured_copy_is_the_base_without_some_rows_and_columns(
    model_type: str, tiny_folder: Folder, half: Folder
) -> None:
    full, small = (load_base(str(one(model_type))) for one in (tiny_folder, half))
    places = places_of(model_type, half(model_type))
    before, after = full.trunk.state_dict(), small.trunk.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        module, _, last = name.rpartition(".")
        rows, columns = places.get(module, (None, None))
        kept = value
        if rows is not None:
            kept = value[rows][:, columns] if last == "weight" else value[rows]
        assert torch.equal(after[name], kept), name
    assert len(places) == 2 * (len(FFN[model_type][0]) + 1 + 4 * (model_type == "llama"))
    assert getattr(small.config, WIDTHS.get(model_type, "intermediate_size")) == NEURONS // 2
    assert small.config.hidden_size == 32


def test_heads_go_where_a_config_can_say_so_and_stay_where_not(half: Folder) -> None:
    llama = load_base(str(half("llama")))
    config = llama.config
    sizes = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    assert sizes == (2, 1, 8)
    assert linear_shapes(llama.trunk)["layers.0.self_attn.q_proj"] == (16, 32)
    assert read_pruning(half("llama")).notes == []
    bert = load_base(str(half("bert")))
    assert bert.config.num_attention_heads == 4
    (note,) = read_pruning(half("bert")).notes
    assert note.startswith("all attention heads are kept: a bert config takes hidden size / heads")


def test_a_pruned_folder_says_what_was_done_and_has_the_tokenizer(
    tiny_folder: Folder, half: Folder
) -> None:
    full, small = load_base(str(tiny_folder("bert"))), load_base(str(half("bert")))
    pruning = read_pruning(half("bert"))
    assert (pruning.base_digest, pruning.digest) == (full.digest, small.digest)
    assert (pruning.kind, pruning.ratio, pruning.seed) == ("structured", 0.5, 7)
    assert pruning.source == str(tiny_folder("bert"))
    tokenizers = [AutoTokenizer.from_pretrained(one("bert")) for one in (tiny_folder, half)]
    text = "the good dog said Berlin!"
    assert tokenizers[0](text) == tokenizers[1](text)
    # Heads of the checkpoint come along, for tasks that use them.
    names = [load_file(one("bert") / "model.safetensors").keys() for one in (tiny_folder, half)]
    assert names[0] == names[1]


def test_a_draw_depends_on_its_seed_alone(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    kept = []
    for seed in (7, 8):
        out = tmp_path / str(seed)
        base = str(tiny_folder("bert"))
        prune(base, out, kind="structured", ratio=0.5, importance="random", seed=seed)
        kept.append(read_pruning(out).kept)
    assert kept[0] == read_pruning(half("bert")).kept != kept[1]
    assert kept[0]["neurons"][0] != kept[0]["neurons"][1]


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "gpt2", "llama"])
def test_the_largest_neurons_stay(model_type: str, tiny_folder: Folder, tmp_path: Path) -> None:
    trunk = load_base(str(tiny_folder(model_type))).trunk
    prune(str(tiny_folder(model_type)), tmp_path / "p", kind="structured", ratio=0.75)
    for layer in (0, 1):
        scores = []
        for unit in range(NEURONS):
            own = neurons(model_type, layer, [unit])
            scores.append(
                sum(
                    frozen_linear(trunk, name).weight[rows][:, columns].square().sum().item()
                    for name, (rows, columns) in own.items()
                )
            )
        largest = sorted(range(NEURONS), key=lambda unit: -scores[unit])[:16]
        assert read_pruning(tmp_path / "p").kept["neurons"][layer] == sorted(largest)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_semi_structured_keeps_the_largest_n_of_every_m(
    model_type: str, pattern: str | None, tiny_folder: Folder, tmp_path: Path
) -> None:
    full = load_base(str(tiny_folder(model_type)))
    prune(str(tiny_folder(model_type)), tmp_path / "p", kind="semi", pattern=pattern)
    after = load_base(str(tmp_path / "p")).trunk.state_dict()
    count, group = (4, 8) if pattern is None else (2, 4)
    masked = maps_of(full.trunk, ALL_LINEAR)
    assert read_pruning(tmp_path / "p").masked == masked
    for name, value in full.trunk.state_dict().items():
        if name.removesuffix(".weight") not in masked:
            assert torch.equal(after[name], value), name
            continue
        found, whole = after[name].reshape(-1, group), value.reshape(-1, group)
        stays = found != 0
        assert (stays.sum(1) == count).all()
        assert torch.equal(found[stays], whole[stays])
        least = whole.abs().masked_fill(~stays, torch.inf).min(1).values
        assert (whole.abs().masked_fill(stays, 0).max(1).values <= least).all()


@pytest.mark.parametrize("importance", ["random", "magnitude"])
def test_unstructured_prunes_every_row_of_the_chosen_layers_alike(
    importance: Any, tiny_folder: Folder, tmp_path: Path
) -> None:
    full = load_base(str(tiny_folder("llama")))
    base = str(tiny_folder("llama"))
    options: dict[str, Any] = {"ratio": 0.55, "importance": importance, "layers": [1]}
    prune(base, tmp_path / "p", kind="unstructured", **options)
    after = weights(load_base(str(tmp_path / "p")).trunk)
    for name, value in weights(full.trunk).items():
        if not name.startswith("layers.1."):
            assert torch.equal(after[name], value)
            continue
        stays = after[name] != 0
        assert (stays.sum(1) == value.shape[1] - round(0.55 * value.shape[1])).all()
        assert torch.equal(after[name][stays], value[stays])
        least = value.abs().masked_fill(~stays, torch.inf).min(1).values
        by_size = value.abs().masked_fill(stays, 0).max(1).values <= least
        assert by_size.all() == (importance == "magnitude")


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "gpt2", "llama"])
def test_recovery_scatters_the_change_and_adds_nothing(
    model_type: str, tiny_folder: Folder, half: Folder, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(TASKS, "modernbert", "sequence_classification")
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


@pytest.mark.parametrize("model_type", TASKS)
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


@pytest.mark.parametrize("model_type", TASKS)
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


@pytest.mark.parametrize("model_type", TASKS)
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


def test_a_variant_with_factors_is_recovered_as_plain_lora(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    targets = ["query", "ffn_in", "ffn_out"]
    run = make_run(half("bert"), tmp_path / "run", "bert", name="pissa", targets=targets)
    assert (run / "expert" / "native.safetensors").is_file()
    recover(run, tmp_path / "out", base=str(tiny_folder("bert")))
    assert not (tmp_path / "out" / "expert" / "native.safetensors").exists()
    small, large = deltas(run), deltas(tmp_path / "out")
    for module, (rows, columns) in places_of("bert", half("bert")).items():
        found = large[module][rows][:, columns]
        torch.testing.assert_close(found, small[module], rtol=1e-12, atol=1e-14)


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
    small, large = deltas(run), deltas(tmp_path / "out")
    for module, (rows, columns) in places_of("llama", half("llama")).items():
        found = large[module][rows][:, columns]
        torch.testing.assert_close(found, small[module], rtol=1e-12, atol=1e-14)


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "structured"}, "structured pruning takes a ratio and no pattern"),
        (
            {"kind": "semi", "ratio": 0.5},
            "semi pruning takes a pattern and no ratio, got ratio 0.5",
        ),
        ({"kind": "unstructured", "ratio": 0.5, "pattern": "2:4"}, "takes a ratio and no pattern"),
        ({"kind": "structured", "ratio": 0.5, "layers": [0]}, "one width; leave layers away"),
        ({"kind": "unstructured", "ratio": 1.0}, "ratio: .*less than 1"),
        (
            {"kind": "unstructured", "ratio": 0.5, "layers": [2]},
            "expected some of the layers 0 to 1",
        ),
        ({"kind": "semi", "pattern": "5:4"}, "cannot keep 5 of 4 weights"),
        ({"kind": "semi", "pattern": "half"}, "pattern: .*got 'half'"),
        ({"kind": "semi", "pattern": "2:7"}, "takes 32 values, which 7 does not divide"),
        ({"kind": "randomly", "ratio": 0.5}, "kind: .*got 'randomly'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: Any, message: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        prune(str(tiny_folder("bert")), tmp_path / "p", **settings)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists; choose another folder"):
        prune(str(tiny_folder("bert")), tmp_path, kind="semi")


def test_a_llama_keeps_as_many_heads_as_its_config_allows() -> None:
    config = transformers.LlamaConfig(hidden_size=32, num_attention_heads=8, num_key_value_heads=8)
    units = {"neurons": 64, "heads": 8}
    # 8 - 3 = 5 heads do not divide 32, nor do 6 or 7.
    assert counts_kept(config, units, 0.4) == {"neurons": 38, "heads": 8}
    (note,) = notes_on(config, units, 0.4)
    assert note.startswith("8 of 8 groups of attention heads are kept, not 5")
    assert counts_kept(config, units, 0.75) == {"neurons": 16, "heads": 2}
    assert counts_kept(config, units, 0.99) == {"neurons": 1, "heads": 1}
    mistral = transformers.MistralConfig(
        hidden_size=32, num_attention_heads=8, num_key_value_heads=8
    )
    assert counts_kept(mistral, units, 0.4) == {"neurons": 38, "heads": 5}


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3"])
def test_the_llama_family_loses_heads_with_their_norms_and_biases(
    model_type: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        head_dim=8,
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_folder("llama")).save_pretrained(tmp_path / "base")
    prune(str(tmp_path / "base"), tmp_path / "p", kind="structured", ratio=0.5)
    full, small = (load_base(str(tmp_path / one)).trunk.state_dict() for one in ("base", "p"))
    (unit,) = read_pruning(tmp_path / "p").kept["heads"][0]
    for module, (rows, columns) in heads(0, [unit]).items():
        assert torch.equal(small[f"{module}.weight"], full[f"{module}.weight"][rows][:, columns])
        if f"{module}.bias" in full:
            assert torch.equal(small[f"{module}.bias"], full[f"{module}.bias"][rows])
    assert load_base(str(tmp_path / "p")).trunk(ids()).last_hidden_state.shape == (4, 7, 32)
