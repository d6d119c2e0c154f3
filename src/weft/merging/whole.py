"""Whole checkpoints as terms of a sum: read and written tensor by tensor, never two models at once."""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig

from weft.atomic import write_tensors, write_text
from weft.base.digest import StoredTensor, checkpoint_digest, read_tensors, stored_tensors
from weft.base.forms import blank_trunk, read_config
from weft.base.loading import modern, normalise_conv1d
from weft.base.locate import checkpoint_files, config_file
from weft.lowrank.product import Pair
from weft.scoped import tell
from weft.storage.tensors import linear_shapes

SHARD_BYTES = 2 * 2**30
"""Of one file that is written; a single tensor may be larger."""
_NOT_ALONG = ("config.json", "weft.json", "adapter_config.json", "merge.json")
_ALONG = (".json", ".txt", ".model", ".jinja")


class Whole:
    """A transformers checkpoint in a folder, its tensors under the names that its trunk gives them.

    Args:
        name: As the user said it.
        folder: Where it lies.

    Raises:
        ValueError: If it is incomplete or damaged.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.config: PreTrainedConfig = read_config(config_file(folder))
        self.files = checkpoint_files(folder)
        trunk = blank_trunk(self.config)
        self.transposed = frozenset(normalise_conv1d(trunk))
        self.maps = linear_shapes(trunk)
        self.parameters = frozenset(
            name for name, _ in trunk.named_parameters() if not name.startswith("pooler.")
        )
        below = f"{trunk.base_model_prefix}."
        self.stored = {
            modern(own).removeprefix(below): (own, value)
            for own, value in stored_tensors(self.files).items()
        }
        missing = sorted(self.parameters - self.stored.keys())
        if missing:
            raise ValueError(f"{folder} lacks {', '.join(missing[:3])}, which its config asks for")

    @property
    def digest(self) -> str:
        """Identity of its tensors."""
        return checkpoint_digest(self.files)

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored, in host memory."""
        own, value = self.stored[name]
        return read_tensors({own: value})[own]

    def numbers_of_tokens(self) -> dict[str, int]:
        """The vocabulary of its tokenizer."""
        return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False).get_vocab()


@dataclass(frozen=True)
class Change:
    """What an expert adds to the maps of a trunk, and how often it counts."""

    name: str
    factors: Mapping[str, Pair]
    count: float


@dataclass(frozen=True)
class Total:
    """A sum of whole models and of experts' changes, laid out as one of the models.

    Attributes:
        frame: Whose names, types, config and tokenizer the result has.
        wholes: Models, and how often each counts.
        changes: Experts.
        notes: What must be said of the result; filled while it is computed.
    """

    frame: Whole
    wholes: Sequence[tuple[Whole, float]]
    changes: Sequence[Change]
    notes: list[str] = field(default_factory=list)

    def refuse_others(self) -> None:
        """Refuse what cannot be added up.

        Raises:
            ValueError: If architectures, shapes or vocabularies differ; says in what.
        """
        own = self.frame
        tokens = None
        for other, _ in self.wholes:
            if other is own:
                continue
            if other.config.model_type != own.config.model_type:
                raise ValueError(
                    f"{own.name} is a {own.config.model_type} and {other.name} a {other.config.model_type}; only "
                    "models of one architecture have a sum"
                )
            if other.config.vocab_size != own.config.vocab_size:
                raise ValueError(
                    f"the vocabularies of {own.name} ({own.config.vocab_size:,} tokens) and {other.name} "
                    f"({other.config.vocab_size:,}) differ; add up models of one vocabulary"
                )
            tokens = own.numbers_of_tokens() if tokens is None else tokens
            _refuse_other_tokens(own, tokens, other)
            for name in sorted(own.parameters | other.parameters):
                shapes = [one.stored[name][1].shape for one in (own, other) if name in one.stored]
                if len(set(shapes)) > 1 or len(shapes) < 2:
                    raise ValueError(
                        f"{name} is {' and '.join(map(str, shapes))} in {own.name} and {other.name}; only models of "
                        "one shape have a sum"
                    )
        for change in self.changes:
            for module, (A, B) in change.factors.items():
                if own.maps.get(module) != (B.shape[0], A.shape[1]):
                    raise ValueError(
                        f"{change.name} changes {module}, {B.shape[0]} x {A.shape[1]}, which {own.name} does not have "
                        "in that shape; its base is another architecture"
                    )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the result by the name it is stored under, one at a time."""
        for at, (name, (stored, _)) in enumerate(self.frame.stored.items()):
            tell("tensors added up", at, len(self.frame.stored))
            yield stored, self.tensor(name)

    def tensor(self, name: str) -> Tensor:
        """One tensor of the result, in the type it is stored in, summed in single precision or wider."""
        own = self.frame.tensor(name)
        if not all(name in whole.stored for whole, _ in self.wholes):
            # Heads, and what a config does not ask for: there is no sum where some have none.
            self.notes.append(f"{name} is not in all of them: it is as in {self.frame.name}")
            return own
        module, _, last = name.rpartition(".")
        changes = [c for c in self.changes if last == "weight" and module in c.factors]
        if not own.is_floating_point():
            if name in self.frame.parameters:
                raise ValueError(
                    f"{self.frame.folder}: {name} is quantised ({own.dtype}); add up models before they are"
                )
            return own
        if not changes and [(whole is self.frame, count) for whole, count in self.wholes] == [
            (True, 1.0)
        ]:
            return own
        wide = torch.promote_types(own.dtype, torch.float32)
        total = torch.zeros(own.shape, dtype=wide)
        for whole, count in self.wholes:
            value = own if whole is self.frame else whole.tensor(name)
            total += count * value.to(wide)
        for change in changes:
            A, B = (value.to(wide) for value in change.factors[module])
            delta = B @ A
            total += change.count * (delta.T if module in self.frame.transposed else delta)
        return total.to(own.dtype)

    def write(self, folder: Path) -> None:
        """Write the result as a checkpoint into an existing folder, a shard at a time."""
        shards = _shards([value for _, value in self.frame.stored.values()])
        places: dict[str, str] = {}
        size, tensors = 0, self.tensors()
        for number, count in enumerate(shards, 1):
            file = "model.safetensors"
            if len(shards) > 1:
                file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            part = dict(itertools.islice(tensors, count))
            write_tensors(folder / file, part)
            size += sum(value.nbytes for value in part.values())
            places |= dict.fromkeys(part, file)
            # Before the next is computed.
            del part
        if len(shards) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": places}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            write_text(folder / "model.safetensors.index.json", text)
        shutil.copyfile(config_file(self.frame.folder), folder / "config.json")
        for file in sorted(self.frame.folder.iterdir()):
            about = file.name in _NOT_ALONG or file.name.endswith(".index.json")
            if file.is_file() and file.suffix in _ALONG and not about:
                shutil.copyfile(file, folder / file.name)


def _refuse_other_tokens(own: Whole, tokens: Mapping[str, int], other: Whole) -> None:
    """Refuse tokenizers in which a number means one thing here and another there."""
    here = {number: token for token, number in tokens.items()}
    for token, number in other.numbers_of_tokens().items():
        if here.get(number, token) != token:
            raise ValueError(
                f"the vocabularies differ: number {number} is {here[number]!r} in {own.name} and {token!r} in "
                f"{other.name}, so their embeddings have no sum; add up models of one vocabulary"
            )


def _shards(stored: Sequence[StoredTensor]) -> list[int]:
    """How many tensors, in their order, each file holds."""
    found, filled = [0], 0
    for tensor in stored:
        if found[-1] and filled + tensor.nbytes > SHARD_BYTES:
            found.append(0)
            filled = 0
        found[-1] += 1
        filled += tensor.nbytes
    return found
