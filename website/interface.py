"""Reference of what is called: the Python verbs from their docstrings, commands and settings from themselves."""

from collections.abc import Iterator
from typing import Any

import griffe
import typer.main
from griffe import Expr, ExprName
from pydantic import BaseModel

import weft
from website.catalogue import FOLDER, as_markdown, table
from website.sources import ROOT
from weft import config
from weft.catalogue.pages import settings
from weft.cli import app

PYTHON = f"{FOLDER}/python"
SETTINGS = (config.Run, config.TaskSettings, config.RecipeSettings, config.MixtureSettings)
SETTINGS += (config.TrainingSettings,)
"""In the order of the page."""


def interface_pages() -> dict[str, str]:
    """Markdown by place on the site."""
    texts = _python_pages()
    texts[f"{FOLDER}/commands.md"] = "\n".join(_commands())
    texts[f"{FOLDER}/settings.md"] = "\n".join(_settings())
    return texts


def _python_pages() -> dict[str, str]:
    """A page for each public name, with the classes that it returns."""
    package = griffe.load("weft", search_paths=[str(ROOT / "src")])
    public: dict[str, Any] = {
        name: package[name].final_target for name in weft.__all__ if not name.startswith("__")
    }
    pages = {found.path: name for name, found in public.items()}
    texts, rows = {}, []
    for name, found in public.items():
        said = found.docstring.value.splitlines()[0] if found.docstring else ""
        rows.append(f"- [`weft.{name}`]({name}.md): {as_markdown(said)}")
        parts = [f"# weft.{name}", "", f"::: {found.path}"]
        for path in _returned(found):
            own = pages.get(path)
            parts += ["", f"It returns a [`weft.{own}`]({own}.md)." if own else f"::: {path}"]
        texts[f"{PYTHON}/{name}.md"] = "\n".join([*parts, ""])
    words = "What `import weft` gives. Each is imported when it is first asked for; `import weft` alone loads no torch."
    texts[f"{PYTHON}/index.md"] = "\n".join(["# Python", "", words, "", *rows, ""])
    return texts


def _returned(found: Any) -> Iterator[str]:
    """Classes of weft that a function's return annotation names."""
    if not found.is_function or not isinstance(found.returns, Expr):
        return
    names = [part for part in found.returns.iterate(flat=True) if isinstance(part, ExprName)]
    for path in dict.fromkeys(part.canonical_path for part in names):
        if path.startswith("weft.") and found.modules_collection[path].is_class:
            yield path


def _commands() -> Iterator[str]:
    """Help of every command."""
    group = typer.main.get_command(app)
    context = group.make_context("weft", [], resilient_parsing=True)
    yield "# Commands"
    yield ""
    yield "Every command says the same with `--help`. `weft --debug COMMAND` shows where an error came from."
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        own = command.make_context(name, [], parent=context, resilient_parsing=True)
        usage = " ".join(command.collect_usage_pieces(own))
        yield f"\n## weft {name}\n"
        yield as_markdown(command.help or "")
        yield f"\n```text\nweft {name} {usage}\n```\n"
        rows = [
            (_called(option), str(getattr(option, "help", "") or "")) for option in command.params
        ]
        yield from table(("argument", "meaning"), rows)
    yield ""


def _called(option: Any) -> str:
    if option.param_type_name == "argument":
        return str(option.metavar or option.name.upper())
    metavar = "" if option.is_flag else f" {option.metavar or option.name.rstrip('_').upper()}"
    return f"{', '.join(option.opts)}{metavar}"


def _settings() -> Iterator[str]:
    """Every key of a run's YAML but those of methods, which their pages have."""
    yield "# Settings"
    yield ""
    yield (
        "What a run's YAML may say. Every key works in `--set` too: `--set training.epochs=1`. Keys of a method are on "
        "the page of its [recipe](recipes/index.md) or [mixture](mixtures/index.md); `weft schema` prints all of it as "
        "JSON Schema."
    )
    for kind in SETTINGS:
        yield f"\n## {_heading(kind)}\n"
        yield as_markdown(kind.__doc__ or "")
        yield ""
        rows = [
            (entry["name"], _default(entry["default"]), entry["limits"], entry["meaning"])
            for entry in settings(kind, {})
        ]
        yield from table(("key", "default", "limits", "meaning"), rows)
    yield ""


def _default(said: str) -> str:
    """A default in a cell; that of settings inside settings is said where those are."""
    return "its own defaults" if said.startswith("{'") else said


def _heading(kind: type[BaseModel]) -> str:
    return kind.__name__.removesuffix("Settings").lower()
