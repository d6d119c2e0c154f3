"""The server's page as a browser without script takes it."""

import re
from html import unescape
from typing import Any

import httpx

from tests.reporting.reading import Page

TEXT = "John was in New-Paris, and it's big!"
PARAGRAPH = "the river was in paris and the old city of london had a big house for john and mary"
TYPED: dict[str, dict[str, str]] = {
    "sequence_classification": {"text": "a good film"},
    "token_classification": {"text": TEXT},
    "span_extraction": {"question": "who", "context": PARAGRAPH},
    "multiple_choice": {"context": "the dog", "choices": "said it\r\nwent\r\n"},
    "masked_lm": {"text": "the [MASK] dog was [MASK]"},
    "embedding": {"text_a": "the good dog", "text_b": "a bad film"},
    "causal_lm": {"text": "the good dog"},
}
"""What is typed for an expert of each kind, as browsers send it."""


def typed(kind: str) -> dict[str, str]:
    """The same as fields of the form."""
    return {f"in-{name}": value for name, value in TYPED[kind].items()}


def given(kind: str) -> dict[str, Any]:
    """The same as programs send it."""
    own: dict[str, Any] = dict(TYPED[kind])
    if "choices" in own:
        own["choices"] = ["said it", "went"]
    return own


def asked(http: httpx.Client, do: str = "answer", **fields: str) -> httpx.Response:
    """What comes back when the form is sent; `fields` are those of the form."""
    return http.post("/", data={"do": do, **fields})


def read(response: httpx.Response) -> Page:
    """A page whose every element is closed, whose names are its own, and which names nothing that is not there."""
    page = Page(response.text)
    assert len(page.names) == len(set(page.names)), page.names
    assert set(page.targets) <= set(page.names)
    return page


def marks(response: httpx.Response) -> list[tuple[str, str]]:
    """Marked parts of texts and their labels."""
    found = re.findall(
        r"<mark class=\"said[^\"]*\">(.*?)<span> (.*?)</span></mark>", response.text, re.DOTALL
    )
    return [(unescape(part), unescape(label)) for part, label in found]


def passages(response: httpx.Response) -> list[str]:
    """Texts in which something is marked, without the marks."""
    found = re.findall(r"<p class=\"passage\">(.*?)</p>", response.text, re.DOTALL)
    plain = (re.sub(r"<span> .*?</span></mark>|<mark [^>]*>", "", own) for own in found)
    return [unescape(own) for own in plain]


def bars(response: httpx.Response) -> list[tuple[str, str, str, bool]]:
    """Label, share in words, width of the bar and whether it is the answer, of every bar."""
    found = re.findall(
        r'<tr( class="chosen")?><th scope="row">(.*?)(?:<span class="unseen"> \(said\)</span>)?</th>'
        r'<td class="number">(.*?) %</td>.*?<rect width="([\d.]+)" height="10"/>',
        response.text,
        re.DOTALL,
    )
    return [(unescape(label), share, width, bool(chosen)) for chosen, label, share, width in found]


def said(response: httpx.Response) -> list[str]:
    """Answers in a line."""
    return [unescape(own) for own in re.findall(r'<p class="said">(.*?)</p>', response.text)]


def refusals(response: httpx.Response) -> list[tuple[str, str]]:
    """Sentences and codes of what was refused."""
    found = re.findall(
        r'role="alert"><p><strong>No answer.</strong> (.*?)</p><p class="soft"><code>(.*?)</code>',
        response.text,
        re.DOTALL,
    )
    return [(unescape(message), code) for message, code in found]
