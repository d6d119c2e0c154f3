"""A checkpoint's tensors as they are stored, read one at a time, and those that pruning changed."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from weft.base.digest import read_tensors, stored_tensors
from weft.base.loading import config_of, normalise_conv1d
from weft.base.locate import checkpoint_files


class Stored:
    """The checkpoint in a folder, its maps under the names that the trunk gives them.

    Raises:
        ValueError: If the checkpoint is incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = checkpoint_files(folder)
        self._stored = stored_tensors(self.files)
        with torch.device("meta"):
            self.trunk: PreTrainedModel = AutoModel.from_config(
                config_of(str(folder)), trust_remote_code=False
            )
        self._transposed = frozenset(normalise_conv1d(self.trunk))
        # Checkpoints of a task class have the trunk's own name before it.
        below = f"{self.trunk.base_model_prefix}."
        self._names = {name.removeprefix(below): name for name in self._stored}
        self._changed: dict[str, Tensor] = {}

    def weight(self, module: str) -> Tensor:
        """A map's weight, (out, in).

        Raises:
            ValueError: If the checkpoint lacks it, or stores it as whole numbers.
        """
        name = self._names.get(f"{module}.weight")
        if name is None:
            raise ValueError(f"{self.folder} lacks {module}.weight, which its config asks for")
        value = self._read(name)
        if not value.is_floating_point():
            raise ValueError(
                f"{self.folder}: {name} is quantised ({value.dtype}); prune the base before it is"
            )
        return value.T if module in self._transposed else value

    def put(self, module: str, weight: Tensor) -> None:
        """Give a map another weight, (out, in)."""
        turned = weight.T if module in self._transposed else weight
        self._changed[self._names[f"{module}.weight"]] = turned.contiguous()

    def select(self, module: str, side: str, places: Tensor) -> None:
        """Leave a map only these rows, with their biases (`side` out), or these columns (in)."""
        self.put(module, self.weight(module).index_select(0 if side == "out" else 1, places))
        bias = self._names.get(f"{module}.bias")
        if side == "out" and bias is not None:
            self._changed[bias] = self._read(bias).index_select(0, places)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by the names they are stored under."""
        return {name: self._read(name) for name in self._stored}

    def _read(self, name: str) -> Tensor:
        if name in self._changed:
            return self._changed[name]
        return read_tensors({name: self._stored[name]})[name]
