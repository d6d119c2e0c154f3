"""PEFT's format, both ways: tensors and settings, without any model."""

import json
import math
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.lowrank.peft.config import is_targeted, value_for
from weft.lowrank.peft.reading import read_peft
from weft.lowrank.peft.writing import CONFIG, WEIGHTS, PeftFolder, write_peft

QUERY = "encoder.layer.{}.attention.self.query"
OUTPUT = "encoder.layer.{}.output.dense"
MAPS = {
    name.format(n): shape
    for n in (0, 1, 11)
    for name, shape in ((QUERY, (6, 6)), (OUTPUT, (6, 10)))
}
ROOT = "base_model.model."


def random_factors(ranks: Mapping[str, int], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        name: (
            torch.randn(rank, MAPS[name][1]).to(dtype),
            torch.randn(MAPS[name][0], rank).to(dtype),
        )
        for name, rank in ranks.items()
    }


def content(**changes: Any) -> PeftFolder:
    ranks = changes.pop("ranks", dict.fromkeys(MAPS, 2))
    values: dict[str, Any] = {
        "factors": random_factors(ranks),
        "alphas": dict.fromkeys(ranks, 4.0),
        "extra": {"classifier.weight": torch.ones(3, 6), "classifier.bias": torch.zeros(3)},
        "prefix": "bert",
    }
    return PeftFolder(**(values | changes))


def write(folder: Path, what: PeftFolder, **settings: Any) -> None:
    folder.mkdir(exist_ok=True)
    write_peft(folder, what, **({"base_name": "org/base", "task_type": "SEQ_CLS"} | settings))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_equal(found: PeftFolder, expected: PeftFolder) -> None:
    for side in (0, 1):
        one = {name: pair[side] for name, pair in found.factors.items()}
        assert same(one, {name: pair[side] for name, pair in expected.factors.items()})
    assert found.alphas == expected.alphas
    assert found.prefix == expected.prefix
    assert same(found.extra, expected.extra)


@pytest.mark.parametrize("prefix", ["bert", "model", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_written_is_read(tmp_path: Path, prefix: str, dtype: torch.dtype) -> None:
    extra = {"classifier.weight": torch.ones(3, 6, dtype=dtype)} if prefix else {}
    factors = random_factors(dict.fromkeys(MAPS, 2), dtype)
    expected = content(prefix=prefix, extra=extra, factors=factors)
    write(tmp_path, expected)
    assert_equal(read_peft(tmp_path, MAPS), expected)


def test_ranks_and_alphas_may_differ_by_module(tmp_path: Path) -> None:
    ranks = dict(zip(MAPS, (2, 2, 3, 1, 2, 5), strict=True))
    alphas = dict(zip(MAPS, (4.0, 0.1, 4.0, 7.5, 4.0, 1 / 3), strict=True))
    expected = content(ranks=ranks, alphas=alphas)
    write(tmp_path, expected)
    assert_equal(read_peft(tmp_path, MAPS), expected)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 4)
    below = {f"bert.{name}": name for name in MAPS}
    # As PEFT itself resolves them.
    for name, own in below.items():
        key = get_pattern_key(config["rank_pattern"], name)
        assert config["rank_pattern"].get(key, config["r"]) == ranks[own]
        key = get_pattern_key(config["alpha_pattern"], name)
        assert config["alpha_pattern"].get(key, config["lora_alpha"]) == alphas[own]


def test_three_cycles_change_no_byte(tmp_path: Path) -> None:
    ranks = dict(zip(MAPS, (2, 3, 2, 3, 1, 1), strict=True))
    write(tmp_path / "0", content(ranks=ranks, alphas=dict.fromkeys(MAPS, 1 / 3)))
    for cycle in (1, 2, 3):
        write(tmp_path / str(cycle), read_peft(tmp_path / str(cycle - 1), MAPS))
        for name in (CONFIG, WEIGHTS):
            assert (tmp_path / str(cycle) / name).read_bytes() == (
                tmp_path / "0" / name
            ).read_bytes()


def test_transposed_targets_are_said_to_be_so_and_a_mix_is_refused(tmp_path: Path) -> None:
    write(tmp_path, content(), transposed=frozenset(MAPS) | {"another"})
    assert json.loads((tmp_path / CONFIG).read_text())["fan_in_fan_out"] is True
    write(tmp_path, content(), transposed=frozenset({"another"}))
    assert json.loads((tmp_path / CONFIG).read_text())["fan_in_fan_out"] is False
    with pytest.raises(ValueError, match=r"query as \(in, out\) and .*dense as \(out, in\)"):
        write(tmp_path, content(), transposed=frozenset({QUERY.format(0)}))


def test_saved_modules_are_whole_outside_the_trunk_and_single_inside(tmp_path: Path) -> None:
    names = ["classifier.dense.weight", "classifier.out_proj.bias", "bert.pooler.dense.weight"]
    write(tmp_path, content(extra={name: torch.ones(2) for name in names}))
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["modules_to_save"] == ["bert.pooler.dense", "classifier"]


def test_an_expert_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without adapters has no PEFT form"):
        write(tmp_path, content(ranks={}))


def hand_written(**changes: Any) -> dict[str, Any]:
    """The eight settings that suffice."""
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "org/base",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["query", "output.dense"],
        "modules_to_save": ["classifier"],
        "inference_mode": True,
    } | changes


@pytest.fixture
def rewrite(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a good folder with settings and tensors changed; None removes one."""

    def folder(
        config: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor | None] | None = None
    ) -> Path:
        write(tmp_path, content())
        (tmp_path / CONFIG).write_text(json.dumps(hand_written(**(config or {}))))
        kept = load_file(tmp_path / WEIGHTS) | dict(tensors or {})
        save_file({k: v for k, v in kept.items() if v is not None}, tmp_path / WEIGHTS)
        return tmp_path

    return folder


def test_eight_settings_suffice(rewrite: Callable[..., Path]) -> None:
    assert_equal(read_peft(rewrite(), MAPS), content())


def test_every_default_of_peft_is_accepted(rewrite: Callable[..., Path], tmp_path: Path) -> None:
    LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4).save_pretrained(tmp_path / "defaults")
    defaults = json.loads((tmp_path / "defaults" / CONFIG).read_text())
    assert len(defaults) > 35
    given = {key: value for key, value in defaults.items() if key != "target_modules"}
    assert_equal(read_peft(rewrite(given), MAPS), content())


@pytest.mark.parametrize(
    "config",
    [
        {"lora_dropout": 0.1},
        {"runtime_config": {"ephemeral_gpu_offload": True}},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"corda_config": {"corda_method": "kpm"}},
        {"bias": "all"},
        {"layers_to_transform": [0, 1, 11]},
        {"layers_to_transform": [0, 1, 11], "layers_pattern": "layer"},
        {"exclude_modules": ["key"]},
        {"a_later_setting": None},
        {"a_later_setting": {}},
    ],
)
def test_settings_without_effect_are_accepted(
    rewrite: Callable[..., Path], config: dict[str, Any]
) -> None:
    assert_equal(read_peft(rewrite(config), MAPS), content())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; weft reads LORA"),
        ({"peft_type": "XLORA"}, "peft_type is 'XLORA'"),
        ({"use_dora": True}, "lacks .*lora_magnitude_vector, though the config says use_dora"),
        ({"lora_bias": True}, "lora_bias trains more than plain LoRA"),
        ({"layer_replication": [[0, 2]]}, "layer_replication means"),
        ({"target_parameters": ["w"]}, "target_parameters means"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices trains more"),
        ({"megatron_config": {"a": 1}}, "megatron_config means"),
        ({"use_qalora": True}, "use_qalora means"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora means"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config means"),
        ({"kasa_config": {"beta": 0.1}}, "kasa_config means"),
        ({"monteclora_config": {"a": 1}}, "monteclora_config means"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens means"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying means"),
        ({"use_a_later_method": True}, "does not know the setting use_a_later_method .here True."),
        ({"later_config": {"a": 1}}, "does not know the setting later_config"),
        ({"later_names": ["a"]}, "does not know the setting later_names"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base's weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changed the base's weights"),
        ({"init_lora_weights": "olora"}, "'olora' changed .* path_initial_model_for_weight"),
        ({"init_lora_weights": "corda"}, "'corda' changed"),
        ({"init_lora_weights": "loftq"}, "'loftq' changed"),
        ({"init_lora_weights": "lora_ga"}, "'lora_ga' changed"),
        ({"init_lora_weights": "novel"}, "does not know init_lora_weights 'novel'"),
        ({"r": 0}, "adapter_config.json: r: .* greater than 0, got 0"),
        ({"lora_alpha": None}, "adapter_config.json: lora_alpha: .* valid number, got None"),
        ({"r": 3}, "has rank 2, but adapter_config.json says 3"),
        ({"target_modules": ["query"]}, "tensors for bert.*dense, which target_modules"),
        ({"layers_to_transform": [0, 1]}, "tensors for bert.encoder.layer.11.*, which target_mod"),
        ({"exclude_modules": ["query"]}, "tensors for bert.*query, which target_modules"),
        ({"task_type": None, "modules_to_save": None}, "classifier.* is neither lora_A or"),
    ],
)
def test_a_setting_that_changes_the_equation_is_refused_by_name(
    rewrite: Callable[..., Path], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_peft(rewrite(config), MAPS)


A0, B0 = (f"{ROOT}bert.{QUERY.format(0)}.lora_{side}.weight" for side in "AB")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({B0: None}, f"lacks {B0}"),
        ({A0: None, B0: None}, r"lacks lora_A and lora_B of bert.encoder.layer.0.*query"),
        ({A0: torch.ones(2, 7)}, r"layer.0.*lora_A.weight is \(2, 7\), .* expected \(2, 6\)"),
        ({B0: torch.ones(6, 3)}, r"lora_B.weight is \(6, 3\), .* expected \(6, 2\)"),
        ({A0: torch.ones(12)}, r"lora_A.weight is \(12,\)"),
        ({A0: torch.full((2, 6), math.nan)}, r"adapter_model.safetensors: .*lora_A.* NaN or inf"),
        ({B0: torch.full((6, 2), math.inf)}, r"lora_B.* NaN or inf"),
        ({A0.replace("query", "other"): torch.ones(2, 6)}, "self.other is no linear map"),
        ({A0.replace("layer.0", "layer.7"): torch.ones(2, 6)}, "layer.7.* another architecture"),
        ({f"{ROOT}bert.x.weight": torch.ones(2)}, "bert.x.weight is neither lora_A or lora_B"),
        ({A0.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(6)}, "belongs to DoRA"),
        (
            {A0.replace("lora_A.weight", "lora_embedding_A"): torch.ones(6)},
            "has embedding_A.*; bring the folder in with weft import",
        ),
        ({A0.replace("lora_A.weight", "lora_diag"): torch.ones(6)}, "lora_diag .* no plain LoRA"),
        ({"bert.x.weight": torch.ones(2)}, "expected tensors named base_model.model"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    rewrite: Callable[..., Path], tensors: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_peft(rewrite(None, tensors), MAPS)


def test_trained_biases_of_the_base_are_read_by_the_maps_name(rewrite: Callable[..., Path]) -> None:
    name = f"bert.{QUERY.format(0)}"
    bias = {f"{ROOT}{name}.base_layer.bias": torch.ones(6)}
    found = read_peft(rewrite({"bias": "lora_only"}, bias), MAPS)
    assert torch.equal(found.extra[f"{name}.bias"], torch.ones(6))
    with pytest.raises(ValueError, match=r"query.bias is neither lora_A or lora_B nor"):
        read_peft(rewrite({"bias": "none"}, bias), MAPS)


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_file_that_is_cut_short_is_refused(rewrite: Callable[..., Path], size: int) -> None:
    path = rewrite() / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is (cut short|damaged|not a)"):
        read_peft(path.parent, MAPS)


def test_tensors_that_torch_saved_are_read_as_they_are(rewrite: Callable[..., Path]) -> None:
    folder = rewrite()
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    assert_equal(read_peft(folder, MAPS), content())


class Harmful:
    """What unpickling would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm"),))


def test_a_true_pickle_is_refused_unopened(
    rewrite: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = rewrite()
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    pickled = folder / "adapter_model.bin"
    torch.save({**tensors, "x": Harmful()}, pickled)
    with pytest.raises(ValueError, match=r"adapter_model.bin is a pickle .*could run any code"):
        read_peft(folder, MAPS)
    pickled.write_bytes(pickle.dumps({"x": Harmful()}))
    with pytest.raises(ValueError, match=r"adapter_model.bin is .*"):
        read_peft(folder, MAPS)
    assert not (tmp_path / "harm").exists()
    pickled.write_bytes(b"no pickle at all")
    with pytest.raises(ValueError, match=r"adapter_model.bin is "):
        read_peft(folder, MAPS)
    torch.save(tensors, pickled)
    pickled.write_bytes(pickled.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"adapter_model.bin is damaged"):
        read_peft(folder, MAPS)
    torch.save({"x": torch.ones(1).expand(10**12)}, pickled)
    with pytest.raises(ValueError, match=r"adapter_model.bin is damaged: x says to be larger"):
        read_peft(folder, MAPS)


def test_a_setting_of_a_later_release_that_switches_nothing_on_is_ignored_aloud(
    rewrite: Callable[..., Path],
) -> None:
    with pytest.warns(UserWarning, match="does not know the setting later_size .here 16."):
        found = read_peft(rewrite({"later_size": 16, "later_flag": False}), MAPS)
    assert_equal(found, content())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"alpha_pattern": [1]}, "alpha_pattern: .*valid dictionary"),
        ({"alpha_pattern": {"query": "8"}}, "alpha_pattern.query: .*valid number"),
        ({"alpha_pattern": {"query": -1}}, "alpha_pattern.query: .*greater than 0"),
        ({"rank_pattern": {"query": 2.5}}, "rank_pattern.query: .*valid integer"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern: '\(' is no regular expression"),
        ({"modules_to_save": "classifier"}, "modules_to_save: .*valid list"),
        ({"modules_to_save": [1]}, "modules_to_save.0: .*valid string"),
        ({"modules_to_save": ["*"]}, r"modules_to_save: '\*' is no regular expression"),
        ({"target_modules": {"a": 1}}, "target_modules"),
        ({"target_modules": 7}, "target_modules"),
        ({"target_modules": "[a"}, r"target_modules: '\[a' is no regular expression"),
        ({"target_modules": r"(.|..|...)+[!#]"}, "takes more than 0.5 s"),
        ({"layers_to_transform": "1"}, "layers_to_transform"),
        ({"layers_pattern": 3, "layers_to_transform": [1]}, "layers_pattern"),
        ({"exclude_modules": 3}, "exclude_modules"),
        ({"task_type": ["SEQ_CLS"]}, "task_type: .*valid string"),
        ({"peft_type": ["LORA"]}, r"peft_type is \['LORA'\]"),
        ({"bias": True}, "bias: "),
        ({"use_dora": "yes"}, "use_dora: .*valid boolean"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out: .*valid boolean"),
        ({"r": 1e400}, "r: "),
        ({"lora_alpha": True}, "lora_alpha: "),
    ],
)
def test_a_setting_of_a_wrong_type_is_a_sentence_with_file_and_place(
    rewrite: Callable[..., Path], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read_peft(rewrite(config), MAPS)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "adapter_model.bin"])
def test_only_regular_files_are_read(rewrite: Callable[..., Path], name: str) -> None:
    folder = rewrite()
    if name.endswith(".bin"):
        (folder / WEIGHTS).unlink()
    path = folder / name
    for make, message in (
        (lambda: path.symlink_to("/dev/zero"), "is a device, pipe or socket"),
        (lambda: os.mkfifo(path), "is a device, pipe or socket"),
        (path.mkdir, "is a folder, expected a file"),
    ):
        path.unlink(missing_ok=True)
        make()
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            read_peft(folder, MAPS)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 10**15]}, "damaged"),
        ({"dtype": "F32", "shape": [2, 6], "data_offsets": [48, 0]}, "damaged"),
        ({"dtype": "F32", "shape": [-2, 6], "data_offsets": [0, 48]}, "damaged|not a"),
        ({"dtype": "F32", "shape": "2x6", "data_offsets": [0, 48]}, "damaged|not a"),
        ({"dtype": "F32", "shape": [2, 6]}, "damaged|not a"),
        ({"dtype": "Q7", "shape": [2, 6], "data_offsets": [0, 48]}, "damaged|not a"),
        (
            {"dtype": "I32", "shape": [2, 6], "data_offsets": [0, 48]},
            "torch.int32, but weights are",
        ),
        ({"dtype": "F8_E4M3", "shape": [48], "data_offsets": [0, 48]}, "torch.float8_e4m3fn"),
        ([], "damaged|not a"),
    ],
)
def test_an_odd_header_is_a_sentence_that_names_the_file(
    rewrite: Callable[..., Path], entry: Any, message: str
) -> None:
    folder = rewrite()
    header = json.dumps({A0: entry}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*({message})"):
        read_peft(folder, MAPS)


def test_missing_and_broken_files_are_named(rewrite: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no PEFT folder: it has no adapter_config.json"):
        read_peft(tmp_path, MAPS)
    folder = rewrite()
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"adapter_model.safetensors: no such file"):
        read_peft(folder, MAPS)
    (folder / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config.json:1: not JSON"):
        read_peft(folder, MAPS)
    (folder / CONFIG).write_text("[]")
    with pytest.raises(ValueError, match=r"expected a mapping of settings, got list"):
        read_peft(folder, MAPS)


def test_a_folder_without_factors_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(hand_written()))
    save_file({f"{ROOT}classifier.weight": torch.ones(3, 6)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="holds no lora_A and lora_B"):
        read_peft(tmp_path, MAPS)


@pytest.mark.parametrize(
    ("head", "factor"),
    [
        ("classifier.modules_to_save.default.{}", "lora_{}.default.weight"),
        ("classifier.modules_to_save.mine.{}", "lora_{}.mine.weight"),
        ("classifier.modules_to_save.{}", "lora_{}.weight"),
    ],
)
def test_names_of_old_versions_are_understood(tmp_path: Path, head: str, factor: str) -> None:
    expected = content()
    tensors = {f"{ROOT}classifier.original_module.weight": torch.zeros(3, 6)}
    for name in ("weight", "bias"):
        tensors[ROOT + head.format(name)] = expected.extra[f"classifier.{name}"]
    for name, (A, B) in expected.factors.items():
        tensors[f"{ROOT}bert.{name}.{factor.format('A')}"] = A
        tensors[f"{ROOT}bert.{name}.{factor.format('B')}"] = B
    save_file(tensors, tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(hand_written()))
    assert_equal(read_peft(tmp_path, MAPS), expected)


def test_rank_stabilised_scales_are_said_as_plain_alphas(rewrite: Callable[..., Path]) -> None:
    found = read_peft(rewrite({"use_rslora": True}), MAPS)
    assert found.alphas == dict.fromkeys(MAPS, 4 * math.sqrt(2))


NAMES = [f"bert.{name}" for name in MAPS] + ["bert.pooler.dense", "classifier", "score"]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query"]},
        {"target_modules": ["dense"], "modules_to_save": ["pooler"]},
        {"target_modules": ["dense"], "exclude_modules": ["pooler.dense"]},
        {"target_modules": ["dense"], "exclude_modules": r".*layer\.1\..*"},
        {"target_modules": r"bert\.encoder\.layer\.1.*query"},
        {"target_modules": ["query", "dense"], "layers_to_transform": 1},
        {"target_modules": ["query", "dense"], "layers_to_transform": [0, 11]},
        {"target_modules": ["dense"], "layers_to_transform": [1], "layers_pattern": "layer"},
        {"target_modules": ["dense"], "layers_to_transform": [1], "layers_pattern": ["h", "layer"]},
        {"target_modules": [NAMES[0]], "layers_to_transform": [1]},
        {
            "target_modules": ["query", "score", "classifier"],
            "modules_to_save": ["classifier", "score"],
        },
    ],
)
def test_targets_are_those_of_peft(settings: dict[str, Any]) -> None:
    config = LoraConfig(**settings)
    theirs = {name: bool(check_target_module_exists(config, name)) for name in NAMES}
    assert {name: is_targeted(settings, name) for name in NAMES} == theirs


@pytest.mark.parametrize(
    "pattern",
    [
        {"query": 5},
        {r"layer\.1\..*": 5, "query": 6},
        {"^bert.encoder.layer.1.output.dense": 5},
        {"encoder.layer.1": 5},
        {"layer.1.output.dense": 5, "output.dense": 6},
    ],
)
def test_patterns_mean_what_they_mean_to_peft(pattern: dict[str, int]) -> None:
    config = {"rank_pattern": pattern, "r": 2}
    for name in NAMES:
        expected = pattern.get(get_pattern_key(pattern, name), 2)
        assert value_for(config, "rank_pattern", "r", name) == expected
