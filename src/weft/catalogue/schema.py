"""JSON Schema of a run: what editors complete and check while a config is written."""

import copy
from typing import Any

from weft.config import RecipeSettings, Run
from weft.methods.recipes import recipe_file, recipes, settings_types

NAMED = ("TaskSettings", "RecipeSettings")
"""Settings that may be said as a bare name."""
EMPTY = [None, [], {}]
_OWN = {"type": "string", "pattern": r"\.ya?ml$"}
_OWN_RECIPE: dict[str, Any] = {
    "title": "a recipe of the user's own",
    "description": "The path of its YAML file, or its description; its settings are checked when it is read.",
    "type": "object",
    "required": ["name"],
    "anyOf": [
        {"properties": {"name": _OWN}},
        {"properties": {"spec": {"type": "object"}}, "required": ["spec"]},
    ],
}


def run_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a run's YAML; each recipe with its own method's settings alone."""
    schema = Run.model_json_schema()
    definitions = schema["$defs"]
    for name in recipes.names():
        definitions[f"recipe_{name}"] = _recipe_schema(name)
    definitions["own_recipe"] = _OWN_RECIPE
    definitions["RecipeSettings"] = {
        "anyOf": [
            *({"$ref": f"#/$defs/recipe_{name}"} for name in recipes.names()),
            {"$ref": "#/$defs/own_recipe"},
        ]
    }
    for place in schema["properties"].values():
        _allow_bare_names(place)
        _allow_bare_names(place.get("items", {}))
    # What pydantic checks in code: `task` or `tasks`, not both.
    one = {"task": {"not": {"type": "null"}}, "tasks": {"maxItems": 0}}
    several = {"task": {"type": "null"}, "tasks": {"minItems": 1}}
    schema["oneOf"] = [
        {"required": ["task"], "properties": one},
        {"required": ["tasks"], "properties": several},
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _recipe_schema(name: str) -> dict[str, Any]:
    """Settings of one recipe: the common ones and its method's, with the recipe's own defaults."""
    file = recipe_file(name)
    properties = copy.deepcopy(RecipeSettings.model_json_schema()["properties"])
    if file.adapter is None:
        # Settings about adapters say nothing here; a complete run.yaml holds them, empty.
        properties |= {key: {"enum": EMPTY} for key in properties if key != "name"}
    else:
        for part in settings_types(file):
            properties |= copy.deepcopy(part.model_json_schema().get("properties", {}))
        for key, value in {"targets": file.targets, **file.settings}.items():
            properties[key]["default"] = value
    properties["name"] = {"const": name, "title": "Name"}
    properties["spec"] = {"enum": [None], "title": "Spec"}
    return {
        "title": f"recipe {name}",
        "description": f"{file.summary} {file.citation}",
        "type": "object",
        "properties": properties,
        "required": [] if name == RecipeSettings().name else ["name"],
        "additionalProperties": False,
    }


def _allow_bare_names(place: dict[str, Any]) -> None:
    """Where one of `NAMED` may stand, let its name alone stand too."""
    choices = [{"$ref": place["$ref"]}] if "$ref" in place else place.get("anyOf", [])
    for name in NAMED:
        if {"$ref": f"#/$defs/{name}"} not in choices:
            continue
        bare: dict[str, Any] = {"type": "string"}
        if name == "RecipeSettings":
            bare = {"anyOf": [{**bare, "enum": recipes.names()}, _OWN]}
        place.pop("$ref", None)
        place["anyOf"] = [bare, *choices]
