"""The site's pages: their order, links to the repository, what is generated."""

import re
from pathlib import Path

import pytest

import weft
from website.catalogue import as_markdown, catalogue_pages
from website.chart import with_charts
from website.navigation import navigation, unnamed
from website.sources import ROOT, in_order, linked, place_of, source_of, with_links, with_signs
from weft.catalogue.pages import LISTS, PAGES, listed


def test_links_lead_to_where_files_are_on_the_site() -> None:
    text = (
        "[a](../CONTRIBUTING.md) [b](how-to/attach.md#train) [c](https://x.org) [d](#here) [e](decisions)\n"
        "```sh\n[f](../README.md)\n```\n[g](../examples/own_task/reviews.yaml)"
    )
    assert with_links(text, "docs/footguns.md", "footguns.md") == (
        "[a](contributing.md) [b](how-to/attach.md#train) [c](https://x.org) [d](#here) [e](decisions/index.md)\n"
        "```sh\n[f](../README.md)\n```\n[g](files/examples/own_task/reviews.yaml)"
    )
    assert linked(text, "docs/footguns.md") == {
        "CONTRIBUTING.md",
        "docs/how-to/attach.md",
        "docs/decisions",
        "examples/own_task/reviews.yaml",
    }
    assert with_links("[x](docs/footguns.md)", "README.md", "index.md") == "[x](footguns.md)"
    assert with_links("[x](a.svg)", "results/small/report.md", "results/report.md") == (
        "[x](../files/results/small/a.svg)"
    )
    assert (source_of("index.md"), place_of("README.md")) == ("README.md", "index.md")


def test_signs_are_shown_without_the_backslash_that_hides_them() -> None:
    assert (
        with_signs("p \\< 0.05\n```text\np \\< 1\n```\n") == "p &lt; 0.05\n```text\np \\< 1\n```\n"
    )


def test_a_page_comes_where_its_index_names_it_and_is_not_lost_where_it_does_not() -> None:
    assert in_order("[](c.md) [](a.md)", ["a.md", "b.md", "c.md", "z.md"]) == [
        "c.md",
        "a.md",
        "b.md",
        "z.md",
    ]
    folders = ("tutorials", "how-to", "concepts", "reference", "results")
    texts = {"index.md": "# weft", "glossary.md": "# Words", "decisions/index.md": "# Decided"}
    texts |= {f"{name}/index.md": f"# {name.upper()}\n[x](two.md)" for name in folders}
    texts |= {"how-to/one.md": "# One", "how-to/two.md": "# Two", "reference/in/index.md": "# In"}
    assert navigation(texts) == [
        "index.md",
        {"TUTORIALS": ["tutorials/index.md"]},
        {"HOW-TO": ["how-to/index.md", "how-to/two.md", "how-to/one.md"]},
        {"CONCEPTS": ["concepts/index.md"]},
        {"REFERENCE": ["reference/index.md", {"In": ["reference/in/index.md"]}]},
        {"RESULTS": ["results/index.md"]},
        {"More": ["glossary.md", {"Decided": ["decisions/index.md"]}]},
    ]
    assert unnamed("how-to/index.md", texts) == ["- [One](one.md)"]


def test_a_chart_is_drawn_with_what_uses_others_above_them() -> None:
    page = "a\n\n```mermaid\nflowchart TD\n    base\n    cli\n    data\n    cli --> data\n    data --> base\n```\nb"
    drawn = with_charts(page)
    assert drawn.startswith("a\n\n<svg")
    assert drawn.endswith("</svg>\n\nb")
    heights = re.findall(r'<text x="\d+" y="(\d+)">(\w+)<', drawn)
    assert [name for _, name in sorted((int(y), name) for y, name in heights)] == [
        "cli",
        "data",
        "base",
    ]
    assert drawn.count("<path") == 2


def test_docstrings_keep_their_equations_and_lose_no_sign() -> None:
    assert as_markdown("a * b < `c*d` [e]\n\n    x * y < z") == (
        "a \\* b \\< `c*d` \\[e\\]\n\n    x * y < z"
    )


def test_everything_that_is_listed_has_its_page() -> None:
    # A base's page builds its architecture, which takes a second each; the site's own build has them all.
    quick = [what for what in LISTS if what != "bases"]
    lists = catalogue_pages(quick, counted_on=())
    for what in quick:
        one = what.removesuffix("s")
        for entry in listed(what):
            if one in PAGES:
                assert (
                    f"`weft show {one} {entry['name']}`"
                    in (lists[f"reference/{what}/{entry['name']}.md"])
                )
            else:
                assert f"\n| {entry['name']} |" in lists[f"reference/{what}.md"]
    assert "B A" in lists["reference/recipes/lora.md"]
    assert "| rank | 8 |" in lists["reference/recipes/lora.md"]


def test_every_verb_command_and_setting_has_its_place() -> None:
    interface = pytest.importorskip("website.interface", reason="griffe is not installed")
    texts = interface.interface_pages()
    for name in set(weft.__all__) - {"__version__"}:
        assert texts[f"reference/python/{name}.md"].startswith(f"# weft.{name}\n\n::: weft.")
    commands = {path.stem.strip("_") for path in (ROOT / "src/weft/cli").glob("*.py")} - {"init"}
    headings = set(re.findall(r"^## weft (\w+)$", texts["reference/commands.md"], re.MULTILINE))
    assert headings == commands | {"init"}
    assert "--set KEY=VALUE" in texts["reference/commands.md"]
    assert "| learning_rate |" in texts["reference/settings.md"]


def test_what_the_site_needs_is_pinned() -> None:
    pinned = Path(ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    for package in ("mkdocs-material", "mkdocstrings", "mkdocstrings-python", "nbclient"):
        assert f"\n{package}==" in pinned
