"""The tensors of a PEFT folder: plain names, factors apart from whole modules, shapes checked."""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weft import guard
from weft.base.digest import stored_tensors

ROOT = "base_model.model."
"""What every name starts with: where PEFT's wrapper holds the model."""

VERA_SHARED = ("base_model.vera_A", "base_model.vera_B")
"""What VeRA's maps share, stored beside the model."""
MAGNITUDE = "magnitude_vector"
EMBEDDING_A, EMBEDDING_B = "embedding_A", "embedding_B"
BIAS = "bias"
"""The bias inside an adapter: PEFT's `lora_bias`."""
TOKENS = "tokens"
"""Rows of an embedding that were trained alone: PEFT's `trainable_token_indices`."""
SIDES = ("A", "B")

MOST = 16 << 30
"""Most bytes of an expert's file of tensors."""

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?:"
    r"lora_(?:(?P<side>[AB])(?:\.[^.]+)?\.weight|(?P<row>magnitude_vector)(?:\..+)?"
    r"|(?P<embedding>embedding_[AB])(?:\.[^.]+)?|B(?:\.[^.]+)?\.(?P<bias>bias))"
    r"|token_adapter\.(?:trainable_tokens_delta)(?P<tokens>)(?:\.[^.]+)?)"
)
_OTHER_FORMS = {".lora_": "no plain LoRA", ".token_adapter.": "the rows of an embedding"}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, all finite.

    Raises:
        ValueError: If the file is missing or damaged, no regular file or over `MOST` bytes, or a tensor is not finite.
    """
    guard.check_file(path, MOST)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(_damage(path, error)) from None
    check_values(tensors, path)
    return tensors


def _damage(path: Path, error: SafetensorError) -> str:
    try:
        # Says what is wrong with a file that is cut short, which the library does not.
        stored_tensors([path])
    except ValueError as better:
        return str(better)[:400]
    except (AttributeError, IndexError, KeyError, TypeError):
        pass
    return f"{path} is damaged: {error}"[:400]


def check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what no trained weight can be.

    Raises:
        ValueError: Names a tensor that is not finite, or of a type that nothing here computes in.
    """
    for name, value in tensors.items():
        if value.dtype not in _READ:
            raise ValueError(
                f"{path}: {name} is of type {value.dtype}; expected one of {', '.join(map(str, _READ))}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{path}: {name} holds NaN or infinite values, so it is of no use; train again"
            )


_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_READ = (*_FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)


def named_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder's file by their names below the task class.

    Raises:
        ValueError: If the file is missing, damaged or a pickle of more than tensors, or a name is not PEFT's.
    """
    tensors = read_pickled(path) if path.suffix == ".bin" else read_tensors(path)
    for name, value in tensors.items():
        if value.dtype not in _FLOATS and not name.endswith("position_ids"):
            raise ValueError(f"{path}: {name} is of type {value.dtype}, but weights are floats")
    return _without_wrappers(tensors, path)


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, opened by a reader that runs no code.

    Raises:
        ValueError: If the file is damaged, or holds anything but tensors by name: opening that could run any code.
    """
    guard.check_file(path, MOST)
    try:
        _refuse_packed(path)
        with warnings.catch_warnings():
            # Torch remarks on pickles of other protocols, which it reads or refuses all the same.
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path} is a pickle of more than tensors{f' ({named[1]})' if named else ''}, and opening it could run any "
            "code; save the adapter again with PEFT (`save_pretrained`), which writes safetensors"
        ) from None
    except _BROKEN as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}"[:400]) from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise ValueError(f"{path}: expected tensors by name, got {type(found).__name__} of more")
    size = path.stat().st_size
    for name, value in found.items():
        if value.numel() * value.element_size() > size:
            raise ValueError(f"{path} is damaged: {name} says to be larger than the file")
    tensors = {name: value.detach().clone().contiguous() for name, value in found.items()}
    check_values(tensors, path)
    return tensors


def _refuse_packed(path: Path) -> None:
    """Torch never compresses: a file that unpacks to more than it is was not written by it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            packed = [part.filename for part in file.infolist() if part.compress_type]
        if packed:
            raise ValueError(f"{packed[0]} is compressed")


_BROKEN = (
    AssertionError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch's reader lets through where a file is cut short or its parts do not belong together."""


def _without_wrappers(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names below the task class; old files have `modules_to_save.<adapter>.` in them, too."""
    wrong = [name for name in tensors if not name.startswith(ROOT) and name not in VERA_SHARED]
    if wrong:
        raise ValueError(f"{path}: expected tensors named {ROOT}..., got {wrong[0]}")
    inside = ".modules_to_save."
    after = [name.partition(inside)[2] for name in tensors if inside in name]
    adapters = {rest.partition(".")[0] for rest in after}
    # One name before every parameter is the adapter's; `weight` and `bias` are parameters.
    named = len(adapters) == 1 and all("." in rest for rest in after)
    found = {}
    for name, value in tensors.items():
        if ".original_module." in name:
            continue
        module, wrapped, rest = name.removeprefix(ROOT).partition(inside)
        rest = rest.partition(".")[2] if named else rest
        full = f"{module}.{rest}" if wrapped else module
        if full in found and not torch.equal(found[full], value):
            raise ValueError(f"{path}: holds two different tensors for {full}")
        found[full] = value
    return found


def sorted_out(
    tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """What adapters hold by module and side (A, B, magnitude, bias, an embedding's, rows), and everything else."""
    factors: dict[str, dict[str, Tensor]] = {}
    extra = {}
    for name, value in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match:
            side = match["side"] or match["row"] or match["embedding"] or match["bias"] or TOKENS
            factors.setdefault(match["module"], {})[side] = value
            continue
        for mark, what in _OTHER_FORMS.items():
            if mark in name:
                raise ValueError(
                    f"{path}: {name} belongs to {what}; weft reads plain LoRA on linear maps"
                )
        # Where PEFT's wrapper holds the module itself.
        extra[name.replace(".base_layer.", ".")] = value
    if not factors:
        raise ValueError(f"{path}: holds no lora_A and lora_B, so there is nothing to weave in")
    return factors, extra


def trunk_prefix(names: Collection[str], modules: Collection[str], path: Path) -> str:
    """What stands before the trunk's own names: nothing, or the trunk's name in a task class."""
    if all(name in modules for name in names):
        return ""
    first = next(iter(names)).partition(".")[0]
    for name in names:
        if not (name.startswith(f"{first}.") and name.removeprefix(f"{first}.") in modules):
            near = sorted(modules)[0]
            raise ValueError(
                f"{path}: {name} is no linear map of this base's trunk (its maps are like {near}); "
                "the adapter belongs to another architecture or depth, or adapts a pooler or head"
            )
    return first


def factor_pair(
    name: str, sides: Mapping[str, Tensor], shape: tuple[int, int], path: Path
) -> tuple[Tensor, Tensor]:
    """A and B of one map.

    Raises:
        ValueError: If one is missing, or a shape is not that of the map's `shape` (out, in).
    """
    for side in "AB":
        if side not in sides:
            raise ValueError(f"{path}: lacks {ROOT}{name}.lora_{side}.weight")
    A, B = sides["A"], sides["B"]
    out_features, in_features = shape
    rank = A.shape[0] if A.dim() == 2 else None
    for side, value, expected in (("A", A, (rank, in_features)), ("B", B, (out_features, rank))):
        if tuple(value.shape) != expected:
            raise ValueError(
                f"{path}: {name}.lora_{side}.weight is {tuple(value.shape)}, but this base's "
                f"{name} takes "
                f"{in_features} values and gives {out_features}, so expected {expected}"
            )
    return A, B


def magnitude(
    name: str, sides: Mapping[str, Tensor], shape: tuple[int, int], wanted: bool, path: Path
) -> Tensor | None:
    """DoRA's row norms of one map, where the config says `use_dora`.

    Raises:
        ValueError: If they are missing, there although the config says no, or of another shape.
    """
    value = sides.get(MAGNITUDE)
    full = f"{ROOT}{name}.lora_{MAGNITUDE}"
    if value is None:
        if wanted:
            raise ValueError(f"{path}: lacks {full}, though the config says use_dora")
        return None
    if not wanted:
        raise ValueError(
            f"{path}: {full} belongs to DoRA, but the config does not say use_dora; set it, or "
            "remove the tensor"
        )
    if tuple(value.shape) != shape[:1]:
        raise ValueError(
            f"{path}: {full} is {tuple(value.shape)}, but this base's {name} gives {shape[0]} values"
        )
    return value
