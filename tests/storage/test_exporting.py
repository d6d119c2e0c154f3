"""Experts to and from other tools."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from tests.storage.conftest import LABELS
from weft.lowrank.peft.writing import CONFIG, WEIGHTS
from weft.runs import RunFolder
from weft.storage.card import CARD
from weft.storage.experts import load_full
from weft.storage.exporting import export
from weft.storage.importing import import_expert
from weft.storage.loading import load_run_model

pytestmark = [
    # PEFT itself asks for a property that transformers has renamed,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    # and remarks on merging where a trained module is tied to another.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]


@pytest.mark.parametrize(
    "case",
    [
        ("bert", "multiple_choice", {}),
        ("distilbert", "token_classification", {"train_also": ["norms"]}),
        ("roberta", "span_extraction", {"name": "rslora"}),
        ("modernbert", "masked_lm", {"train_also": ["embeddings"]}),
        ("gpt2", "sequence_classification", {}),
        ("llama", "causal_lm", {}),
        ("bert", "sequence_classification", {"name": "head"}),
        ("bert", "sequence_classification", {"name": "full"}),
    ],
)
def test_a_merged_export_answers_as_the_expert(
    lab: Any,
    tmp_path: Path,
    run_folder: Callable[..., Any],
    case: tuple[str, str, dict[str, Any]],
) -> None:
    model_type, kind, recipe = case
    made, run = run_folder(model_type, kind, **recipe)
    assert export(run, tmp_path / "out", "merged") == tmp_path / "out"
    theirs = lab.transformers_answer(lab.task_class(tmp_path / "out", kind), made.base, kind)
    ours = lab.answer(made.base, made.expert)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    labels = json.loads((tmp_path / "out" / "config.json").read_text()).get("id2label", {})
    assert tuple(labels.values())[: len(made.card.labels)] == made.card.labels


def test_a_peft_export_is_the_experts_folder(
    tmp_path: Path, run_folder: Callable[..., Any]
) -> None:
    _, run = run_folder("bert", "token_classification")
    export(run, tmp_path / "out", "peft")
    for name in (CONFIG, WEIGHTS, CARD):
        assert (tmp_path / "out" / name).read_bytes() == (run / "expert" / name).read_bytes()


@pytest.mark.parametrize(("name", "what"), [("head", "a head alone"), ("full", "every weight")])
def test_what_peft_cannot_hold_is_not_exported_to_it(
    tmp_path: Path, run_folder: Callable[..., Any], name: str, what: str
) -> None:
    _, run = run_folder("bert", "token_classification", name=name)
    with pytest.raises(ValueError, match=f"trained {what}, .* export it to merged"):
        export(run, tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(
    lab: Any, tmp_path: Path, run_folder: Callable[..., Any], task: Callable[..., str]
) -> None:
    made, run = run_folder("bert", "token_classification")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out exists; choose another folder"):
        export(run, tmp_path / "out", "peft")
    with pytest.raises(ValueError, match="out exists"):
        import_expert(
            run / "expert",
            tmp_path / "out",
            base=made.base.source,
            task=task("token_classification"),
        )
    with pytest.raises(ValueError, match="is no run folder"):
        export(tmp_path / "out", tmp_path / "new", "peft")


def trained_by_peft(
    lab: Any, folder: Path, model_type: str, kind: str, *, model: Any = None, **settings: Any
) -> None:
    """Save an adapter that PEFT made and moved."""
    model = model or lab.task_class(lab.tiny_folder(model_type), kind, len(LABELS.get(kind, ())))
    opened = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 6} | settings)))
    lab.shake(value for value in opened.parameters() if value.requires_grad)
    opened.save_pretrained(folder)


@pytest.mark.parametrize(
    "case",
    [
        ("bert", "sequence_classification", {"task_type": "SEQ_CLS"}),
        ("bert", "sequence_classification", {"task_type": "SEQ_CLS", "use_rslora": True}),
        ("bert", "token_classification", {"task_type": "TOKEN_CLS", "use_dora": True}),
        (
            "gpt2",
            "causal_lm",
            {"use_dora": True, "fan_in_fan_out": True, "target_modules": ["c_attn"]},
        ),
        (
            "bert",
            "token_classification",
            {
                "task_type": "TOKEN_CLS",
                "rank_pattern": {"layer.1.attention.self.query": 2, "value": 1},
                "alpha_pattern": {"value": 3, r"layer\.0\..*": 5},
            },
        ),
        (
            "bert",
            "span_extraction",
            {"task_type": "QUESTION_ANS", "rank_pattern": {"query": 7}, "use_rslora": True},
        ),
        ("bert", "multiple_choice", {"modules_to_save": ["classifier"]}),
        ("bert", "multiple_choice", {"modules_to_save": ["classifier", "pooler"]}),
        (
            "bert",
            "token_classification",
            {"task_type": "TOKEN_CLS", "modules_to_save": ["word_embeddings", "LayerNorm"]},
        ),
        ("bert", "token_classification", {"task_type": "TOKEN_CLS", "layers_to_transform": [1]}),
        (
            "distilbert",
            "sequence_classification",
            {"task_type": "SEQ_CLS", "target_modules": ["q_lin"]},
        ),
        (
            "roberta",
            "sequence_classification",
            {"task_type": "SEQ_CLS", "target_modules": r".*(key|intermediate\.dense)"},
        ),
        (
            "modernbert",
            "token_classification",
            {"task_type": "TOKEN_CLS", "target_modules": ["Wqkv"]},
        ),
        ("modernbert", "masked_lm", {"target_modules": ["Wo", "Wi"]}),
        (
            "gpt2",
            "sequence_classification",
            {
                "task_type": "SEQ_CLS",
                "target_modules": ["c_attn", "c_proj"],
                "fan_in_fan_out": True,
            },
        ),
        ("llama", "causal_lm", {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}),
        (
            "llama",
            "token_classification",
            {"task_type": "TOKEN_CLS", "init_lora_weights": "gaussian"},
        ),
    ],
)
def test_a_folder_of_peft_answers_the_same_in_weft(
    lab: Any,
    tmp_path: Path,
    task: Callable[..., str],
    case: tuple[str, str, dict[str, Any]],
) -> None:
    model_type, kind, settings = case
    trained_by_peft(lab, tmp_path / "theirs", model_type, kind, **settings)
    base = str(lab.tiny_folder(model_type))
    out = import_expert(tmp_path / "theirs", tmp_path / "run", base=base, task=task(kind))
    loaded = load_run_model(out, device="cpu")
    ours = lab.answer(loaded.model.base, loaded.model.expert(loaded.name), loaded.model)
    # PEFT opens its own folder, and what weft made of it.
    for folder in (tmp_path / "theirs", out / "expert"):
        model = lab.task_class(lab.tiny_folder(model_type), kind, len(LABELS.get(kind, ())))
        opened = PeftModel.from_pretrained(model, folder)
        theirs = lab.transformers_answer(opened, loaded.model.base, kind)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_a_trunk_alone_serves_a_pretrained_head(
    lab: Any, tmp_path: Path, task: Callable[..., str]
) -> None:
    folder = lab.tiny_folder("llama")
    trained_by_peft(lab, tmp_path / "theirs", "llama", "", model=AutoModel.from_pretrained(folder))
    import_expert(tmp_path / "theirs", tmp_path / "run", base=str(folder), task=task("causal_lm"))
    loaded = load_run_model(tmp_path / "run", device="cpu")
    ours = lab.answer(loaded.model.base, loaded.model.expert(loaded.name), loaded.model)
    theirs = lab.task_class(folder, "causal_lm")
    theirs.model = PeftModel.from_pretrained(theirs.model, tmp_path / "theirs")
    found = lab.transformers_answer(theirs, loaded.model.base, "causal_lm")
    torch.testing.assert_close(ours, found, rtol=1e-5, atol=1e-5)


def test_half_precision_tensors_are_taken_at_their_value(
    lab: Any, tmp_path: Path, task: Callable[..., str]
) -> None:
    trained_by_peft(lab, tmp_path / "theirs", "bert", "token_classification", task_type="TOKEN_CLS")
    path = tmp_path / "theirs" / WEIGHTS
    halves = {name: value.bfloat16() for name, value in load_file(path).items()}
    save_file(halves, path, metadata={"format": "pt"})
    base = str(lab.tiny_folder("bert"))
    import_expert(tmp_path / "theirs", tmp_path / "a", base=base, task=task("token_classification"))
    save_file({k: v.float() for k, v in halves.items()}, path, metadata={"format": "pt"})
    import_expert(tmp_path / "theirs", tmp_path / "b", base=base, task=task("token_classification"))
    one, other = ((tmp_path / n / "expert" / WEIGHTS).read_bytes() for n in "ab")
    assert one == other


def test_an_imported_folder_is_a_run_folder(
    lab: Any, tmp_path: Path, task: Callable[..., str]
) -> None:
    trained_by_peft(
        lab, tmp_path / "theirs", "bert", "sequence_classification", task_type="SEQ_CLS"
    )
    base = str(lab.tiny_folder("bert"))
    path = task("sequence_classification")
    import_expert(tmp_path / "theirs", tmp_path / "run", base=base, task=path, data=tmp_path)
    run = RunFolder.open(tmp_path / "run")
    assert (run.run.base, run.run.task.name, run.run.task.data) == (base, path, str(tmp_path))
    assert run.run.recipe.name == "lora"
    assert run.run.recipe.model_extra["rank"] == 4
    card = load_run_model(run.path, device="cpu").card
    assert card.labels == ("no", "yes")
    assert card.task["name"] == "mine"
    assert sorted(path.name for path in run.path.iterdir()) == ["expert", "run.yaml"]
    files = {path.name for path in run.expert.iterdir()}
    assert files - {"tokenizer.json", "tokenizer_config.json"} == {
        CONFIG,
        WEIGHTS,
        CARD,
        "config.json",
        "model.safetensors.index.json",
    }


SEQ = {"task_type": "SEQ_CLS"}


@pytest.mark.parametrize(
    "case",
    [
        (
            "token_classification",
            {"task_type": "TOKEN_CLS"},
            "sequence_classification",
            "bert",
            ["a", "b", "c"],
            "task_type is TOKEN_CLS, but a sequence_classification expert was expected",
        ),
        (
            "sequence_classification",
            SEQ,
            "sequence_classification",
            "bert",
            None,
            "does not name its classes; list them in the head's order",
        ),
        (
            "sequence_classification",
            SEQ,
            "sequence_classification",
            "bert",
            ["a", "b", "c"],
            r"classifier.\w+ is \(2,.*\), but this base's is \(3,.*\); .* another number of labels",
        ),
        (
            "sequence_classification",
            SEQ,
            "sequence_classification",
            "distilbert",
            ["a", "b"],
            "is no linear map of this base's trunk",
        ),
        (
            "sequence_classification",
            SEQ,
            "sequence_classification",
            "roberta",
            ["a", "b"],
            "calls its trunk 'bert', this base's class for the task says 'roberta'",
        ),
        (
            "sequence_classification",
            SEQ | {"init_lora_weights": "pissa_niter_2"},
            "sequence_classification",
            "bert",
            ["a", "b"],
            "init_lora_weights 'pissa_niter_2' changed the base's weights before training",
        ),
        (
            "multiple_choice",
            {},
            "multiple_choice",
            "bert",
            None,
            "a multiple_choice head of this base has the tensors",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    lab: Any,
    tmp_path: Path,
    task: Callable[..., str],
    case: tuple[str, dict[str, Any], str, str, list[str] | None, str],
) -> None:
    kind, settings, into, base, labels, message = case
    trained_by_peft(lab, tmp_path / "theirs", "bert", kind, **settings)
    said = task(into, labels=labels)
    with pytest.raises(ValueError, match=message):
        import_expert(
            tmp_path / "theirs", tmp_path / "run", base=str(lab.tiny_folder(base)), task=said
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "theirs"]


def test_an_exported_whole_model_comes_back(
    lab: Any, tmp_path: Path, run_folder: Callable[..., Any]
) -> None:
    made, run = run_folder("gpt2", "token_classification", name="full")
    export(run, tmp_path / "out", "merged")
    shutil.rmtree(run)
    model, expert, _ = load_full(tmp_path / "out")
    found = lab.answer(model.base, expert, model)
    torch.testing.assert_close(found, lab.answer(made.base, made.expert), rtol=1e-5, atol=1e-5)
