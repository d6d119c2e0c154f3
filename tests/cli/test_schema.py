import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.config import load_run
from weft.methods.recipes import recipes, resolve
from weft.runs import RunFolder

Say = Callable[..., Any]
CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


def fits(value: Any, schema: Any, whole: Any) -> bool:
    """Whether a value obeys a JSON Schema: the keywords that a run's schema uses, and no others."""
    kinds = {
        "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
        "array": list, "object": dict,
    }  # fmt: skip
    known = {
        "$defs", "$schema", "$ref", "anyOf", "oneOf", "type", "enum", "const", "not", "properties",
        "required", "additionalProperties", "propertyNames", "items", "maxItems", "minItems",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "title", "description",
        "default", "pattern",
    }  # fmt: skip
    assert set(schema) <= known
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    checks = {
        "$ref": lambda ref: fits(value, whole["$defs"][ref.rpartition("/")[2]], whole),
        "anyOf": lambda parts: any(fits(value, part, whole) for part in parts),
        "oneOf": lambda parts: sum(fits(value, part, whole) for part in parts) == 1,
        "not": lambda part: not fits(value, part, whole),
        "type": lambda kind: (
            isinstance(value, kinds[kind])
            and not (isinstance(value, bool) and kind in ("integer", "number"))
        ),
        "enum": lambda values: value in values,
        "pattern": lambda wanted: not isinstance(value, str) or bool(re.search(wanted, value)),
        "const": lambda only: value == only,
        "required": lambda names: not isinstance(value, dict) or set(names) <= set(value),
        "properties": lambda own: (
            not isinstance(value, dict)
            or all(fits(value[name], part, whole) for name, part in own.items() if name in value)
        ),
        "additionalProperties": lambda allowed: (
            not isinstance(value, dict)
            or all(
                allowed is not False and (allowed is True or fits(value[name], allowed, whole))
                for name in set(value) - set(schema.get("properties", {}))
            )
        ),
        "propertyNames": lambda part: (
            not isinstance(value, dict) or all(fits(name, part, whole) for name in value)
        ),
        "items": lambda part: (
            not isinstance(value, list) or all(fits(item, part, whole) for item in value)
        ),
        "maxItems": lambda most: not isinstance(value, list) or len(value) <= most,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "minimum": lambda limit: not is_number or value >= limit,
        "maximum": lambda limit: not is_number or value <= limit,
        "exclusiveMinimum": lambda limit: not is_number or value > limit,
        "exclusiveMaximum": lambda limit: not is_number or value < limit,
    }
    return all(check(schema[key]) for key, check in checks.items() if key in schema)


@pytest.fixture(scope="module")
def schema(say: Say) -> Any:
    return say("schema").json


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_obeys_it(path: Path, schema: Any) -> None:
    assert fits(yaml.safe_load(path.read_text("utf-8")), schema, schema)


def test_a_complete_run_yaml_obeys_it(trained: RunFolder, schema: Any) -> None:
    assert fits(yaml.safe_load((trained.path / "run.yaml").read_text()), schema, schema)


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "swag", "recipe": "lora"},
        {"task": "swag", "recipe": {"rank": 4}},
        {"tasks": ["swag", {"name": "squad"}], "recipe": {"name": "full"}},
        {
            "task": "swag",
            "training": {"epochs": 0.5},
            "recipe": {"name": "lora", "ranks": {"query": 2}},
        },
        {"task": "swag", "training": {"learning_rate": "search"}},
    ],
)
def test_what_a_run_takes_it_takes(settings: dict[str, Any], schema: Any) -> None:
    resolve(load_run(settings).recipe)
    assert fits(settings, schema, schema)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task": "swag", "tasks": ["squad"]},
        {"task": "swag", "recipe": "lorra"},
        {"task": "swag", "recipe": {"name": "lora", "rnak": 4}},
        {"task": "swag", "recipe": {"name": "lora", "rank": 0}},
        {"task": "swag", "recipe": {"name": "head", "rank": 4}},
        {"task": "swag", "recipe": {"name": "full", "targets": ["query"]}},
        {"task": "swag", "training": {"epoch": 1}},
        {"task": "swag", "training": {"epochs": 0}},
        {"task": "swag", "training": {"learning_rate": "serach"}},
        {"task": "swag", "training": {"learning_rate": 0}},
        {"task": 3},
    ],
)
def test_what_a_run_refuses_it_refuses(settings: dict[str, Any], schema: Any) -> None:
    with pytest.raises((ValueError, KeyError)):
        resolve(load_run(settings).recipe)
    assert not fits(settings, schema, schema)


def test_every_recipe_has_its_own_settings(schema: Any) -> None:
    for name in recipes.names():
        properties = schema["$defs"][f"recipe_{name}"]["properties"]
        spec = resolve(load_run({"task": "swag", "recipe": name}).recipe).spec
        for setting, value in (spec.model_dump() if spec else {}).items():
            assert properties[setting]["default"] == value
