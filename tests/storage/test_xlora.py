"""X-LoRA beside PEFT: the same folders, the same gates, the same answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel, XLoraConfig
from safetensors.torch import load_file

from tests.storage.xlora_runs import (
    DTYPES,
    TARGETS,
    Held,
    asked,
    assert_same,
    causal_lm,
    complete,
    head_of,
    mixed_run,
    ours,
    peft_xlora,
    theirs,
)
from weft.base.loading import Base, load_base
from weft.lowrank.peft.writing import CONFIG, WEIGHTS
from weft.methods.mixtures.xlora import Spec
from weft.storage.exporting import export
from weft.storage.importing import import_expert
from weft.storage.mixture import load_mixture, save_mixture
from weft.storage.xlora import import_xlora
from weft.storage.xlora_format import xlora_spec

pytestmark = [
    # PEFT itself asks for a property that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]
DEEP = {"depth": 2, "width": 8}


def llama(lab: Any, precision: str = "fp64") -> Base:
    return load_base(str(lab.tiny_folder("llama")), dtype=DTYPES[precision])


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, [0]),
        ({"layerwise": True, "temperature": 0.4}, [0]),
        ({"layerwise": True, "depth": 3, "width": 8, "head_dropout": 0.0}, [0, 2, 4]),
        ({"depth": 3, "width": 8, "top_k": 2, "global_weight": 1.7}, [0, 3, 6]),
        ({"softmax": False, "layerwise": True}, [0]),
        ({"softmax": False, "top_k": 1, **DEEP}, [0, 3]),
        # PEFT takes no temperature here: it is in the last map.
        ({"top_k": 2, "softmax_top_k": True, "temperature": 0.25, **DEEP}, [0, 3]),
        # PEFT's first pass multiplies by the weight, ours does not.
        ({"scaling_value": 0.5, "global_weight": 2.0, "layerwise": True}, [0]),
        ({"train_experts": True, "layerwise": True}, [0]),
        ({"standardise": True, "layerwise": True, **DEEP}, [0, 3]),
        ({"precision": "fp32", "layerwise": True, **DEEP}, [0, 3]),
    ],
    ids=str,
)
def test_peft_opens_an_export_and_answers_as_we_do(
    lab: Any, tmp_path: Path, settings: dict[str, Any], layers: list[int]
) -> None:
    run = mixed_run(lab, tmp_path, **settings)
    folder = export(run, tmp_path / "out", "peft")
    precision = settings.get("precision", "fp64")
    model = PeftModel.from_pretrained(causal_lm(lab.tiny_folder("llama"), precision), folder)
    assert_same(ours(run), theirs(model), 1e-5 if precision == "fp32" else 1e-10)
    below = "base_model.internal_xlora_classifier.layers."
    wanted = {f"{below}{at}.{part}" for at in layers for part in ("weight", "bias")}
    assert load_file(folder / WEIGHTS).keys() == wanted


def test_peft_opens_an_export_of_gpt2_inside_a_module_that_calls_it_model(
    lab: Any, tmp_path: Path
) -> None:
    run = mixed_run(lab, tmp_path, "gpt2", layerwise=True, top_k=2, **DEEP)
    folder = export(run, tmp_path / "out", "peft")
    held: Any = Held(causal_lm(lab.tiny_folder("gpt2")))
    model = PeftModel(held, XLoraConfig.from_pretrained(str(folder)))
    model.load_adapter(str(folder), "default")
    assert_same(ours(run), theirs(model, "transformer"))


@pytest.mark.parametrize("settings", [{"layerwise": True, **DEEP}, {"train_experts": True}])
def test_an_export_comes_back_wherever_it_lies(
    lab: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    run = mixed_run(lab, tmp_path, precision="fp32", **settings)
    export(run, tmp_path / "out", "peft").rename(tmp_path / "moved")
    base = llama(lab, "fp32")
    own = head_of(lab, base)
    found = import_xlora(tmp_path / "moved", base, own, tmp_path / "drafts")
    assert found.mix.mixture.experts == tuple(TARGETS)
    assert_same(asked(found.mix, base, own[0].head), ours(run), 1e-6)
    task = tmp_path / "mine.yaml"
    task.write_text("kind: causal_lm\n")
    import_expert(tmp_path / "moved", tmp_path / "back", base=base.source, task=str(task))
    assert_same(ours(tmp_path / "back"), ours(run), 1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"count": 11, "layerwise_scalings": True, "xlora_depth": 2},
        {"top_k_lora": 1, "enable_softmax": False, "enable_softmax_topk": True},
        {"enable_softmax": False, "enable_softmax_topk": True, "softmax_temperature": 0.2},
        {"scaling_pass_value": 0.5, "global_scaling_weight": 3.0, "layerwise_scalings": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:`enable_softmax_topk` enabled:UserWarning")
def test_what_peft_trained_answers_as_it_did_there(
    lab: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    model, folder = peft_xlora(lab, tmp_path, **settings)
    complete(model, folder)
    base = llama(lab)
    own = head_of(lab, base)
    found = import_xlora(folder, base, own, tmp_path / "drafts")
    assert_same(asked(found.mix, base, own[0].head), theirs(model))
    save_mixture(
        tmp_path / "saved",
        found.mix,
        base,
        settings=found.settings,
        ingredients=found.ingredients,
        heads={"mine": own},
    )
    again, _, _ = load_mixture(tmp_path / "saved", base)
    assert_same(asked(again, base, own[0].head), theirs(model))


@pytest.mark.parametrize(("depth", "lost"), [(1, [0]), (3, [0])])
def test_a_folder_of_pefts_writer_is_refused_with_what_it_lacks(
    lab: Any, tmp_path: Path, depth: int, lost: list[int]
) -> None:
    _, folder = peft_xlora(lab, tmp_path, xlora_depth=depth)
    base = llama(lab)
    with pytest.raises(ValueError, match="tensors of the gate") as error:
        import_xlora(folder, base, head_of(lab, base), tmp_path / "drafts")
    below = "base_model.internal_xlora_classifier.layers."
    named = ", ".join(f"{below}{at}.{part}" for at in lost for part in ("weight", "bias"))
    assert f"lacks {named}:" in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"enable_softmax_topk": True, "top_k_lora": 1}, "a softmax of a softmax"),
        ({"top_k_lora": 1, "scaling_pass_value": 0.5}, "only 0 can be read"),
        ({"new_setting": 3}, "does not know the setting new_setting"),
        ({"hidden_size": 64}, "hidden_size is 64, but that of .* is 32"),
        ({"adapters": {"0": "gone", "1": "gone"}}, "expert 0 is gone, which is no folder"),
        ({"adapters": {}}, "names no expert"),
        ({"use_trainable_adapters": True}, "is expert 0 as it was before"),
        (
            {"layerwise_scalings": True},
            r"is \(2, 32\), expected \(8, 32\) with 2 experts on 4 maps",
        ),
        ({"top_k_lora": 3}, "top_k 3 is more than the 2 experts"),
        ({"peft_type": "LORA"}, "no adapter_config.json of peft_type XLORA"),
    ],
    ids=str,
)
def test_what_would_answer_otherwise_is_refused(
    lab: Any, tmp_path: Path, values: Mapping[str, Any], message: str
) -> None:
    model, folder = peft_xlora(lab, tmp_path)
    complete(model, folder)
    # What PEFT itself saves of the experts is no expert.
    for own in folder.glob("*/" + CONFIG):
        own.unlink()
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))
    base = llama(lab)
    with pytest.raises(ValueError, match=message):
        import_xlora(folder, base, head_of(lab, base), tmp_path / "drafts")


def test_defaults_are_pefts() -> None:
    config = XLoraConfig(hidden_size=32, adapters={"0": "here"}).to_dict()
    assert xlora_spec(config, Path(CONFIG)) == Spec() == xlora_spec({}, Path(CONFIG))


@pytest.mark.parametrize(
    ("made", "to", "message"),
    [
        ({"model_type": "bert", "kind": "token_classification"}, "peft", "on no encoder"),
        ({"kind": "token_classification"}, "peft", "task mine has a head of its own"),
        ({"top_k": 2, "scaling_value": 0.5}, "peft", "PEFT keeps top_k experts"),
        ({"infer_top_k": 1}, "peft", "infer_top_k 1: in PEFT training and inference"),
        ({}, "merged", "it has no merged form"),
    ],
    ids=str,
)
def test_what_has_no_form_in_peft_is_not_exported(
    lab: Any, tmp_path: Path, made: dict[str, Any], to: Any, message: str
) -> None:
    run = mixed_run(lab, tmp_path, **made)
    with pytest.raises(ValueError, match=message):
        export(run, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_an_import_needs_a_task_whose_head_the_base_has(lab: Any, tmp_path: Path) -> None:
    folder = export(mixed_run(lab, tmp_path), tmp_path / "out", "peft")
    base = llama(lab)
    own = head_of(lab, base, "sequence_classification", ("no", "yes"))
    with pytest.raises(ValueError, match="is sequence_classification, but an X-LoRA of PEFT"):
        import_xlora(folder, base, own, tmp_path / "drafts")


def test_an_export_names_its_experts_in_the_order_of_the_gates(lab: Any, tmp_path: Path) -> None:
    folder = export(mixed_run(lab, tmp_path), tmp_path / "out", "peft")
    places = json.loads((folder / CONFIG).read_text())["adapters"]
    assert list(places.items()) == [(str(at), str(folder / str(at))) for at in range(3)]
    cards = [json.loads((folder / str(at) / "weft.json").read_text()) for at in range(3)]
    assert [card["task"]["name"] for card in cards] == list(TARGETS)
