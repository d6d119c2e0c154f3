"""Bases: the frozen pretrained trunk, its tokenizer, its identity.

Whatever checkpoints differ in is settled here, once, at load: GPT-2's transposed `Conv1D` maps
become `nn.Linear`, the pooler (which some checkpoints lack and `AutoModel` would invent) is taken
off the trunk, the tokenizer neither cuts nor pads, every parameter is frozen, and the trunk is in
eval mode. No other file asks where a base came from.
"""

import functools
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from weft.base.attention import NAME as OWN_ATTENTION
from weft.base.attention import available
from weft.base.digest import checkpoint_digest, read_tensors, stored_tensors, tensors_digest
from weft.base.forms import (
    blank_trunk,
    brief,
    check_form,
    quiet_transformers,
    read_config,
    trunk_class,
)
from weft.base.locate import ALIASES, alias_config, checkpoint_files, config_file, locate
from weft.base.positions import max_positions
from weft.base.quantised import Bits, check, quantise
from weft.scoped import tell

# Measured by benchmarks/throughput.py: on a CPU SDPA wins in single precision without dropout, but in half precision it
# is slow where there are masks. On CUDA the fused kernels win.
HALF_ATTENTION = {"cpu": OWN_ATTENTION}
"""Attention implementation by device type for arithmetic in half precision; SDPA everywhere else."""


@dataclass
class Base:
    """One frozen pretrained Transformer, ready to be woven into."""

    name: str
    """As the user said it."""
    source: str
    """Hub id or absolute folder."""
    revision: str | None
    """The commit that was loaded, for a base from the hub."""
    trunk: PreTrainedModel
    """`AutoModel` without pooler: frozen, in eval mode, all maps `nn.Linear`."""
    pooler: nn.Module | None
    """The checkpoint's own pooler, frozen; None where architecture or checkpoint has none."""
    tokenizer: PreTrainedTokenizerFast
    missing: frozenset[str] = frozenset()
    """Tensors of the architecture that the checkpoint lacks: at most the pooler's."""
    transposed: frozenset[str] = frozenset()
    """Modules whose weight the checkpoint stores as (in, out): PEFT's `fan_in_fan_out`."""
    files: tuple[Path, ...] = ()
    """The checkpoint's weight files; empty for a trunk built in memory."""
    quantised: Bits | None = None
    """What its linear maps were rounded to."""

    @functools.cached_property
    def digest(self) -> str:
        """Identity of the checkpoint: of its tensors as stored, heads included, before any change.

        A trunk built in memory is identified by its state dict instead.
        """
        return (
            checkpoint_digest(self.files) if self.files else tensors_digest(self.trunk.state_dict())
        )

    @property
    def config(self) -> PreTrainedConfig:
        return self.trunk.config

    @property
    def model_type(self) -> str:
        return self.config.model_type

    @functools.cached_property
    def max_positions(self) -> int | None:
        """Longest sequence in tokens, special ones included; None where nothing limits it."""
        return max_positions(self.trunk)

    @property
    def num_parameters(self) -> int:
        """Parameters of trunk and pretrained pooler."""
        modules = [self.trunk, *([self.pooler] if self.pooler is not None else [])]
        return sum(parameter.numel() for module in modules for parameter in module.parameters())


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: str | None = None,
    quantised: Bits | None = None,
) -> Base:
    """The base called `name`, frozen and normalised.

    Args:
        name: An alias, a folder with a transformers checkpoint, a GGUF file, or a hub id (`org/name`).
        revision: Branch, tag or commit; for bases on the hub only.
        dtype: Type of the trunk's parameters.
        device: Where the trunk goes.
        attention: Transformers' attention implementation; None takes the faster one for the device and `dtype`
            (`attention_for`). Architectures without SDPA compute it eagerly.
        quantised: int8 or int4: what the linear maps are rounded to; None leaves them as they are.

    Raises:
        KeyError: If `name` is no alias and looks like neither a folder nor a hub id.
        ValueError: If the checkpoint is incomplete, damaged, holds more than tensors, does not fit its
            config, or is of an architecture that cannot be a base.
    """
    check(quantised, "fp64" if dtype == torch.float64 else "fp32")
    tell(f"loading base {name}")
    device = torch.device(device)
    folder, source, revision = locate(name, revision)
    files = checkpoint_files(folder)
    config = read_config(config_file(folder))
    check_form(config, name)
    stored_tensors(files)
    tokenizer = load_tokenizer(folder)
    wanted = attention or attention_for(device, half=dtype in (torch.bfloat16, torch.float16))
    with quiet_transformers():
        trunk, info = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=available(wanted, trunk_class(config)),
            use_safetensors=files[0].suffix == ".safetensors",
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            # Reported below with both shapes; transformers' own error only points to a log.
            ignore_mismatched_sizes=True,
        )
    takes = inspect.signature(trunk.forward).parameters
    # What the tokenizer makes beside ids and mask is for the trunks that read it.
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in takes]
    missing = frozenset(info["missing_keys"])
    _check_fit(folder, missing, info["mismatched_keys"])
    if hasattr(trunk, "set_attention_type"):
        # Left sparse, it would turn itself to this at the first short text, and stay so for all that follow.
        trunk.set_attention_type("original_full")
    pooler = _take_pooler(trunk)
    transposed = normalise_conv1d(trunk)
    for module in (trunk, pooler):
        if module is not None:
            module.requires_grad_(False).eval().to(device)
    if quantised is not None:
        tell(f"rounding {name} to {quantised}")
        quantise(trunk, quantised)
    return Base(
        name=name,
        source=source,
        revision=revision,
        trunk=trunk,
        pooler=None if missing else pooler,
        tokenizer=tokenizer,
        missing=missing,
        transposed=frozenset(transposed),
        files=files,
        quantised=quantised,
    )


def config_of(name: str, *, revision: str | None = None) -> PreTrainedConfig:
    """The config of a base without its weights; an alias needs no hub.

    Raises:
        KeyError: If `name` is no alias and looks like neither a folder nor a hub id.
        ValueError: If there is no `config.json`, or it names no known model type.
    """
    if name in ALIASES.names():
        values = alias_config(name)
        return CONFIG_MAPPING[values["model_type"]].from_dict(values)
    folder, _, _ = locate(name, revision, patterns=["config.json"])
    return read_config(config_file(folder))


def skeleton(name: str, *, revision: str | None = None) -> PreTrainedModel:
    """The trunk as `load_base` shapes it, on the meta device: names and sizes, no weights.

    Raises:
        KeyError: If `name` is no alias and looks like neither a folder nor a hub id.
        ValueError: If there is no config, or its architecture cannot be a base.
    """
    config = config_of(name, revision=revision)
    check_form(config, name)
    trunk = blank_trunk(config)
    _take_pooler(trunk)
    normalise_conv1d(trunk)
    return trunk.requires_grad_(False).eval()


def untrained(base: Base, *, seed: int) -> Base:
    """A base of the same architecture and size whose weights were drawn, as training from nothing would start it.

    Args:
        base: Its config, tokenizer, type and device are taken.
        seed: Of the draws; torch's own are left alone.
    """
    like = next(base.trunk.parameters())
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = AutoModel.from_config(
            base.config, attn_implementation=base.config._attn_implementation
        )
    _take_pooler(trunk)
    normalise_conv1d(trunk)
    trunk.requires_grad_(False).eval().to(like.device, like.dtype)
    return replace(base, trunk=trunk, pooler=None, files=())


def check_max_length(base: Base, max_length: int) -> None:
    """Refuse sequences longer than the base can number.

    Raises:
        ValueError: If `max_length` exceeds the base's positions.
    """
    limit = base.max_positions
    if limit is not None and max_length > limit:
        raise ValueError(
            f"max_length {max_length} exceeds the {limit} positions of {base.name}; "
            f"set max_length to {limit} or less, or take a base with more positions"
        )


def checkpoint_tensors(base: Base, names: Iterable[str]) -> dict[str, Tensor]:
    """Those of the tensors called `names` that the checkpoint stores, as stored, in host memory.

    Old checkpoints say `gamma` and `beta` for a norm's `weight` and `bias`; they are found under
    the new names.
    """
    stored = {modern(name): (name, tensor) for name, tensor in stored_tensors(base.files).items()}
    wanted = {name: stored[name] for name in names if name in stored}
    values = read_tensors(dict(wanted.values()))
    return {name: values[old] for name, (old, _) in wanted.items()}


def normalise_conv1d(trunk: nn.Module) -> list[str]:
    """Replace every `Conv1D`, whose weight is (in, out), by an equal `nn.Linear`; their names.

    One weight at a time, so no second copy of the trunk is ever alive.
    """
    names = [name for name, module in trunk.named_modules() if isinstance(module, Conv1D)]
    for name in names:
        old = cast(Conv1D, trunk.get_submodule(name))
        linear = nn.Linear(old.nx, old.nf, device="meta")
        linear.weight = nn.Parameter(old.weight.detach().T.contiguous(), old.weight.requires_grad)
        linear.bias = old.bias
        trunk.set_submodule(name, linear.train(old.training))
    return names


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in a folder, which neither cuts nor pads.

    Raises:
        ValueError: If there is none, or a slow one alone.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no tokenizer that can be loaded: {brief(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"{folder} has a {type(tokenizer).__name__} only; "
            "a fast tokenizer (tokenizer.json) is needed"
        )
    # Some files carry settings for cutting and padding, which would silently shorten texts.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def attention_for(device: torch.device | str, *, half: bool) -> str:
    """The faster attention implementation on `device`, for arithmetic in half precision or not.

    Never transformers' eager one in double precision: ModernBERT's and Llama's take their softmax in single, where the
    mask's smallest double is -inf, so rows that see only padding become NaN.
    """
    return HALF_ATTENTION.get(torch.device(device).type, "sdpa") if half else "sdpa"


def _check_fit(
    folder: Path, missing: frozenset[str], mismatched: set[tuple[str, tuple[int], tuple[int]]]
) -> None:
    absent = sorted(name for name in missing if not name.startswith("pooler."))
    if absent:
        raise ValueError(f"{folder} lacks tensors its config asks for: {', '.join(absent)}")
    shapes = [f"{name} is {tuple(a)}, expected {tuple(b)}" for name, a, b in sorted(mismatched)]
    if shapes:
        raise ValueError(f"{folder} does not fit its config.json: {'; '.join(shapes)}")


def modern(name: str) -> str:
    """A tensor's name as checkpoints say it now; old ones call a norm's `weight` and `bias` gamma and beta."""
    parent, _, last = name.rpartition(".")
    last = {"gamma": "weight", "beta": "bias"}.get(last, last)
    return f"{parent}.{last}" if parent else last


def _take_pooler(trunk: PreTrainedModel) -> nn.Module | None:
    pooler = getattr(trunk, "pooler", None)
    if pooler is not None:
        # Trunks that can be made without a pooler do without; the others call whatever stands there.
        spared = "add_pooling_layer" in inspect.signature(type(trunk).__init__).parameters
        trunk.register_module("pooler", None if spared else nn.Identity())
    return pooler
