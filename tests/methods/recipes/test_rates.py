"""A recipe's rate falls with the width of the base, as fast as it was measured to."""

import json
from pathlib import Path

import pytest

from weft.methods.rates import FALLS, REFERENCE_WIDTH, rate_for

MEASURED = Path(__file__).parents[3] / "results" / "learning-rates.json"


@pytest.mark.parametrize(
    ("trains", "width", "rate"),
    [
        ("adapters", 384, 2e-3),
        ("adapters", 1536, 1e-3),
        ("adapters", 96, 4e-3),
        ("base", 1536, 5e-4),
        ("base", 96, 8e-3),
        ("head", 4096, 2e-3),
    ],
)
def test_the_rule_is_the_page_s_equation(trains: str, width: int, rate: float) -> None:
    assert rate_for(2e-3, trains, width).value == pytest.approx(rate, rel=1e-12)


def test_it_says_where_the_rate_comes_from() -> None:
    assert rate_for(2e-3, "base", REFERENCE_WIDTH).said == (
        "the recipe's 0.002, measured at this base's width, 384"
    )
    assert rate_for(2e-3, "base", 768).said == (
        "the recipe's 0.002 at width 384, which falls with the width to the power 1; here 768"
    )


def test_the_powers_lie_in_what_was_measured() -> None:
    found = json.loads(MEASURED.read_text("utf-8"))["families"]["bert"]["falls_with_width_to_the"]
    for method, trains in (("lora-4", "adapters"), ("lora-16", "adapters"), ("full", "base")):
        own = found[method]
        assert own["low"] - 0.1 <= FALLS[trains] <= own["high"] + 0.1, method
