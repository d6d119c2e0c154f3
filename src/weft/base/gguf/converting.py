"""Bases in GGUF files: turned once into a checkpoint of safetensors, config and tokenizer under the user's cache.

transformers reads the file (weights dequantised to single precision, names and rotations as its own checkpoints have
them), and from there on the base is like any other. What was rounded to few bits stays rounded: the weights are those
that the file's own runtimes compute with, not those from which it was made. The folder's name is the SHA-256 of the
file, so it is never stale, and a conversion that is killed leaves none.
"""

import json
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from weft import guard
from weft.atomic import atomic_folder, make_folder, write_text
from weft.base.digest import cache_file, file_sha256
from weft.base.forms import brief, check_form, quiet_transformers
from weft.base.gguf.header import Header, read_header
from weft.scoped import tell

SUFFIX = ".gguf"
_FORM = 1
"""Part of a folder's name: raise it when the conversion changes what it writes."""
_SHARD = "1GB"
"""Most of the weights that are held a second time while they are written."""
_SUMS = "sha256.json"
"""SHA-256 of every other file of the folder, by its name."""
_SLACK = 2
"""Times the numbers that are there which a config may ask for; what is then missing is named tensor by tensor."""
_MOST_BUFFERED = 2**28
"""Numbers in a model's buffers (masks, tables of positions), which its config alone decides."""
_GPT2_SPLITS = ("default", "gpt-2", "gpt2", None)
"""What files call the words of GPT-2's tokenizer, which is also what transformers takes for names that it lacks."""
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""GPT-2's words with each digit alone: `\\p{N}` before its expression in llama.cpp, src/llama-vocab.cpp."""
_READING = (
    StrictDataclassError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OSError,
    RuntimeError,
    NotImplementedError,
    struct.error,
)
"""What transformers and gguf raise for files that are not what they expect."""


def converted(file: Path) -> Path:
    """The checkpoint folder that was made of a GGUF file; made now, if it was not yet.

    Takes one copy of the weights in single precision in memory, as the base itself does, and as much on the disk.

    Raises:
        ValueError: If the file is damaged, of an architecture that cannot be a base, or does not fit itself.
        OSError: If the cache cannot be written.
    """
    guard.check_file(file)
    folder = cache_file().parent / "gguf" / f"{file_sha256(file)}-{_FORM}"
    if _is_whole(folder):
        return folder
    make_folder(folder.parent)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):
            header = read_header(file)
            check_header(file, header)
            tell(f"converting {file.name}")
            for left in folder.parent.glob(f".{folder.name}.*"):
                # Drafts of conversions that were killed.
                shutil.rmtree(left, ignore_errors=True)
            with atomic_folder(folder) as draft:
                _convert(file, header, draft)
    return folder


def check_header(file: Path, header: Header) -> None:
    """Refuse what can be refused before a model is made.

    Raises:
        ValueError: If its layers, words or tokens do not fit its tensors.
    """
    said, own = header.metadata, header.architecture
    layers = said.get(f"{own}.block_count")
    if not isinstance(layers, int) or not 0 < layers <= len(header.shapes):
        raise ValueError(
            f"{file} says it has {layers!r} layers (`{own}.block_count`), with {len(header.shapes)} tensors; "
            "it is damaged, or no file of a language model"
        )
    tokens = said.get("tokenizer.ggml.tokens")
    rows = header.shapes.get("token_embd.weight", (0,))[0]
    if not isinstance(tokens, int) or not tokens or not rows:
        what = "tokenizer" if rows else "embeddings (`token_embd.weight`)"
        raise ValueError(f"{file} has no {what}, so it is no whole language model")
    if tokens > rows:
        raise ValueError(
            f"{file}: its tokenizer has {tokens} tokens, its embeddings have {rows} rows; it is damaged, or was made "
            "of parts of two models"
        )
    words = said.get("tokenizer.ggml.pre")
    if (
        said.get("tokenizer.ggml.model") == "gpt2"
        and words not in (*_GPT2_SPLITS, *_SINGLE_DIGITS)
        and words not in GGUF_PRE_TOKENIZER_SPLITS
    ):
        raise ValueError(
            f"{file}: its tokenizer splits words as {words!r:.60}, which transformers {transformers.__version__} does "
            "not have; take the model's own checkpoint instead"
        )


def _convert(file: Path, header: Header, draft: Path) -> None:
    # Transformers looks beside the file for what a checkpoint may have; here nothing lies beside it.
    alone = draft / "alone"
    alone.mkdir()
    (alone / f"weights{SUFFIX}").symlink_to(file.resolve())
    where = {"pretrained_model_name_or_path": alone, "gguf_file": f"weights{SUFFIX}"}
    with _reading(file, header):
        config = AutoConfig.from_pretrained(**where, trust_remote_code=False)
    check_form(config, str(file))
    with _reading(file, header), torch.device("meta"):
        wanted = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    _check_size(file, header, wanted)
    with _reading(file, header):
        # Not AutoTokenizer, which reads the whole file for its config once more.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(**where)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **where,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            trust_remote_code=False,
        )
    model, info = loaded
    wrong = [*sorted(info["missing_keys"]), *(name for name, *_ in info["mismatched_keys"])]
    if wrong:
        raise ValueError(f"{file} lacks, or has in another shape, {', '.join(wrong)[:300]}")
    (alone / f"weights{SUFFIX}").unlink()
    alone.rmdir()
    _save(model, _split_as_said(tokenizer, header), draft)


@contextmanager
def _reading(file: Path, header: Header) -> Iterator[None]:
    """What transformers raises of a file, said of the file."""
    try:
        # The bar over the tensors cannot be turned off.
        with quiet_transformers(), redirect_stderr(StringIO()):
            yield
    except _READING as error:
        raise ValueError(
            f"{file} is no GGUF file that transformers {transformers.__version__} can read "
            f"(architecture {header.architecture!r:.60}): {brief(error)}"
        ) from error


def _check_size(file: Path, header: Header, model: PreTrainedModel) -> None:
    """Refuse a config that would allocate what no tensor of the file fills; `model` is on the meta device."""
    wanted = sum(parameter.numel() for parameter in model.parameters())
    buffered = sum(buffer.numel() for buffer in model.buffers())
    if wanted > _SLACK * header.numbers or buffered > _MOST_BUFFERED:
        raise ValueError(
            f"{file} describes a model of {wanted} parameters and {buffered} numbers in buffers, its tensors hold "
            f"{header.numbers}; it is damaged"
        )


def _split_as_said(tokenizer: PreTrainedTokenizerFast, header: Header) -> PreTrainedTokenizerFast:
    """The tokenizer with each digit a word, where the file asks for that and transformers does not know the name."""
    if header.metadata.get("tokenizer.ggml.pre") in _SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    return tokenizer


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, draft: Path) -> None:
    # Nothing is quantised any more.
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(draft, max_shard_size=_SHARD)
    tokenizer.save_pretrained(draft)
    sums = {path.name: file_sha256(path) for path in sorted(draft.iterdir())}
    write_text(draft / _SUMS, json.dumps(sums, indent=1))


def _is_whole(folder: Path) -> bool:
    """Whether every file is there as it was written."""
    try:
        sums = guard.read_json(folder / _SUMS)
        return all(file_sha256(folder / name) == said for name, said in sums.items())
    except (ValueError, OSError, AttributeError):
        # Absent or damaged: nothing but time is lost.
        return False
