"""A base and a head as one transformers checkpoint: merged experts, and fully trained ones.

The trunk goes back to the layout its architecture has in transformers: GPT-2's maps are (in, out)
again, wrapped modules have their own names again.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from weft.atomic import write_tensors, write_text
from weft.base.digest import stored_tensors
from weft.base.loading import Base
from weft.lowrank.attach import canonical
from weft.model.head import Head, ties_of
from weft.scoped import tell

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def write_checkpoint(
    folder: Path, *, head: Head, trunk: nn.Module, base: Base, labels: Sequence[str]
) -> None:
    """Write what `AutoModelFor...` and `AutoTokenizer` load, equal in outputs to `head` on `trunk`.

    Args:
        folder: An existing folder.
        head: The head; its class is the checkpoint's.
        trunk: The base's architecture with the weights to write; adapters on it are not written.
        base: Where layout and tokenizer come from.
        labels: Class names in class order; () where there are none.
    """
    tell("writing the checkpoint")
    config = _config(head, base, labels)
    tensors = _tensors(head, trunk, base)
    _settle_ties(tensors, head, config)
    write_tensors(folder / WEIGHTS, tensors)
    config.save_pretrained(folder)
    _write_tokenizer(folder, base)


def write_frame(folder: Path, *, head: Head, base: Base, labels: Sequence[str]) -> None:
    """Write what lets transformers open an adapter's folder as a model of its task: class, labels and tokenizer.

    Transformers takes a folder with a `config.json` for a whole model, so an index beside it says where the base's
    weights are: at the place they were loaded from. Of a base that is nowhere on disk neither is written; the folder
    then opens on the base that `adapter_config.json` names, and `num_labels` must be said.

    Args:
        folder: An existing folder, of an adapter in PEFT's format.
        head: The head; its class is the one that opens the folder.
        base: Where weights, layout and tokenizer come from.
        labels: Class names in class order; () where there are none.
    """
    if not base.files or any(file.suffix != ".safetensors" for file in base.files):
        _write_tokenizer(folder, base)
        return
    write_config(folder, head=head, base=base, labels=labels)
    stored = stored_tensors(base.files)
    index = {
        "metadata": {"total_size": sum(tensor.stop - tensor.start for tensor in stored.values())},
        "weight_map": {name: str(tensor.path.absolute()) for name, tensor in stored.items()},
    }
    write_text(folder / INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")


def write_config(folder: Path, *, head: Head, base: Base, labels: Sequence[str]) -> None:
    """Write what transformers and its like know a model of the task by, without weights: class, labels and tokenizer.

    Args:
        folder: An existing folder.
        head: The head; its class is the one that is named.
        base: Where layout and tokenizer come from.
        labels: Class names in class order; () where there are none.
    """
    _write_tokenizer(folder, base)
    _config(head, base, labels).save_pretrained(folder)


def write_pooling(folder: Path, *, base: Base, max_length: int, normalize: bool) -> None:
    """Write beside a trunk's checkpoint what makes it a `SentenceTransformer`: mean pooling, and vectors of length 1.

    In the form that all its versions read (https://sbert.net, `modules.json`).

    Args:
        folder: Holds the checkpoint.
        base: Where the size of vectors comes from.
        max_length: Tokens of a text, those that the tokenizer adds included.
        normalize: Whether vectors have length 1.
    """
    modules = {"Transformer": "", "Pooling": "1_Pooling"}
    if normalize:
        modules["Normalize"] = "2_Normalize"
    found = {
        "modules.json": [
            {
                "idx": at,
                "name": str(at),
                "path": place,
                "type": f"sentence_transformers.models.{name}",
            }
            for at, (name, place) in enumerate(modules.items())
        ],
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": base.config.hidden_size,
            "pooling_mode_mean_tokens": True,
        },
    }
    for name, content in found.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text(folder / name, json.dumps(content, indent=2) + "\n")


def _write_tokenizer(folder: Path, base: Base) -> None:
    tokenizer = copy.deepcopy(base.tokenizer)
    if base.max_positions is not None:
        tokenizer.model_max_length = base.max_positions
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)


def _config(head: Head, base: Base, labels: Sequence[str]) -> PreTrainedConfig:
    config = copy.deepcopy(base.config)
    config.architectures = [head.class_name]
    if head.module.config.num_labels:
        config.num_labels = head.module.config.num_labels
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    if config.pad_token_id is None:
        # Some classes find a row's end by the padding, and refuse batches without it.
        config.pad_token_id = base.tokenizer.pad_token_id
        if config.pad_token_id is None:
            config.pad_token_id = base.tokenizer.eos_token_id
    return config


def _tensors(head: Head, trunk: nn.Module, base: Base) -> dict[str, Tensor]:
    """The task class's tensors by name, in the trunk's type."""
    found: dict[str, Tensor] = {}
    for name, value in trunk.state_dict().items():
        plain = canonical(name)
        module, _, last = plain.rpartition(".")
        turned = last == "weight" and module in base.transposed
        found[f"{head.below}{plain}"] = value.T if turned else value
    dtype = next(trunk.parameters()).dtype
    found |= {name: value.to(dtype) for name, value in head.module.state_dict().items()}
    if head.kind.is_trunk and base.pooler is not None:
        # Nothing here looks at it, but the class has it.
        found |= {f"pooler.{name}": v.to(dtype) for name, v in base.pooler.state_dict().items()}
    return found


def _settle_ties(tensors: dict[str, Tensor], head: Head, config: PreTrainedConfig) -> None:
    """Leave out what transformers ties at load; say so where training parted tied tensors."""
    ties = ties_of(head.module)
    ties = {target: source for target, source in ties.items() if target in tensors}
    together = all(torch.equal(tensors[target], tensors[source]) for target, source in ties.items())
    if config.tie_word_embeddings and together:
        for target in ties:
            del tensors[target]
        return
    if ties:
        config.tie_word_embeddings = False
    for target in ties:
        tensors[target] = tensors[target].clone()
