"""The page as HTML, and the files that it loads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from weft import __version__
from weft.reporting.drawing import PALETTE
from weft.serving.engine import Answers
from weft.serving.load import Load
from weft.serving.page.asking import PREFIX, Choice, Form, facts_of, fields_of, grouped, sized
from weft.serving.page.maps import SHADES, GateMap
from weft.serving.page.plain import view_of
from weft.serving.page.views.contract import Given, Shown
from weft.tasks.contract import Prediction

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = "weft.serving.page"
TYPES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
"""The files that the page loads, and what they are."""


@dataclass(frozen=True)
class Refused:
    """Why there is no answer."""

    message: str
    code: str
    status: int
    """Of HTTP."""


@dataclass(frozen=True)
class Answer:
    """What somebody answered, refused, or is about to write."""

    name: str
    shown: Shown | None = None
    about: str = ""
    """How it came about."""
    values: str = ""
    """The prediction as JSON."""
    refused: Refused | None = None
    prompt: str = ""
    request: str = ""
    """What the page's script has to ask `/v1/completions`, as JSON; "" where the answer is there."""


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        form: What was asked, to be shown again.
        asks_key: Whether the server asks for keys.
        choices: Who can be asked.
        chosen: Who is asked.
        unfit: Names of experts that are refused.
        answers: One for each who was asked.
        gates: Of a mixture, where they were wanted.
        refused: Why there is neither.
        load: How busy the server is; None where nobody said who asks.
        most: Longest continuation that the server writes, in tokens.
    """

    form: Form
    asks_key: bool
    choices: Sequence[Choice] = ()
    chosen: Sequence[Choice] = ()
    unfit: Sequence[str] = ()
    answers: Sequence[Answer] = ()
    gates: GateMap | None = None
    refused: Refused | None = None
    load: Load | None = None
    most: int = 1024

    @property
    def said(self) -> str:
        """What came of it, in a line."""
        if self.refused is not None:
            return "refused"
        if self.gates is not None:
            return f"gates of {self.gates.expert} on {self.gates.task}"
        lines = [
            f"{own.name}: {own.shown.said if own.shown else 'refused'}"
            for own in self.answers
            if not own.request
        ]
        return "; ".join(lines)


def shown(choice: Choice, given: Given, prediction: Prediction, found: Answers) -> Answer:
    """An answer as it is shown.

    Args:
        choice: Who was asked.
        given: With what.
        prediction: What was answered; from who recognises tasks also which it was.
        found: The rest of what the engine said.
    """
    named = prediction.get("task") if len(choice.tasks) > 1 else None
    task = next(own for own in choice.tasks if named in (None, own.name))
    about = [
        f"{1000 * found.seconds:.0f} ms",
        f"{found.tokens:,} tokens",
        f"version {found.version}",
    ]
    if named is not None:
        about.insert(0, f"taken for {named} ({100 * prediction['confidence']:.1f} %)")
    values = json.dumps(prediction, indent=1, ensure_ascii=False)
    return Answer(choice.value, view_of(task).shown(given, prediction), ", ".join(about), values)


def to_html(page: Page) -> str:
    """The whole page."""
    return _template("page.html.j2").render(
        page=page,
        groups=grouped(page.choices),
        fields=fields_of(page.chosen),
        facts=[(own.value, facts_of(own)) for own in page.chosen],
        writes=any(own.writes for own in page.chosen),
        gates=bool(page.chosen) and page.chosen[0].has_gates,
        prefix=PREFIX,
        assets={name: f"/page/{name}?{version(name)}" for name in TYPES},
        version=__version__,
    )


def load_html(load: Load) -> str:
    """The server's load, which the page's script fetches again and again."""
    return _template("load.html.j2").render(load=load)


@cache
def asset(name: str) -> bytes:
    """The content of a file that the page loads; one of `TYPES`."""
    text = _template(name).render(shades=range(1, SHADES + 1), palette=PALETTE)
    return text.encode()


@cache
def version(name: str) -> str:
    """First digits of the SHA-256 of a file that the page loads."""
    return hashlib.sha256(asset(name)).hexdigest()[:16]


def _template(name: str) -> Any:
    return _environment().get_template(name)


@cache
def _environment() -> "Environment":
    from weft.reporting.templates import environment

    found = environment(PACKAGE)
    found.filters["sized"] = sized
    found.filters["breakable"] = _breakable
    return found


def _breakable(name: str) -> str:
    """A name that a narrow column may break behind its underscores."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))
