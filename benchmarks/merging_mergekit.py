"""mergekit's side of `merging.py`: the same experts as dense checkpoints, merged by its own methods.

It reads a base and a whole checkpoint an expert from disk and writes one, which is what its users do; its seconds are
with that. A checkpoint has one layer in Llama's form with as many parameters as one of BERT-large's, since mergekit
0.1.5 fails on its own description of BERT with pydantic 2.14 (a list is added to a tuple).

    pip install --no-deps mergekit immutables
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weft.lowrank.product import Pair

WIDTH, INNER = 1024, 2730
"""Inner width at which three maps of a Llama block are as large as the two of a BERT block."""
PLACES = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight")


def write_checkpoints(experts: Sequence[Mapping[str, Pair]], folder: Path) -> list[Path]:
    """The base and every expert's first layer as checkpoints; the base is the first.

    Args:
        experts: Factors by map; those of the first layer come first, query before value.
        folder: Where the checkpoints are written.
    """
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=16,
        intermediate_size=INNER,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    paths = [folder / "base"]
    model.save_pretrained(paths[0])
    own = {name: value.detach() for name, value in model.named_parameters()}
    for number, expert in enumerate(experts):
        pairs = list(expert.values())[: len(PLACES)]
        for place, (A, B) in zip(PLACES, pairs, strict=True):
            own[place] += B @ A
        paths.append(folder / f"expert-{number}")
        model.save_pretrained(paths[-1])
        for place, (A, B) in zip(PLACES, pairs, strict=True):
            own[place] -= B @ A
    return paths


def mergekit_call(
    method: str, paths: Sequence[Path], weights: Sequence[float], density: float
) -> Callable[[], Any]:
    """A merge of the checkpoints by one of mergekit's methods.

    Raises:
        ImportError: If mergekit is not installed.
    """
    from mergekit.config import MergeConfiguration  # pyright: ignore
    from mergekit.merge import run_merge  # pyright: ignore
    from mergekit.options import MergeOptions  # pyright: ignore

    logging.getLogger("mergekit").setLevel(logging.ERROR)
    own = {} if method in ("linear", "task_arithmetic") else {"density": density}
    values = {
        "merge_method": method,
        "models": [
            {"model": str(path), "parameters": {"weight": weight, **own}}
            for path, weight in zip(paths[1:], weights, strict=True)
        ],
        "dtype": "float32",
    }
    if method != "linear":
        values |= {"base_model": str(paths[0]), "parameters": {"normalize": False}}
    config = MergeConfiguration.model_validate(values)
    options = MergeOptions(cuda=False, copy_tokenizer=False, write_model_card=False, quiet=True)
    out = paths[0].parent / "merged"

    def call() -> None:
        shutil.rmtree(out, ignore_errors=True)
        run_merge(config, str(out), options)
        assert (out / "model.safetensors").is_file()

    return call
