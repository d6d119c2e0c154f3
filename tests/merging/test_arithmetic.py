"""Sums and differences of whole models: exact where nothing is to be computed, linear where something is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import weft
from tests.cli.killed import content
from tests.merging.runs import Made, made_on
from tests.pruning.runs import changed_copy
from weft.base.loading import load_base
from weft.merging import whole
from weft.storage.experts import load_expert

PREFIX = {"bert": "bert.", "gpt2": "transformer.", "llama": "model."}


def tuned(folder: Path, out: Path, dtype: torch.dtype | None = None) -> Path:
    """A checkpoint that was trained further, all of it."""

    def move(tensors: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(5)
        for name, value in tensors.items():
            moved = value + 0.1 * torch.randn(value.shape, generator=generator).to(value)
            tensors[name] = moved.to(dtype or value.dtype)

    return changed_copy(folder, out, move)


def tensors_in(folder: Path) -> dict[str, Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def assert_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def changes(made: Made, run: Path) -> dict[str, Tensor]:
    expert, _ = load_expert(run / "expert", made.base)
    with torch.no_grad():
        return {
            name: adapter.delta(made.base.trunk.get_submodule(name).get_parameter("weight"))
            for name, adapter in expert.adapters.items()
        }


@pytest.fixture(params=["bert", "gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lang(kind: str, tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path: Path) -> Made:
    """Makes runs on each architecture: GPT-2 stores its maps the other way round."""
    return made_on(tiny_folder, tasks_folder, tmp_path, kind)


def test_nothing_of_one_and_all_of_the_other_is_exactly_the_other(lang: Made) -> None:
    run, chat = lang("topic"), tuned(lang.where, lang.folder / "chat")
    out = weft.arithmetic(
        f"base + 0*'{run}' + 1.0*('{chat}' - base)", lang.folder / "out", base=str(lang.where)
    )
    assert_bits(tensors_in(out), tensors_in(chat))


def test_it_is_the_sum_in_double_and_layers_without_an_expert_are_the_other_s_bits(
    kind: str, lang: Made
) -> None:
    run, chat = lang("topic", targets=["query", "ffn_out"]), tuned(lang.where, lang.folder / "chat")
    out = weft.arithmetic(f"base + 0.5*'{run}' + 1.0*('{chat}' - base)", lang.folder / "out")
    found, theirs = tensors_in(out), tensors_in(chat)
    wanted = dict(theirs)
    for module, delta in changes(lang, run).items():
        name = f"{PREFIX[kind]}{module}.weight"
        turned = delta.T if kind == "gpt2" else delta
        wanted[name] = (theirs[name].double() + 0.5 * turned).to(theirs[name].dtype)
        # The product and the sum are rounded to single precision, each once.
        rounding = 2 * torch.finfo(torch.float32).eps * wanted[name].abs().max().item()
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=rounding)
        assert not torch.equal(found[name], theirs[name])
        del found[name], wanted[name]
    assert_bits(found, wanted)


def test_it_is_linear_in_the_numbers(made: Made) -> None:
    chat = tuned(made.where, made.folder / "chat")
    base, theirs = tensors_in(made.where), tensors_in(chat)
    for number in (0.25, -1.0, 3.0):
        out = weft.arithmetic(
            f"base + {number}*('{chat}' - base)", made.folder / f"out{number}", base=str(made.where)
        )
        for name, value in tensors_in(out).items():
            wanted = base[name].double() + number * (theirs[name].double() - base[name].double())
            torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=2e-6)


def test_half_precision_is_summed_in_single(made: Made) -> None:
    names = [made.folder / name for name in ("half", "chat")]
    half = changed_copy(
        made.where, names[0], lambda t: t.update({n: v.bfloat16() for n, v in t.items()})
    )
    chat = tuned(half, names[1], torch.bfloat16)
    out = weft.arithmetic(
        f"base + 0.3*('{chat}' - base) + 0.3*('{chat}' - base)", made.folder / "out", base=str(half)
    )
    base, theirs = tensors_in(half), tensors_in(chat)
    for name, value in tensors_in(out).items():
        assert value.dtype == torch.bfloat16
        wanted = 0.4 * base[name].double() + 0.6 * theirs[name].double()
        # One rounding to half precision, of a sum in single: next to the exact one at most.
        assert (value.double() - wanted).abs().max() <= wanted.abs().max() * 2**-8
        exact = (0.4 * base[name].float() + 0.6 * theirs[name].float()).bfloat16()
        assert (value != exact).float().mean() < 0.01


def test_a_checkpoint_opens_answers_and_is_a_base(made: Made) -> None:
    chat = tuned(made.where, made.folder / "chat")
    out = weft.arithmetic(f"0.5*base + 0.5*'{chat}'", made.folder / "out", base=str(made.where))
    model = transformers.AutoModel.from_pretrained(out)
    assert model.config.vocab_size == made.base.config.vocab_size
    assert load_base(str(out)).tokenizer("the cat")["input_ids"]
    record = json.loads((out / "arithmetic.json").read_text())
    assert record["counts"] == {"base": 0.5, str(chat): 0.5}
    assert set(record["digests"]) == {"base", str(chat)}


def test_shards_are_read_and_written(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tuned(made.where, made.folder / "chat")
    one = weft.arithmetic(f"0.5*base + 0.5*'{chat}'", made.folder / "one", base=str(made.where))
    monkeypatch.setattr(whole, "SHARD_BYTES", 20_000)
    many = weft.arithmetic(f"0.5*base + 0.5*'{chat}'", made.folder / "many", base=str(made.where))
    assert len(list(many.glob("*.safetensors"))) > 3
    assert_bits(tensors_in(many), tensors_in(one))
    again = weft.arithmetic(f"0.5*base + 0.5*'{many}'", made.folder / "again", base=str(made.where))
    assert tensors_in(again).keys() == tensors_in(one).keys()
    transformers.AutoModel.from_pretrained(many)


def test_experts_alone_come_out_as_an_expert(made: Made) -> None:
    runs = [made("topic"), made("tags")]
    out = weft.arithmetic(
        f"base + 1.0*'{runs[0]}' - 0.5*'{runs[1]}'", made.folder / "out", scores=False
    )
    found, own = changes(made, out / "topic"), [changes(made, run) for run in runs]
    for name, value in found.items():
        wanted = own[0][name] - 0.5 * own[1][name]
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-13)


def test_what_some_have_none_of_stays_as_in_the_layout_and_is_said(made: Made) -> None:
    chat = tuned(made.where, made.folder / "chat")
    bare = changed_copy(
        made.where,
        made.folder / "bare",
        lambda t: [t.pop(name) for name in list(t) if name.startswith("cls.")] and None,
    )
    out = weft.arithmetic(f"0.5*base + 0.5*'{chat}'", made.folder / "out", base=str(bare))
    found, theirs = tensors_in(out), tensors_in(chat)
    heads = [name for name in theirs if name.startswith("cls.")]
    assert heads
    for name in heads:
        assert torch.equal(found[name], theirs[name])
    notes = json.loads((out / "arithmetic.json").read_text())["notes"]
    assert len(notes) == len(heads)


def test_what_has_no_sum_is_refused_before_anything_is_written(
    made: Made, tiny_folder: Callable[[str], Path]
) -> None:
    run, chat = made("topic"), tuned(made.where, made.folder / "chat")
    other = changed_copy(made.where, made.folder / "other", lambda t: None)
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    larger = shutil.copytree(made.where, made.folder / "larger")
    config = json.loads((larger / "config.json").read_text())
    (larger / "config.json").write_text(json.dumps(config | {"vocab_size": 500}))
    base: Any = {"base": str(made.where)}
    before = content(made.folder)
    for expression, values, sentence in (
        (f"base + '{chat}'", base, "whole models count 2 together"),
        (f"'{chat}' - base", base, "whole models count 0 together"),
        ("base", base, "comes to the base, or to nothing"),
        (f"'{run}' - '{run}'", {}, "comes to the base, or to nothing"),
        (f"base + 0.5*('{chat}' - base)", {}, "which base?"),
        (f"base + '{run}'", base, "leave it away"),
        (f"base + 0.5*('{other}' - base)", base, "the vocabularies differ: number"),
        (f"base + 0.5*('{larger}' - base)", base, "vocabularies of"),
        (f"base + 0.5*('{tiny_folder('gpt2')}' - base)", base, "only models of one architecture"),
        (f"base + 0.5*'{run}' + 0.5*('{chat}' - base)", {"base": str(chat)}, "was trained on"),
        (f"base + 1e999*('{chat}' - base)", base, "every number is a finite one"),
        ("base + nowhere", {}, "nowhere"),
        (f"0.5*base + 0.5*'{chat}'", {**base, "rank": 4}, "comes to a checkpoint, which has none"),
    ):
        with pytest.raises((ValueError, KeyError)) as caught:
            weft.arithmetic(expression, made.folder / "out", **values)
        assert sentence in str(caught.value)
        assert content(made.folder) == before
    (made.folder / "there").mkdir()
    with pytest.raises(ValueError, match="exists"):
        weft.arithmetic(f"0.5*base + 0.5*'{chat}'", made.folder / "there", **base)
