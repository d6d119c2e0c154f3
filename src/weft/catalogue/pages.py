"""What there is: lists from folders' files, pages from one file; nothing is kept by hand.

What files say of themselves is read without importing them (`source`): a list or a page comes in a fraction of a
second. Only what is counted in a base (`base=`, and the page of a base) imports torch.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from textwrap import dedent
from typing import Any

from pydantic import BaseModel

from weft.analysis.questions import questions
from weft.answering.metrics import metrics
from weft.base.locate import ALIASES, Alias
from weft.catalogue.including import grid_files
from weft.catalogue.source import Kept, file_of, source_of
from weft.config import RecipeSettings, validate
from weft.data.reading import find_kind, find_spec
from weft.judging.judges import judges
from weft.judging.protocols import protocols
from weft.methods.adapters import adapters
from weft.methods.balances import balances
from weft.methods.controllers import controllers
from weft.methods.merges import merges
from weft.methods.mixtures import mixtures
from weft.methods.optimizers import optimizers
from weft.methods.penalties import penalties
from weft.methods.plans import plans
from weft.methods.rates import REFERENCE_WIDTH, fall_of, rate_for
from weft.methods.recipes import (
    PARTS,
    RecipeFile,
    own_file,
    parts_of,
    recipe_file,
    recipes,
    resolve,
)
from weft.model.heads import heads
from weft.prompting.styles import styles
from weft.registry import Registry, unknown
from weft.tasks.kinds import kinds
from weft.tasks.sets import sets

Entry = dict[str, str]
Page = dict[str, Any]

_CITATION = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:[^\s,;)]+|https?://[^\s,;)]+")
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def listed(what: str) -> list[Entry]:
    """The entries of one list: a name, a summary in one line, and where it comes from.

    Raises:
        ValueError: If there is no such list.
    """
    if what not in LISTS:
        raise ValueError(unknown("list", what, LISTS))
    return LISTS[what]()


def described(
    what: str,
    name: str,
    *,
    base: str | None = None,
    experts: int | None = None,
    values: Mapping[str, Any] | None = None,
) -> Page:
    """All about one recipe, task, base, adapter, mixture or merge, as JSON values.

    Args:
        what: A name of `PAGES`.
        name: Its name.
        base: recipe, adapter, mixture: count parameters on this base, from its config alone.
        experts: mixture: how many experts are mixed in that count; None is 3.
        values: mixture: its settings in that count.

    Raises:
        KeyError: If there is no such name; the message names the nearest.
        ValueError: If there are no such pages, or they do not count parameters.
    """
    if what not in PAGES:
        raise ValueError(unknown("page", what, PAGES))
    if base is not None and what not in ("recipe", "adapter", "mixture"):
        raise ValueError(f"--base {base}: a {what} has no parameters on a base; leave it away")
    if (experts is not None or values) and what != "mixture":
        raise ValueError(f"--experts and --set count a mixture's parameters, not a {what}'s")
    page = PAGES[what](name, base)
    if what == "mixture" and base is not None:
        from weft.catalogue.counting import mixture_parameters

        page["parameters"] = mixture_parameters(name, base, experts or 3, values or {})
    return page


def settings(spec: type[BaseModel], defaults: Mapping[str, Any]) -> list[Entry]:
    """Name, default, limits and meaning of every setting."""
    schema = spec.model_json_schema().get("properties", {})
    return [
        {
            "name": name,
            "default": str(defaults.get(name, field.get("default", "required"))),
            "limits": " ".join(
                f"{sign} {field[key]}" for key, sign in _LIMITS.items() if key in field
            ),
            "meaning": field.get("description", ""),
        }
        for name, field in schema.items()
    ]


def equation(page: str) -> str:
    """The first indented block of a module's docstring."""
    found = re.search(r"^(?: {4}.*(?:\n|$))+", page, flags=re.MULTILINE)
    return dedent(found[0]).strip() if found else ""


def _first_line(page: str | None) -> str:
    return (page or "").strip().partition("\n")[0]


def _methods(registry: Registry[Any]) -> Callable[[], list[Entry]]:
    def entries() -> list[Entry]:
        found = []
        for name in registry.names():
            page = _page_of(registry, name)
            cited = _CITATION.search(page)
            summary = _first_line(page)
            found.append({"name": name, "summary": summary, "citation": cited[0] if cited else ""})
        return found

    return entries


def _page_of(registry: Registry[Any], name: str) -> str:
    """The docstring of the file that a method is."""
    if _is_own(registry, name):
        return source_of(f"{registry.package}.{name}").page
    kind = registry.load(name)
    # A package of somebody else's may say it of the class alone.
    return inspect.cleandoc(sys.modules[kind.__module__].__doc__ or kind.__doc__ or "")


def _is_own(registry: Registry[Any], name: str) -> bool:
    """Whether a method is a file of this package; one from outside is loaded to be shown."""
    registry.file(name)  # refuses a name that is no method's
    return file_of(f"{registry.package}.{name}") is not None


def _attribute(registry: Registry[Any], name: str, attribute: str) -> Any:
    """What the class of a method sets an attribute to."""
    if _is_own(registry, name):
        return _kept(registry, name).attribute(attribute)
    return getattr(registry.load(name), attribute)


def _kept(registry: Registry[Any], name: str) -> Kept:
    return source_of(f"{registry.package}.{name}").kept(registry.contract_place)


def settings_of(file: RecipeFile) -> list[type[BaseModel]]:
    """The settings of a recipe's adapter and of its other parts, in that order."""
    found = [_attribute(adapters, file.adapter, "spec_type")] if file.adapter else []
    for kind, registry in PARTS.items():
        found += [_attribute(registry, name, "settings_type") for name in parts_of(file, kind)]
    return found


def _recipes() -> list[Entry]:
    files = {name: recipe_file(name) for name in recipes.names()}
    return [
        {"name": name, "summary": file.summary, "paper": file.paper, "citation": file.citation}
        for name, file in files.items()
    ]


def _tasks() -> list[Entry]:
    specs = [find_spec(name) for name in sets.names()]
    return [
        {
            "name": spec.name,
            "kind": spec.kind,
            "summary": spec.description,
            "licence": spec.licence,
            "citation": spec.citation,
        }
        for spec in specs
    ]


def _kinds() -> list[Entry]:
    return [
        {"name": name, "summary": _first_line(_kept(kinds, name).page)} for name in kinds.names()
    ]


def _bases() -> list[Entry]:
    files = {name: _alias(name) for name in ALIASES.names()}
    return [
        {"name": name, "summary": alias.description, "licence": alias.licence, "hub": alias.hub}
        for name, alias in files.items()
    ]


def _heads() -> list[Entry]:
    return [
        {"name": name, "summary": _first_line(kind.page), "mirrors": kind.attribute("auto")}
        for name in heads.names()
        if (kind := _kept(heads, name))
    ]


def _alias(name: str) -> Alias:
    return validate(Alias, ALIASES.read(name), f"base {name}")


def _recipe_page(name: str, base: str | None) -> Page:
    file = recipe_file(name)
    own = own_file(name)
    page: Page = {"recipe": own.stem if own else name, "summary": file.summary}
    if file.adapter is not None:
        page |= {"equation": equation(_page_of(adapters, file.adapter)), "adapter": file.adapter}
    else:
        # Where there is no adapter whose page has it, the summary ends in it.
        page["equation"] = file.summary.rpartition(": ")[2]
    page |= {"paper": file.paper, "citation": file.citation, "trains": file.trains}
    page |= {kind: named for kind in PARTS if (named := getattr(file, kind))}
    if file.adapter is not None:
        page["targets"] = [file.targets] if isinstance(file.targets, str) else file.targets
        page["settings"] = [
            entry for kind in settings_of(file) for entry in settings(kind, file.settings)
        ]
    page["training"] = file.training
    others = "".join(
        f"; on {', '.join(other.targets)} {other.learning_rate:g}" for other in file.rates_elsewhere
    )
    stated = f"{file.training['learning_rate']:g}{others}"
    if "head_learning_rate" in file.training:
        stated += f", the head's {file.training['head_learning_rate']:g},"
    page["rate"] = f"{stated} at width {REFERENCE_WIDTH}{fall_of(file.trains)}"
    if base is not None:
        from weft.base.loading import config_of
        from weft.catalogue.counting import parameters

        recipe = resolve(RecipeSettings(name=name))
        page["parameters"] = parameters(recipe, base)
        width = config_of(base).hidden_size
        rate = rate_for(recipe.learning_rate, file.trains, width)
        page["rate on this base"] = f"{rate.value:g}: {rate.said}"
    return page | {"file": str(own or recipes.file(name))}


def _adapter_page(name: str, base: str | None) -> Page:
    text = _page_of(adapters, name)
    page: Page = {"adapter": name, "summary": _first_line(text), "equation": equation(text)}
    page |= {"page": text, "settings": settings(_attribute(adapters, name, "spec_type"), {})}
    used = [recipe for recipe in recipes.names() if recipe_file(recipe).adapter == name]
    page["recipes"] = used
    if base is not None:
        from weft.catalogue.counting import parameters

        page["parameters"] = [
            {"recipe": used_by, **parameters(resolve(RecipeSettings(name=used_by)), base)}
            for used_by in used
        ]
    return page | {"file": str(adapters.file(name))}


def _mixture_page(name: str, base: str | None) -> Page:
    text = _page_of(mixtures, name)
    return {
        "mixture": name,
        "summary": _first_line(text),
        "equation": equation(text),
        "page": text,
        "settings": settings(_attribute(mixtures, name, "settings_type"), {}),
        "learning_rate": _attribute(mixtures, name, "learning_rate"),
        "file": str(mixtures.file(name)),
    }


def _merge_page(name: str, base: str | None) -> Page:
    text = _page_of(merges, name)
    return {
        "merge": name,
        "summary": _first_line(text),
        "equation": equation(text),
        "keeps": _attribute(merges, name, "keeps"),
        "loses": _attribute(merges, name, "loses"),
        "page": text,
        "settings": settings(_attribute(merges, name, "settings_type"), {}),
        "file": str(merges.file(name)),
    }


def _task_page(name: str, base: str | None) -> Page:
    spec = find_spec(name)
    kind = find_kind(spec)
    page: Page = {"task": spec.name, **spec.model_dump(mode="json", exclude={"name"})}
    target = [kind.target] if kind.target else []
    page["columns of the kind"] = [*kind.columns, *kind.optional, *target]
    page["settings"] = settings(sys.modules[kind.__module__].Options, spec.options)
    page["page"] = inspect.cleandoc(kind.__doc__ or "")
    return page | {"file": str(sets.file(name)) if name in sets.names() else name}


def _base_page(name: str, base: str | None) -> Page:
    from weft.base.loading import skeleton
    from weft.base.positions import max_positions
    from weft.lowrank.roles import roles_of
    from weft.model.passage import served

    trunk = skeleton(name)
    config = trunk.config
    page: Page = {"base": name}
    if name in ALIASES.names():
        page |= _alias(name).model_dump(exclude_none=True)
    return page | {
        "model_type": config.model_type,
        "parameters": sum(value.numel() for value in trunk.parameters()),
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "vocabulary": config.vocab_size,
        "positions": max_positions(trunk),
        "roles": {role: list(maps) for role, maps in roles_of(trunk).items()},
        "kinds of task": served(config),
    }


def _questions() -> list[Entry]:
    found = []
    for name in questions.names():
        cited = _CITATION.search(_page_of(questions, name))
        asks, needs = (_attribute(questions, name, key) for key in ("asks", "needs"))
        citation = cited[0] if cited else ""
        found.append({"name": name, "summary": asks, "needs": needs, "citation": citation})
    return found


def _grids() -> list[Entry]:
    return [{"name": name, "file": str(path)} for name, path in grid_files().items()]


LISTS: dict[str, Callable[[], list[Entry]]] = {
    "recipes": _recipes,
    "tasks": _tasks,
    "kinds": _kinds,
    "bases": _bases,
    "adapters": _methods(adapters),
    "optimizers": _methods(optimizers),
    "penalties": _methods(penalties),
    "controllers": _methods(controllers),
    "plans": _methods(plans),
    "balances": _methods(balances),
    "heads": _heads,
    "mixtures": _methods(mixtures),
    "merges": _methods(merges),
    "grids": _grids,
    "questions": _questions,
    "styles": _methods(styles),
    "metrics": _methods(metrics),
    "judges": _methods(judges),
    "protocols": _methods(protocols),
}
PAGES: dict[str, Callable[[str, str | None], Page]] = {
    "recipe": _recipe_page,
    "task": _task_page,
    "base": _base_page,
    "adapter": _adapter_page,
    "mixture": _mixture_page,
    "merge": _merge_page,
}
