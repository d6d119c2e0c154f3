"""The page: what it is made of, what it may load, who may see it, and what it refuses."""

import hashlib
import shutil
from collections.abc import Iterator
from html import unescape
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.reporting.reading import Page
from tests.serving.conftest import MIXED, READERS
from tests.serving.pages import asked, read, refusals, said, typed
from tests.serving.served import KEYS, MANAGE, PREDICT, app_of, bearer, error_of, listening
from weft.serving.http.settings import ServerSettings

ONE = "token_classification"
ASKED = typed(ONE)


@pytest.fixture(scope="module")
def page(page_server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page_server, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(page_folder: Path) -> Iterator[httpx.Client]:
    """A server that asks for keys."""
    settings = ServerSettings(hosts=())
    with (
        listening(app_of(page_folder, keys=KEYS, settings=settings)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def pages(page: httpx.Client) -> list[httpx.Response]:
    """The page in its forms: nothing asked, an answer, gates, a refusal."""
    return [
        page.get("/"),
        page.get("/", params={"expert": "multiple_choice"}),
        asked(page, expert=ONE, beside="blend", **ASKED),
        asked(page, "gates", expert="blend", **ASKED),
        asked(page, expert="nobody", **ASKED),
    ]


def test_every_field_has_a_label_and_every_button_a_name(page: httpx.Client) -> None:
    for response in pages(page):
        elements = read(response).elements
        labels = {own["for"] for tag, own in elements if tag == "label"}
        fields = [own for tag, own in elements if tag in ("input", "select", "textarea")]
        assert fields
        for own in fields:
            assert own["id"] in labels
            for hint in own.get("aria-describedby", "").split():
                assert hint in read(response).names
        assert response.text.count('<html lang="en">') == 1
        for tag in ("main", "h1", "form", "title"):
            assert [name for name, _ in elements].count(tag) == 1, tag
        assert [own for tag, own in elements if own.get("role") == "status"]
        regions = [own for _, own in elements if own.get("role") == "region"]
        assert all(own["tabindex"] == "0" and own["aria-labelledby"] for own in regions)


def test_headings_come_one_level_at_a_time(page: httpx.Client) -> None:
    for response in pages(page):
        levels = [
            int(tag[1]) for tag, _ in read(response).elements if tag in ("h1", "h2", "h3", "h4")
        ]
        assert levels[0] == 1
        assert all(later <= level + 1 for level, later in pairwise(levels))


def test_nothing_is_inline_and_nothing_comes_from_outside(page: httpx.Client) -> None:
    for response in pages(page):
        policy = dict(
            part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; ")
        )
        assert "unsafe" not in str(policy)
        assert policy["default-src"] == "'none'"
        assert policy["script-src"].split() == policy["style-src"].split() == ["'self'"]
        assert policy["connect-src"] == policy["form-action"] == "'self'"
        found = read(response)
        assert "style" not in [tag for tag, _ in found.elements]
        for tag, own in found.elements:
            assert not [name for name in own if name.startswith("on") or name == "style"], (
                tag,
                own,
            )
            assert tag != "script" or own["src"].startswith("/page/page.js?")
        assert all(
            to.startswith(("/", "data:,")) and not to.startswith("//") for to in found.addresses
        )


@pytest.mark.parametrize(
    ("name", "kind"), [("page.css", "text/css"), ("page.js", "text/javascript")]
)
def test_files_are_kept_for_as_long_as_they_are_the_same(
    name: str, kind: str, page: httpx.Client
) -> None:
    [address] = [to for to in Page(page.get("/").text).addresses if f"/{name}?" in to]
    found = page.get(address)
    assert found.headers["content-type"].startswith(kind)
    digest = hashlib.sha256(found.content).hexdigest()[:16]
    assert address == f"/page/{name}?{digest}"
    assert "immutable" in found.headers["Cache-Control"]
    tag = found.headers["ETag"]
    again = page.get(f"/page/{name}", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert page.get(f"/page/{name}").headers["Cache-Control"] == "no-cache"
    assert "http" not in found.text.replace("http://www.w3.org", "")


def test_no_other_file_is_given(page: httpx.Client) -> None:
    for name in ("page.html.j2", "rendering.py", "..%2fapp.py", "../app.py", "views", "base.css"):
        error_of(page.get(f"/page/{name}"), 404, "unknown_path")


def test_everything_can_be_chosen(page: httpx.Client) -> None:
    options = [own for tag, own in read(page.get("/")).elements if tag == "option"]
    names = {own["value"] for own in options}
    assert names == {"", "auto", "blend", *READERS, *(f"blend/{task}" for task in MIXED)}
    chosen = page.get("/", params={"expert": "multiple_choice"})
    marked = [
        own["value"] for tag, own in read(chosen).elements if tag == "option" and "selected" in own
    ]
    assert marked == ["multiple_choice"]
    assert {"in-context", "in-prefix", "in-choices"} <= set(read(chosen).names)


def test_fields_are_those_of_whom_is_asked_and_keep_what_was_typed(page: httpx.Client) -> None:
    response = asked(page, "choose", expert="span_extraction", beside=ONE, **ASKED)
    own = {own["id"]: own for tag, own in read(response).elements if tag in ("input", "textarea")}
    assert own.keys() == {"in-question", "in-context", "in-text"}
    assert "required" in own["in-text"]
    assert f">\n{ASKED['in-text']}</textarea>" in unescape(response.text)
    assert not said(response)
    mixed = {
        own["id"]: own for tag, own in read(page.get("/?expert=auto")).elements if tag == "textarea"
    }
    assert not [name for name, own in mixed.items() if "required" in own]


@pytest.mark.parametrize(
    ("fields", "status", "code", "says"),
    [
        ({"expert": "topik"}, 404, "unknown_expert", "no expert named 'topik'"),
        ({"expert": "../etc"}, 404, "unknown_expert", "no expert named '../etc'"),
        ({"expert": ONE, "beside": "x"}, 404, "unknown_expert", "no expert named 'x'"),
        ({"expert": ONE, "in-text": " "}, 422, "bad_input", "tokens is missing"),
        ({"expert": "blend", "in-text": ""}, 422, "bad_input", "fits none of the tasks"),
        ({"expert": ONE, "in-text": "a " * 500_000}, 413, "too_large", "a body may have"),
        ({f"in-{at}": "" for at in range(99)}, 400, "malformed_body", "the form cannot be read"),
    ],
)
def test_what_is_refused_says_why(
    fields: dict[str, str], status: int, code: str, says: str, page_folder: Path, page: httpx.Client
) -> None:
    if status == 413:
        fields = {**fields, "in-text": fields["in-text"] * 9}
    response = asked(page, **fields)
    assert response.status_code == status, response.text[:2000]
    read(response)
    [(message, found)] = refusals(response)
    assert says in message
    assert found == code


def test_bytes_that_are_no_form_are_refused(page: httpx.Client) -> None:
    for content in (b"\xff\xfe", b"in-text=%FF", b"a" * 10 + b"\x80"):
        response = page.post("/", content=content)
        assert response.status_code == 400
        assert refusals(response)[0][1] == "malformed_body"
    assert page.put("/", content=b"").status_code == 405


def test_forms_of_other_sites_are_refused(page: httpx.Client) -> None:
    for site in ("cross-site", "same-site"):
        response = page.post(
            "/", data={"do": "answer", "expert": ONE, **ASKED}, headers={"Sec-Fetch-Site": site}
        )
        assert response.status_code == 403
        assert "another site's page" in refusals(response)[0][0]
        assert not said(response)
    own = page.post(
        "/",
        data={"do": "answer", "expert": ONE, **ASKED},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert own.status_code == 200


def test_the_key_is_asked_for_and_never_shown(guarded: httpx.Client) -> None:
    first = guarded.get("/")
    assert first.status_code == 200
    [key] = [own for tag, own in read(first).elements if own.get("id") == "key"]
    assert (key["type"], key["autocomplete"]) == ("password", "off")
    assert ONE not in first.text
    assert 'id="load"' not in first.text
    without = asked(guarded, expert=ONE, **ASKED)
    assert without.status_code == 401
    assert ONE not in without.text.replace(f'value="{ONE}"', "")
    wrong = asked(guarded, expert=ONE, key="weft-nobody", **ASKED)
    assert (wrong.status_code, refusals(wrong)[0][1]) == (401, "unauthorized")
    typed_in = asked(guarded, expert=ONE, key=PREDICT, **ASKED)
    sent = guarded.post("/", data={"do": "answer", "expert": ONE, **ASKED}, headers=bearer(MANAGE))
    for response in (typed_in, sent):
        assert response.status_code == 200
        assert said(response)
        assert PREDICT not in response.text
        assert MANAGE not in response.text
    assert read(guarded.get("/", headers=bearer(PREDICT))).elements


def test_without_keys_none_is_asked_for(page: httpx.Client) -> None:
    assert 'id="key"' not in page.get("/").text


def test_load_is_a_part_of_the_page_for_who_has_a_key(
    page: httpx.Client, guarded: httpx.Client
) -> None:
    asked(page, expert=ONE, **ASKED)
    found = page.get("/page/load")
    shown = [own for tag, own in Page(found.text).elements if tag == "dl"]
    assert 0 <= float(shown[0]["data-busy"]) <= 1
    assert "<dt>experts in memory</dt><dd>0</dd>" not in found.text
    assert "<dt>experts in memory</dt>" in page.get("/").text
    error_of(guarded.get("/page/load"), 401, "unauthorized")
    assert guarded.get("/page/load", headers=bearer(PREDICT)).status_code == 200


def test_looking_at_the_load_uses_nothing_up(page_folder: Path) -> None:
    keys = (KEYS[0].model_copy(update={"requests_per_minute": 2}),)
    with (
        listening(app_of(page_folder, keys=keys)) as url,
        httpx.Client(base_url=url, timeout=60, headers=bearer(PREDICT)) as http,
    ):
        for _ in range(5):
            assert http.get("/page/load").status_code == 200
        answers = [asked(http, expert=ONE, **ASKED) for _ in range(3)]
        assert [own.status_code for own in answers] == [200, 200, 429]
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert "has used up its requests" in refusals(answers[-1])[0][0]


def test_who_cannot_be_asked_is_named(shelf_folder: Path, tmp_path: Path) -> None:

    for name in ("good", "broken"):
        shutil.copytree(shelf_folder / ONE, tmp_path / name)
    (tmp_path / "broken" / "expert" / "weft.json").write_text("{")
    with listening(app_of(tmp_path)) as url:
        text = httpx.get(url).text
    assert "1 that cannot be asked" in text
    assert "<li>broken: " in text
    assert 'value="broken"' not in text


def test_a_server_without_experts_says_how_to_bring_one(shelf_folder: Path, tmp_path: Path) -> None:

    shutil.copytree(shelf_folder / ONE, tmp_path / ONE)
    with listening(app_of(tmp_path)) as url:
        assert httpx.delete(f"{url}/v1/experts/{ONE}").status_code == 204
        response = httpx.get(url)
    assert response.status_code == 200
    assert "PUT /v1/experts/NAME" in response.text


def test_pages_do_not_stand_in_the_document_for_programs(page: httpx.Client) -> None:
    paths = page.get("/openapi.json").json()["paths"]
    assert "/v1/gates" in paths
    assert not [path for path in paths if path == "/" or path.startswith("/page")]


def test_gates_for_programs_are_refused_in_the_one_shape(page: httpx.Client) -> None:
    def ask(**body: object) -> httpx.Response:
        return page.post("/v1/gates", json=body)

    assert "name a mixture" in error_of(ask(expert=ONE, input="a"), 422, "bad_input")
    error_of(ask(expert="nobody", input="a"), 404, "unknown_expert")
    error_of(ask(expert="blend", input="a", task="x"), 422, "bad_input")
    error_of(ask(expert="blend", input=["a"]), 422, "invalid_request")
    error_of(ask(expert="blend"), 422, "invalid_request")
    right = ask(expert="blend", input="the dog", task=ONE).json()
    assert right["task"] == ONE
    assert right["experts"] == MIXED
    [one] = right["sequences"]
    assert set(one["gates"]) == set(right["layers"])
    for rows in one["gates"].values():
        assert [len(row) for row in rows] == [len(MIXED)] * len(one["tokens"])
