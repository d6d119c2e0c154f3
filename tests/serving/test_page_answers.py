"""The page shows what experts of every kind answer, drawn by the server."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving.conftest import READERS
from tests.serving.pages import (
    PARAGRAPH,
    TEXT,
    TYPED,
    asked,
    bars,
    given,
    marks,
    passages,
    read,
    refusals,
    said,
    typed,
)
from weft.serving.page.asking import Form
from weft.serving.page.rendering import Answer, Page, to_html
from weft.serving.page.views import views
from weft.serving.page.views.contract import Bar, Bars, Passage, Shown, marked
from weft.tasks.kinds import kinds


@pytest.fixture(scope="module")
def page(page_server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page_server, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def writing(writing_server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=writing_server, timeout=60) as client:
        yield client


def predicted(http: httpx.Client, expert: str, value: Any) -> Any:
    """What programs get."""
    found = http.post("/v1/predict", json={"expert": expert, "inputs": [value]})
    assert found.status_code == 200, found.text
    return found.json()["predictions"][0]


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def answer_of(page: httpx.Client, kind: str) -> tuple[httpx.Response, Any]:
    """The page's answer to what is typed for a kind, and that of programs."""
    response = asked(page, expert=kind, **typed(kind))
    assert response.status_code == 200
    read(response)
    return response, predicted(page, kind, given(kind))


def test_every_kind_has_a_view_and_something_to_type() -> None:
    # What reads files is not served.
    served = [kind for kind in kinds.names() if not kinds.load(kind).files]
    assert views.names() == served
    assert sorted(TYPED) == served
    for kind in served:
        fields = {field.name for field in views.load(kind)().fields}
        assert fields >= TYPED[kind].keys()
        task = kinds.load(kind)
        assert fields <= {*task.columns, *task.optional}


def test_classes_are_bars_the_likeliest_first(page: httpx.Client) -> None:
    response, right = answer_of(page, "sequence_classification")
    shares = sorted(right["probabilities"].items(), key=lambda one: -one[1])
    found = bars(response)
    assert [own[:2] for own in found] == [(name, percent(share)) for name, share in shares]
    assert [float(own[2]) for own in found] == pytest.approx([100 * s for _, s in shares], abs=0.01)
    assert [own[3] for own in found] == [name == right["label"] for name, _ in shares]
    assert said(response) == [f"{right['label']} ({percent(shares[0][1])} %)"]


def test_entities_are_marked_in_their_text(page: httpx.Client) -> None:
    response, right = answer_of(page, "token_classification")
    assert right["entities"]
    assert marks(response) == [(own["text"], own["type"]) for own in right["entities"]]
    assert passages(response) == [TEXT]
    assert [own[1] for own in bars(response)] == [
        percent(own["score"]) for own in right["entities"]
    ]


def test_the_answer_is_marked_in_its_paragraph(page: httpx.Client) -> None:
    response, right = answer_of(page, "span_extraction")
    assert marks(response) == [(right["text"], "answer")]
    assert passages(response) == [PARAGRAPH]
    assert [own[0] for own in bars(response)] == [own["text"] for own in right["n_best"]]
    assert sum(own[3] for own in bars(response)) == 1


def test_choices_are_bars_in_their_order(page: httpx.Client) -> None:
    response, right = answer_of(page, "multiple_choice")
    shares = map(percent, right["probabilities"])
    assert [own[:2] for own in bars(response)] == list(
        zip(["said it", "went"], shares, strict=True)
    )
    assert [own[3] for own in bars(response)].index(True) == right["label"]
    assert right["choice"] in said(response)[0]


def test_masks_are_numbered_and_their_words_are_bars(page: httpx.Client) -> None:
    response, right = answer_of(page, "masked_lm")
    words = [own["tokens"][0]["token"] for own in right["masks"]]
    assert marks(response) == [("[MASK]", f"1: {words[0]}"), ("[MASK]", f"2: {words[1]}")]
    candidates = [one["token"] for own in right["masks"] for one in own["tokens"]]
    assert [own[0] for own in bars(response)] == candidates
    assert said(response) == [", ".join(words)]


def test_nearness_of_two_texts_is_a_bar(page: httpx.Client) -> None:
    response, right = answer_of(page, "embedding")
    assert said(response) == [f"similarity {right['similarity']:.3f}"]
    assert len(bars(response)) == 1


def test_what_is_written_is_marked_behind_its_text(writing: httpx.Client) -> None:
    fields = typed("causal_lm") | {"max_new_tokens": "6", "temperature": ""}
    response = asked(writing, expert="writer", **fields)
    body = {"model": "writer", "prompt": "the good dog", "max_tokens": 6}
    right = writing.post("/v1/completions", json=body).json()
    written = right["choices"][0]["text"]
    read(response)
    assert marks(response) == [(written, "written")]
    assert passages(response) == [f"the good dog{written}"]
    assert said(response) == [f"{right['usage']['completion_tokens']} tokens written"]


def test_a_script_is_told_what_to_fetch_of_a_writer(writing: httpx.Client) -> None:
    fields = typed("causal_lm") | {"max_new_tokens": "6", "temperature": "0.5", "streams": "1"}
    response = asked(writing, expert="writer", beside="other", **fields)
    own = [one for tag, one in read(response).elements if tag == "article"]
    assert [one["aria-labelledby"] for one in own] == ["answer-1", "answer-2"]
    for one in own:
        streamed = writing.post("/v1/completions", content=one["data-request"], headers=JSON)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert '"completion_tokens": 6' in streamed.text


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("max_new_tokens", "many", "form.max_tokens: Input should be a valid integer, got 'many'"),
        (
            "max_new_tokens",
            "0",
            "form.max_tokens: Input should be greater than or equal to 1, got 0",
        ),
        ("max_new_tokens", "4096", "4096 tokens to be written, this server writes 1024"),
        ("temperature", "nan", "form.temperature"),
        ("in-text", "", "form.prompt: String should have at least 1 character"),
    ],
)
def test_settings_that_are_none_are_refused(
    name: str, value: str, says: str, writing: httpx.Client
) -> None:
    response = asked(writing, expert="writer", **(typed("causal_lm") | {name: value}))
    assert response.status_code == 422
    [(message, code)] = refusals(response)
    assert says in message
    assert code == "invalid_request"


def test_two_stand_side_by_side(page: httpx.Client) -> None:
    one, other = "token_classification", "sequence_classification"
    response = asked(page, expert=one, beside=other, **typed(one))
    assert [own for tag, own in read(response).elements if tag == "article"]
    assert len(said(response)) == 2
    alone = [asked(page, expert=name, **typed(one)) for name in (one, other)]
    assert said(response) == [*said(alone[0]), *said(alone[1])]
    assert {own[0] for own in bars(response)} == {own[0] for each in alone for own in bars(each)}


def test_of_two_the_one_that_can_answers(page: httpx.Client) -> None:
    one, other = "token_classification", "multiple_choice"
    response = asked(page, expert=one, beside=other, **typed(one))
    assert response.status_code == 200
    assert len(said(response)) == 1
    [(message, code)] = refusals(response)
    assert "context, choices is missing" in message
    assert code == "bad_input"
    assert asked(page, expert=other, beside=other, **typed(one)).status_code == 422


@pytest.mark.parametrize("expert", ["auto", "blend"])
def test_what_nobody_named_is_recognised(expert: str, page: httpx.Client) -> None:
    response = asked(page, expert=expert, **typed("span_extraction"))
    right = predicted(page, expert, given("span_extraction"))
    assert right["task"] == "span_extraction"
    assert marks(response) == [(right["text"], "answer")]
    assert f"taken for span_extraction ({percent(right['confidence'])} %)" in response.text


def test_columns_that_a_kind_may_do_without_can_be_left_empty(page: httpx.Client) -> None:
    fields = {"in-text": "a good film", "in-text_pair": " "}
    response = asked(page, expert="sequence_classification", **fields)
    assert said(response) == said(answer_of(page, "sequence_classification")[0])


@pytest.mark.parametrize("kind", READERS)
def test_the_answer_of_programs_stands_below(kind: str, page: httpx.Client) -> None:
    response, right = answer_of(page, kind)
    assert f"&#34;id&#34;: &#34;{right['id']}&#34;" in response.text


def test_gates_are_shown_map_by_map_and_token_by_token(page: httpx.Client) -> None:
    body = {"expert": "blend/token_classification", "input": {"text": TEXT}}
    right = page.post("/v1/gates", json=body).json()
    [sequence] = right["sequences"]
    response = asked(
        page, "gates", expert="blend/token_classification", **typed("token_classification")
    )
    by_token, by_map = read(response).tables
    assert by_map[0] == ["map", *right["experts"]]
    named = zip(right["layers"], by_map[2:], strict=True)
    assert all(module.endswith(row[0]) for module, row in named)
    assert [row[0] for row in by_token[1:]] == sequence["tokens"]
    for number, module in enumerate(right["layers"]):
        means = [
            sum(column) / len(column) for column in zip(*sequence["gates"][module], strict=True)
        ]
        assert by_map[2 + number][1:] == [f"{value:.2f}" for value in means]
    module = list(right["layers"])[1]
    chosen = asked(
        page, "", expert="blend/token_classification", map=module, **typed("token_classification")
    )
    own = read(chosen).tables[0]
    assert [row[1:] for row in own[1:]] == [
        [f"{value:.2f}" for value in row] for row in sequence["gates"][module]
    ]


def test_gates_of_who_has_none_or_of_no_such_map_are_refused(page: httpx.Client) -> None:
    kind = "token_classification"
    alone = asked(page, "gates", expert=kind, **typed(kind))
    assert alone.status_code == 422
    assert "has no gates; name a mixture" in refusals(alone)[0][0]
    nowhere = asked(page, "", expert="blend", map="layer.99", **typed(kind))
    assert nowhere.status_code == 422
    assert "no map named 'layer.99'" in refusals(nowhere)[0][0]


def test_what_is_typed_is_text_whatever_it_looks_like(page: httpx.Client) -> None:
    hostile = '</textarea><script>alert(1)</script><b onclick="x">"{{ 7 }}"\u202e</b>'
    for kind, column in (
        ("token_classification", "in-text"),
        ("sequence_classification", "in-text"),
    ):
        response = asked(page, expert=kind, **{column: hostile})
        assert response.status_code == 200
        tags = [tag for tag, _ in read(response).elements]
        assert tags.count("script") == 1
        assert "b" not in tags
        assert "<script>alert" not in response.text
        assert "{{ 7 }}" in response.text
    fields = {"in-context": "a", "in-choices": f"{hostile}\n<img src=x onerror=alert(1)>"}
    response = asked(page, expert="multiple_choice", **fields)
    assert [own[0] for own in bars(response)] == [hostile, "<img src=x onerror=alert(1)>"]
    assert "img" not in [tag for tag, _ in read(response).elements]
    for name in ("expert", "beside", "map"):
        fields = {"expert": "blend", "in-text": "a", name: hostile}
        refused = asked(page, **fields)
        assert refused.status_code in (404, 422)
        assert "<script>alert" not in refused.text


def test_labels_are_text_whatever_they_look_like() -> None:
    label = '"><script>alert(1)</script>'
    shown = Shown(
        label, (Passage("x", marked("ab", [(0, 1, label)])),), (Bars(label, (Bar(label, 2.0),)),)
    )
    text = to_html(Page(Form(), False, answers=[Answer(label, shown, label, label)]))
    assert "<script>" not in text
    assert 'width="100.00"' in text


def test_ends_of_lines_are_those_that_were_typed(page: httpx.Client) -> None:
    response = asked(page, expert="token_classification", **{"in-text": "John was\r\nin paris"})
    assert passages(response) == ["John was\nin paris"]
