import pytest

from weft.reporting.numbers import interval, number
from weft.reporting.tables import readable, show_list, show_page


def test_fractions_are_percent_and_the_rest_is_as_it_is() -> None:
    assert number("f1_macro", 0.12345) == "12.3"
    assert number("perplexity", 12.3456) == "12.35"
    assert number("pearson", -0.5) == "-0.5"
    assert interval("accuracy", {"value": 0.5, "low": 0.25, "high": 1.0}) == "50.0 (25.0 to 100.0)"


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        ({"id": "0", "continuation": "a\nb", "tokens": 2}, "a\nb"),
        (
            {"id": "0", "label": "good", "probabilities": {"bad": 0.25, "good": 0.75}},
            "label: good\nprobabilities: bad 0.25  good 0.75",
        ),
        (
            {
                "id": "0",
                "tags": ["O"],
                "entities": [{"type": "person", "text": "[Ann]", "start": 0}],
            },
            "entities:\n  type person  text [Ann]  start 0",
        ),
        ({"id": "0", "tags": ["O"], "entities": []}, "entities: none"),
    ],
)
def test_a_prediction_reads_as_text(prediction: dict[str, object], text: str) -> None:
    assert readable(prediction) == text


def test_brackets_in_data_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_list("tasks", [{"name": "[red]a", "summary": "b"}])
    show_page({"task": "[red]a", "settings": [{"name": "[b]"}], "left out": None, "page": "[i]\nx"})
    said = capsys.readouterr().out
    assert [part for part in ("[red]a", "task: [red]a", "[b]", "    [i]") if part not in said] == []
    assert "left out" not in said
