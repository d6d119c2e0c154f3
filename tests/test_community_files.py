"""What people read beside the code: the citation, the forms of issues, how to install."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.catalogue.machine import FOR_WORK_ON_WEFT

ROOT = Path(__file__).parents[1]
FORMS = sorted(
    path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = {"cff-version", "message", "title", "authors"}
ALLOWED = REQUIRED | {
    *(
        "abstract",
        "commit",
        "contact",
        "date-released",
        "doi",
        "identifiers",
        "keywords",
        "license",
    ),
    *("license-url", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "type", "url", "version"),
}
"""The keys of Citation File Format 1.2.0, schema guide, section "Valid keys"."""
INPUTS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_of_its_format() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert cited["cff-version"] == "1.2.0"
    assert set(cited) >= REQUIRED
    assert set(cited) - ALLOWED == set()
    assert cited["type"] in ("software", "dataset")
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["title"] == PROJECT["name"]
    # An entity has a name; a person has one of these.
    people = {"name", "family-names", "given-names", "alias"}
    assert cited["authors"]
    assert [author for author in cited["authors"] if not people & set(author)] == []
    assert len(set(cited["keywords"])) == len(cited["keywords"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_of_issues_is_one_that_the_host_shows(path: Path) -> None:
    form = read(path)
    assert set(form) <= {
        "name",
        "description",
        "title",
        "labels",
        "assignees",
        "projects",
        "type",
        "body",
    }
    assert form["name"]
    assert form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in form["body"]} <= INPUTS
    assert asked
    assert len({part["id"] for part in asked}) == len(asked)
    assert len({part["attributes"]["label"] for part in asked}) == len(asked)
    for part in asked:
        assert set(part) <= {"type", "id", "attributes", "validations"}
        # A box to tick is required one by one.
        assert part["type"] != "checkboxes" or "validations" not in part


def test_there_is_a_form_for_each_thing_that_people_come_with() -> None:
    assert [path.stem for path in FORMS] == ["bug", "method", "question"]
    assert read(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml") == {
        "blank_issues_enabled": True
    }


def test_the_page_of_extras_has_all_that_users_may_want() -> None:
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, flags=re.MULTILINE))
    extras = {
        name: {re.split("[>=]", line)[0] for line in lines}
        for name, lines in PROJECT["optional-dependencies"].items()
        if name not in FOR_WORK_ON_WEFT
    }
    assert {name: set(brought.split(", ")) for name, brought in rows.items()} == extras
    assert f"weft-{PROJECT['version']}-py3-none-any.whl" in page
