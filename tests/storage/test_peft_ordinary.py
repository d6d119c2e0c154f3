"""PEFT folders as users have them: what is adapted or saved beside the maps of the layers.

The oracle is PEFT 0.21.2 on the same tiny base: the logits of the folder it saved, and of what weft made of it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from weft.lowrank.peft.writing import CONFIG, WEIGHTS
from weft.storage.experts import load_expert
from weft.storage.importing import import_expert
from weft.storage.loading import load_run_model

pytestmark = [
    # PEFT itself asks for a property that transformers has renamed,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    # and remarks on tied weights, on what it saves with them and on biases.
    pytest.mark.filterwarnings("ignore:Model .*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tied.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'. .* LoRA tensor.s. have invalid shape"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]

LABELS = {"sequence_classification": ["no", "yes"], "token_classification": ["O", "B-a", "I-a"]}
TYPES = {
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "span_extraction": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
}
SEQ, TOK, LM, MASKED = (
    "sequence_classification",
    "token_classification",
    "causal_lm",
    "masked_lm",
)


@pytest.fixture
def compared(lab: Any, tmp_path: Path) -> Callable[..., Path]:
    """A function that trains with PEFT, imports, compares whole logits, and returns the run folder."""

    # Rows 29, 14, ... of trained tokens occur in what `lab` asks.
    def compare(folder: Path, kind: str, config: Any, prepare: Any = None) -> Path:
        model = lab.task_class(folder, kind, len(LABELS.get(kind, ())))
        opened = get_peft_model(model, config)
        lab.shake(value for value in opened.parameters() if value.requires_grad)
        opened.save_pretrained(tmp_path / "theirs")
        if prepare is not None:
            prepare(tmp_path / "theirs")
        said = {"kind": kind} | ({"labels": LABELS[kind]} if kind in LABELS else {})
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(said))
        out = import_expert(
            tmp_path / "theirs",
            tmp_path / "run",
            base=str(folder),
            task=str(tmp_path / "mine.yaml"),
        )
        loaded = load_run_model(out, device="cpu")
        base = loaded.model.base
        ours = lab.answer(base, loaded.model.expert(loaded.name), loaded.model)
        for source in (tmp_path / "theirs", out / "expert"):
            if not (source / CONFIG).is_file():
                continue
            fresh = lab.task_class(folder, kind, len(LABELS.get(kind, ())))
            theirs = lab.transformers_answer(PeftModel.from_pretrained(fresh, source), base, kind)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        bare = lab.transformers_answer(
            lab.task_class(folder, kind, len(LABELS.get(kind, ()))), base, kind
        )
        assert not torch.allclose(ours, bare, atol=1e-2)
        # Once more through weft's own folder.
        again, _ = load_expert(out / "expert", base, name="again")
        assert torch.equal(lab.answer(base, again), ours)
        return out

    return compare


@pytest.fixture
def untied(lab: Any, tmp_path: Path) -> Callable[[str], Path]:
    """A function that makes a base whose head is not its embedding."""

    def make(model_type: str) -> Path:
        source = lab.tiny_folder(model_type)
        kind = LM if model_type in ("llama", "gpt2") else MASKED
        model = lab.task_class(source, kind)
        output = model.get_output_embeddings()
        output.weight = torch.nn.Parameter(output.weight.detach().clone() + 0.05)
        if output.bias is not None:
            output.bias = torch.nn.Parameter(output.bias.detach().clone())
        model.config.tie_word_embeddings = False
        model.save_pretrained(tmp_path / "untied")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "untied" / name).write_bytes((source / name).read_bytes())
        return tmp_path / "untied"

    return make


def lora(kind: str, **settings: Any) -> LoraConfig:
    return LoraConfig(task_type=TYPES.get(kind), r=3, lora_alpha=5, **settings)


@pytest.mark.parametrize(
    ("model_type", "kind", "settings"),
    [
        # Heads and poolers that are adapted.
        ("bert", SEQ, {"target_modules": "all-linear"}),
        ("bert", SEQ, {"target_modules": ["dense"], "use_rslora": True}),
        ("bert", SEQ, {"target_modules": ["dense"], "use_dora": True}),
        ("bert", SEQ, {"target_modules": ["pooler.dense"]}),
        (
            "bert",
            "multiple_choice",
            {"target_modules": "all-linear", "modules_to_save": ["classifier"]},
        ),
        ("bert", MASKED, {"target_modules": "all-linear"}),
        ("roberta", MASKED, {"target_modules": ["query", "lm_head.dense"]}),
        ("roberta", SEQ, {"target_modules": ["query", "value"]}),
        ("distilbert", MASKED, {"target_modules": ["q_lin", "vocab_transform", "vocab_projector"]}),
        ("modernbert", MASKED, {"target_modules": ["Wqkv", "dense", "decoder"]}),
        ("llama", LM, {"target_modules": ["q_proj", "lm_head"]}),
        ("gpt2", LM, {"target_modules": ["lm_head"]}),
        # Saved whole.
        ("bert", SEQ, {"target_modules": ["query"], "modules_to_save": ["pooler"]}),
        ("bert", MASKED, {"target_modules": ["query"], "modules_to_save": ["cls"]}),
        ("bert", MASKED, {"target_modules": ["query"], "modules_to_save": ["transform"]}),
        ("bert", TOK, {"target_modules": ["query"], "modules_to_save": ["bert.embeddings"]}),
        ("roberta", MASKED, {"target_modules": ["query"], "modules_to_save": ["lm_head"]}),
        ("distilbert", SEQ, {"target_modules": ["q_lin"], "modules_to_save": ["pre_classifier"]}),
        (
            "distilbert",
            MASKED,
            {"target_modules": ["q_lin"], "modules_to_save": ["vocab_projector"]},
        ),
        ("modernbert", SEQ, {"target_modules": ["Wqkv"], "modules_to_save": ["head"]}),
        (
            "modernbert",
            MASKED,
            {"target_modules": ["Wqkv"], "modules_to_save": ["head", "decoder"]},
        ),
        (
            "llama",
            LM,
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        ),
        ("llama", LM, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama", LM, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
        ("llama", TOK, {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
        ("gpt2", LM, {"target_modules": ["c_attn"], "modules_to_save": ["lm_head", "wte"]}),
        ("gpt2", LM, {"target_modules": ["c_attn"], "modules_to_save": ["ln_f"]}),
        # Embeddings.
        ("llama", LM, {"target_modules": ["q_proj", "embed_tokens"]}),
        ("llama", LM, {"target_modules": ["embed_tokens", "lm_head"]}),
        ("bert", TOK, {"target_modules": ["query", "word_embeddings"]}),
        ("llama", LM, {"target_modules": ["q_proj"], "trainable_token_indices": [29, 59, 83]}),
        ("gpt2", LM, {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [13, 29]}}),
        (
            "bert",
            TOK,
            {"target_modules": ["query"], "trainable_token_indices": {"word_embeddings": [71, 29]}},
        ),
        # Biases.
        ("bert", SEQ, {"target_modules": ["query"], "bias": "lora_only"}),
        ("bert", SEQ, {"target_modules": ["query", "value"], "bias": "all"}),
        ("gpt2", LM, {"target_modules": ["c_attn"], "bias": "all"}),
        ("gpt2", LM, {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only"}),
        ("roberta", TOK, {"target_modules": ["query"], "lora_bias": True}),
        ("bert", SEQ, {"target_modules": ["dense"], "lora_bias": True}),
        # Starts that change the base.
        ("bert", SEQ, {"target_modules": ["query", "value"], "init_lora_weights": "pissa"}),
        ("gpt2", LM, {"target_modules": ["c_attn"], "init_lora_weights": "pissa"}),
        ("llama", LM, {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "olora"}),
        ("bert", TOK, {"target_modules": ["query"], "init_lora_weights": "orthogonal", "r": 4}),
    ],
)
def test_what_peft_trains_beside_the_layers_maps_answers_the_same(
    compared: Callable[..., Path], lab: Any, model_type: str, kind: str, settings: dict[str, Any]
) -> None:
    turned = {"fan_in_fan_out": True} if model_type == "gpt2" else {}
    config = LoraConfig(
        task_type=TYPES.get(kind), **({"r": 3, "lora_alpha": 5} | turned | settings)
    )
    compared(lab.tiny_folder(model_type), kind, config)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert", "modernbert"])
@pytest.mark.parametrize("way", ["saved", "adapted", "rows"])
def test_a_head_that_is_not_the_embedding_answers_the_same(
    compared: Callable[..., Path], untied: Callable[[str], Path], model_type: str, way: str
) -> None:
    names = {
        "llama": ("q_proj", "embed_tokens", "lm_head"),
        "gpt2": ("c_attn", "wte", "lm_head"),
        "bert": ("query", "word_embeddings", "decoder"),
        "modernbert": ("Wqkv", "tok_embeddings", "decoder"),
    }
    target, embedding, output = names[model_type]
    kind = LM if model_type in ("llama", "gpt2") else MASKED
    settings: dict[str, Any] = {
        "saved": {"target_modules": [target], "modules_to_save": [embedding, output]},
        "adapted": {"target_modules": [target, embedding, output]},
        "rows": {"target_modules": [target], "trainable_token_indices": {embedding: [29, 14]}},
    }[way]
    turned = {"fan_in_fan_out": True} if model_type == "gpt2" else {}
    compared(untied(model_type), kind, lora(kind, **turned, **settings))


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (
            AdaLoraConfig,
            {"init_r": 5, "target_r": 2, "lora_alpha": 7, "target_modules": ["query", "dense"]},
        ),
        (AdaLoraConfig, {"init_r": 4, "lora_alpha": -1, "target_modules": ["value"]}),
        (LoHaConfig, {"r": 3, "alpha": 5, "target_modules": ["query", "dense"]}),
        (
            LoHaConfig,
            {
                "r": 8,
                "target_modules": ["query"],
                "rank_pattern": {"layer.1.attention.self.query": 2},
            },
        ),
        (VeraConfig, {"r": 6, "target_modules": ["query", "intermediate.dense"]}),
        (
            VeraConfig,
            {
                "r": 6,
                "target_modules": ["query"],
                "save_projection": False,
                "projection_prng_key": 3,
            },
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Specified to not save vera_A:UserWarning")
@pytest.mark.filterwarnings("ignore:Specified to not load vera_A:UserWarning")
def test_other_low_rank_types_answer_the_same(
    compared: Callable[..., Path], lab: Any, make: Any, settings: dict[str, Any]
) -> None:
    steps = {"total_step": 10} if make is AdaLoraConfig else {}
    compared(lab.tiny_folder("bert"), SEQ, make(task_type="SEQ_CLS", **steps, **settings))


def test_ranks_that_adalora_pruned_are_left_out(compared: Callable[..., Path], lab: Any) -> None:
    def prune(folder: Path) -> None:
        path = folder / WEIGHTS
        tensors, pattern = load_file(path), {}
        for name in [name for name in tensors if name.endswith("lora_E")]:
            kept = [True, False, True, False] if "layer.0" in name else [False] * 4
            pattern[name.removeprefix("base_model.model.")] = kept
            stem, mask = name.removesuffix("lora_E"), torch.tensor(kept)
            for side in ("E", "A"):
                tensors[f"{stem}lora_{side}"] = tensors[f"{stem}lora_{side}"][mask]
            tensors[f"{stem}lora_B"] = tensors[f"{stem}lora_B"][:, mask].contiguous()
        save_file(tensors, path, metadata={"format": "pt"})
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | {"rank_pattern": pattern}))

    config = AdaLoraConfig(
        task_type="SEQ_CLS", init_r=4, target_r=2, total_step=10, target_modules=["query"]
    )
    compared(lab.tiny_folder("bert"), SEQ, config, prune)


def test_adapter_files_of_torch_answer_the_same(compared: Callable[..., Path], lab: Any) -> None:
    def pickled(folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
        (folder / WEIGHTS).unlink()

    compared(lab.tiny_folder("bert"), SEQ, lora(SEQ, target_modules=["query"]), pickled)


def test_a_bias_is_stored_alone(compared: Callable[..., Path], lab: Any) -> None:
    config = lora(SEQ, target_modules=["query"], bias="all")
    out = compared(lab.tiny_folder("bert"), SEQ, config)
    said = json.loads((out / "expert" / CONFIG).read_text())
    assert (said["bias"], said["modules_to_save"]) == ("all", ["bert.pooler.dense", "classifier"])
    names = [name for name in load_file(out / "expert" / WEIGHTS) if "pooler" not in name]
    held = [
        name for name in names if not name.endswith((".bias", "lora_A.weight", "lora_B.weight"))
    ]
    assert held == ["base_model.model.classifier.weight"]


def imported(lab: Any, tmp_path: Path, model_type: str, kind: str) -> Path:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"kind": kind, "labels": LABELS.get(kind)}))
    return import_expert(
        tmp_path / "theirs",
        tmp_path / "run",
        base=str(lab.tiny_folder(model_type)),
        task=str(tmp_path / "mine.yaml"),
    )


@pytest.mark.parametrize(
    ("kind", "settings", "resize", "message"),
    [
        (
            LM,
            {},
            4,
            r"vocabulary was enlarged before training \(.*(embed_tokens|lm_head) has 4 rows more",
        ),
        (LM, {"modules_to_save": ["embed_tokens", "lm_head"]}, 4, "vocabulary was enlarged"),
        (
            LM,
            {"target_modules": ["q_proj", "embed_tokens"]},
            4,
            "vocabulary was enlarged|does not fit this base",
        ),
        (
            LM,
            {"modules_to_save": ["lm_head"]},
            -3,
            r"vocabulary was cut before training .* 3 rows less",
        ),
        (TOK, {"modules_to_save": ["embed_tokens"]}, 4, "vocabulary was enlarged"),
    ],
)
def test_another_vocabulary_is_said_to_be_one(
    lab: Any,
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
    resize: int,
    message: str,
) -> None:
    folder = lab.tiny_folder("llama")
    model = lab.task_class(folder, kind, len(LABELS.get(kind, ())))
    model.resize_token_embeddings(model.config.vocab_size + resize, mean_resizing=False)
    get_peft_model(
        model, lora(kind, **({"target_modules": ["q_proj"]} | settings))
    ).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match=message):
        imported(lab, tmp_path, "llama", kind)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "gone", "message"),
    [
        (
            {"modules_to_save": ["pooler"]},
            "pooler.dense.bias",
            "lacks bert.pooler.dense.bias, which modules_to_save",
        ),
        ({"bias": "all"}, "LayerNorm.bias", "lacks bert.*LayerNorm.bias, though bias is all"),
        (
            {"bias": "lora_only"},
            "query.base_layer.bias",
            "lacks bert.*query.bias, though bias is lora_only",
        ),
        (
            {"lora_bias": True},
            "lora_B.bias",
            "lacks lora_B.bias of bert.*query, but lora_bias is True",
        ),
        (
            {"target_modules": ["dense"]},
            "pooler.dense.lora_",
            "lacks lora_A and lora_B of bert.pooler.dense",
        ),
        (
            {"trainable_token_indices": {"word_embeddings": [7]}},
            "tokens_delta",
            "rows that trainable_token_indices",
        ),
    ],
)
def test_what_a_folder_should_hold_and_lacks_is_not_taken_from_the_base(
    lab: Any, tmp_path: Path, settings: dict[str, Any], gone: str, message: str
) -> None:
    model = lab.task_class(lab.tiny_folder("bert"), SEQ, 2)
    config = lora(SEQ, **({"target_modules": ["query"]} | settings))
    get_peft_model(model, config).save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / WEIGHTS
    left = {name: value for name, value in load_file(path).items() if gone not in name}
    save_file(left, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        imported(lab, tmp_path, "bert", SEQ)


def test_a_bias_where_the_base_has_none_is_refused(lab: Any, tmp_path: Path) -> None:
    model = lab.task_class(lab.tiny_folder("llama"), LM)
    config = lora(LM, target_modules=["q_proj"], lora_bias=True)
    with pytest.warns(UserWarning, match="has no bias"):
        opened = get_peft_model(model, config)
    opened.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match=r"lora_bias trained a bias of .*q_proj, which has none"):
        imported(lab, tmp_path, "llama", LM)


def test_a_changed_weight_that_nobody_has_is_refused(lab: Any, tmp_path: Path) -> None:
    model = lab.task_class(lab.tiny_folder("bert"), SEQ, 2)
    config = LoraConfig(r=3, target_modules=["query", "classifier"])
    get_peft_model(model, config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(
        ValueError, match=r"changes classifier.weight, which neither the folder nor"
    ):
        imported(lab, tmp_path, "bert", SEQ)


def test_a_type_that_is_no_low_rank_sum_is_refused_by_name(lab: Any, tmp_path: Path) -> None:
    model = lab.task_class(lab.tiny_folder("bert"), SEQ, 2)
    config = IA3Config(task_type="SEQ_CLS", target_modules=["query"], feedforward_modules=[])
    get_peft_model(model, config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(
        ValueError, match="peft_type is 'IA3'; weft reads LORA, ADALORA, LOHA, VERA"
    ):
        imported(lab, tmp_path, "bert", SEQ)
