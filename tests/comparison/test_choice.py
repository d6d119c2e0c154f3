"""Which of several to take, case by case, and the sentence that says it."""

import json

import pytest

from weft.comparison.choice import Candidate, Choice, Gap, choose
from weft.reporting.answers.verdict import sentence

FAR, NEAR = Gap(0.1, 0.05, 0.15, 0.004), Gap(0.01, -0.02, 0.04, 0.6)
SCORES = {"lora": 0.9, "full": 0.89, "head": 0.6}


def candidates(**costs: tuple[float, float]) -> list[Candidate]:
    return [Candidate(name, *own) for name, own in costs.items()]


CASES = {
    "the best is better than all others": (
        candidates(lora=(100, 9), full=(9000, 9), head=(10, 1)),
        {"full": FAR, "head": Gap(0.3, 0.2, 0.4, 0.001)},
        Choice("lora", "lora", "better", (), "full", FAR),
        "Take lora: it is better than every other beyond chance; the closest is full (5.0 to 15.0 points of accuracy, "
        "p 0.004 corrected).",
    ),
    "a smaller one is as good": (
        candidates(lora=(9000, 9), full=(100, 20), head=(10, 1)),
        {"full": NEAR, "head": FAR},
        Choice("full", "lora", "smaller", ("full",), "full", NEAR),
        "Take full: it trains 100 parameters in place of 9,000, and its accuracy (%) of 89.0 cannot be told from "
        "lora's 90.0 by these rows and seeds (difference -2.0 to 4.0 points of accuracy, p 0.6 corrected).",
    ),
    "of one size, the quicker": (
        candidates(lora=(1000, 90), full=(1009, 20), head=(10, 1)),
        {"full": NEAR, "head": FAR},
        Choice("full", "lora", "quicker", ("full",), "full", NEAR),
        "Take full: it takes 20 s in place of 90 for as many parameters, and its accuracy (%) of 89.0 cannot be "
        "told from lora's 90.0 by these rows and seeds (difference -2.0 to 4.0 points of accuracy, p 0.6 corrected).",
    ),
    "the best is the smallest of those that are as good": (
        candidates(lora=(100, 9), full=(9000, 1), head=(10, 1)),
        {"full": NEAR, "head": FAR},
        Choice("lora", "lora", "smallest", ("full",), "full", NEAR),
        "Take lora: full cannot be told from it by these rows and seeds, and none of them is known to be smaller, or "
        "as small and much quicker (to full: -2.0 to 4.0 points of accuracy, p 0.6 corrected).",
    ),
    "of one size, seconds that a busy machine explains": (
        candidates(lora=(1000, 24), full=(1000, 20), head=(10, 1)),
        {"full": NEAR, "head": FAR},
        Choice("lora", "lora", "smallest", ("full",), "full", NEAR),
        "Take lora: full cannot be told from it by these rows and seeds, and none of them is known to be smaller, or "
        "as small and much quicker (to full: -2.0 to 4.0 points of accuracy, p 0.6 corrected).",
    ),
    "what it would cost is not known": (
        candidates(lora=(float("inf"), 9), full=(100, 1), head=(float("inf"), 1)),
        {"full": NEAR, "head": NEAR},
        Choice("full", "lora", "smaller", ("full", "head"), "full", NEAR),
        "Take full: it trains 100 parameters in place of an unknown number, and its accuracy (%) of 89.0 cannot be "
        "told from lora's 90.0 by these rows and seeds (difference -2.0 to 4.0 points of accuracy, p 0.6 corrected).",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_to_take_and_how_it_is_said(name: str) -> None:
    own, gaps, expected, words = CASES[name]
    found = choose(own, gaps)
    assert found is not None
    assert found == expected
    assert Choice.from_json({"task": "t", **json.loads(json.dumps(found.as_json()))}) == found
    costs = {one.name: one for one in own}
    assert sentence(found, "accuracy", SCORES, costs) == words


def test_one_alone_is_no_choice() -> None:
    assert choose(candidates(lora=(1, 1)), {}) is None
