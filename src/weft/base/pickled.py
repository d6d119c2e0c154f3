"""Checkpoints that exist only as `.bin`: what torch pickled, read as tensors and as nothing else."""

import pickle
from pathlib import Path

import torch
from torch import Tensor


def pickled_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file by name, in host memory, mapped where the file allows it.

    Only tensors are read; a pickle that would make any other object is refused before it makes one.

    Raises:
        ValueError: If the file is damaged, or holds anything else than tensors by name.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; copy or download it again")
    try:
        found = _read(path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle of more than tensors, and opening one can run any code; save the "
            "model again with safetensors (`save_pretrained`) on a machine that trusts it"
        ) from error
    except (RuntimeError, EOFError, KeyError, IndexError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no torch file; download it again") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise ValueError(
            f"{path} holds more than tensors by name, so it is no checkpoint of weights alone; save "
            "the model again with `save_pretrained`"
        )
    return dict(found)


def _read(path: Path) -> object:
    with path.open("rb") as file:
        # Files of torch before 1.6 are no archives and cannot be mapped.
        archive = file.read(4) == b"PK\x03\x04"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=archive or None)
