"""The types of what a PEFT config says, checked before anything is read from it.

Read from PEFT 0.21.2: `tuners/lora/config.py`, `tuners/adalora/config.py`, `tuners/loha/config.py`,
`tuners/vera/config.py`. Keys that are not named here are for `peft_config.py` to judge.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Count = Annotated[int, Field(gt=0, le=1 << 16)]
Strength = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = str | list[str] | None


class Common(BaseModel):
    """What every type of adapter may say."""

    model_config = ConfigDict(strict=True, extra="allow")

    task_type: str | None = None
    base_model_name_or_path: str | None = None
    target_modules: Names = None
    exclude_modules: Names = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names = None
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only", "vera_only"] = "none"


class Lora(Common):
    """Settings of `peft_type: LORA`."""

    r: Count
    lora_alpha: Strength
    rank_pattern: dict[str, Count] | None = None
    alpha_pattern: dict[str, Strength] | None = None
    use_rslora: bool | None = False
    use_dora: bool | None = False
    lora_bias: bool = False
    init_lora_weights: bool | str | None = True
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None


class AdaLora(Common):
    """Settings of `peft_type: ADALORA`; the ranks that are left are those of the tensors."""

    init_r: Count
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)]
    rank_pattern: dict[str, list[bool]] | None = None
    use_dora: Literal[False] | None = False
    init_lora_weights: bool = True


class LoHa(Common):
    """Settings of `peft_type: LOHA`."""

    r: Count
    alpha: Strength
    rank_pattern: dict[str, Count] | None = None
    alpha_pattern: dict[str, Strength] | None = None


class Vera(Common):
    """Settings of `peft_type: VERA`."""

    r: Count
    projection_prng_key: Annotated[int, Field(ge=0, lt=1 << 63)] | None = 0
    save_projection: bool = True


TYPES: dict[str, TypeAdapter[Any]] = {
    "LORA": TypeAdapter(Lora),
    "ADALORA": TypeAdapter(AdaLora),
    "LOHA": TypeAdapter(LoHa),
    "VERA": TypeAdapter(Vera),
}
"""The types of adapter that are read."""


def check_types(config: Mapping[str, Any], path: Path) -> None:
    """Refuse settings of a wrong type, and names that are meant as regular expressions and are none.

    Raises:
        ValueError: Names the file, the setting and what it holds.
    """
    try:
        TYPES[config["peft_type"]].validate_python(dict(config))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][:2])
        said = (
            "is missing"
            if first["type"] == "missing"
            else f"{first['msg']}, got {first['input']!r}"
        )
        raise ValueError(f"{path}: {place}: {said}"[:400]) from None
    for key, pattern in _patterns(config):
        try:
            regex.compile(pattern)
        except (regex.error, RecursionError, OverflowError, IndexError) as error:
            raise ValueError(
                f"{path}: {key}: {pattern[:80]!r} is no regular expression: {error}"
            ) from None


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), str):
            yield key, config[key]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(key) or {}:
            yield key, pattern
    layers = config.get("layers_pattern") or []
    for pattern in [layers] if isinstance(layers, str) else layers:
        yield "layers_pattern", pattern
    for pattern in config.get("modules_to_save") or []:
        yield "modules_to_save", pattern
