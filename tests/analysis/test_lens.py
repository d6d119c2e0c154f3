"""Where a task is decided: settled answers, drift, the norm before the head; against plain loops and transformers."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import weft
from tests.analysis.drawn import drawn
from tests.merging.runs import Made, made_on
from weft.analysis.measures.decisions import alike, drift, settled
from weft.analysis.reading.lens import decisions, head_of, last_norm, logits_by_layer
from weft.analysis.study import Study
from weft.analysis.subjects import find, read
from weft.analysis.texts import NotAtHandError


def study_of(*runs: Path) -> Study:
    return Study(*read(find(list(runs)), torch.device("cpu")))


def test_an_answer_is_settled_where_it_stays() -> None:
    found = settled(torch.tensor([[1, 2, 0, 3], [1, 1, 0, 3], [1, 2, 1, 3], [1, 2, 1, 4]]))
    assert found.tolist() == [0, 2, 2, 3]


def test_drift_is_the_divergence_from_the_last() -> None:
    logits = [drawn(6, 4), drawn(6, 4, seed=1)]
    p, q = (torch.softmax(one, -1).numpy() for one in reversed(logits))
    expected = float((p * np.log(p / q)).sum(1).mean())
    assert drift(logits) == [pytest.approx(expected), pytest.approx(0, abs=1e-12)]


def test_kappa_leaves_out_what_frequencies_give() -> None:
    one = torch.tensor([0] * 45 + [1] * 15 + [0] * 25 + [1] * 15)
    other = torch.tensor([0] * 60 + [1] * 40)
    # Agreement 0.60; by chance 0.7 * 0.6 + 0.3 * 0.4 = 0.54.
    assert alike(one, other) == pytest.approx((0.60 - 0.54) / 0.46)
    assert alike(one, one) == pytest.approx(1)
    assert math.isnan(alike(torch.zeros(5), torch.zeros(5)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("bert", ""),
        ("roberta", ""),
        ("modernbert", "final_norm"),
        ("gpt2", "ln_f"),
        ("llama", "norm"),
    ],
)
def test_the_norm_after_the_last_layer_is_found(
    base: str, name: str, tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path: Path
) -> None:
    made = made_on(tiny_folder, tasks_folder, tmp_path, base)
    study = study_of(made("tags", targets=["all-linear"]))
    subject = study.subjects[0]
    corpus = study.rows(subject)
    found = last_norm(study, subject, corpus)
    names = [own for own, module in subject.model.snapshot.trunk.named_modules() if module is found]
    assert names == ([name] if name else [])


@torch.no_grad()
@pytest.mark.parametrize("base", ["bert", "gpt2"])
def test_the_last_layer_says_what_the_expert_says_and_others_what_a_shorter_trunk_would(
    base: str, tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path: Path
) -> None:
    made = made_on(tiny_folder, tasks_folder, tmp_path, base)
    study = study_of(made("tags", targets=["all-linear"]))
    subject = study.subjects[0]
    corpus, head = study.rows(subject), head_of(subject)
    assert head is not None
    found = logits_by_layer(head, study.states(corpus, subject), last_norm(study, subject, corpus))
    plain = subject.model.merged(subject.member)
    for cut in (2, 1):
        start = 0
        if cut == 1:
            holder = plain.get_submodule("encoder.layer" if base == "bert" else "h")
            assert isinstance(holder, torch.nn.ModuleList)
            del holder[1]
        for record, own in zip(corpus.records, corpus.units, strict=True):
            inputs = {key: torch.tensor(value) for key, value in record.items()}
            hidden = plain(**inputs).last_hidden_state
            logits = head(hidden, torch.ones(hidden.shape[:2]), (1,))[0]
            expected = logits[[place for (place,) in own]]
            torch.testing.assert_close(found[cut][start : start + len(own)], expected)
            start += len(own)
        assert start == len(corpus)


def test_spans_are_decided_by_sequence() -> None:
    sentence = torch.tensor([0, 0, 0, 1, 1])
    logits = torch.tensor([[0.0, 1], [5, 0], [1, 9], [3, 4], [2, 6]])
    assert decisions("span_extraction", logits, sentence).tolist() == [1, 2, 0, 1]


def test_the_question_is_answered_for_heads_by_token_alone(made: Made, tmp_path: Path) -> None:
    runs = [made("tags"), made("topic"), made("where")]
    found = weft.analyze(runs, ["lens"], out=tmp_path / "out").values["questions"]["lens"]
    assert {row["expert"] for row in found["rows"]} == {"tags", "where"}
    for name in ("tags", "where"):
        own = [row for row in found["rows"] if row["expert"] == name and row["layer"] is not None]
        assert [row["layer"] for row in own] == [0, 1, 2]
        assert own[-1]["kappa with the last"] in (None, pytest.approx(1))
        assert own[-1]["divergence from the last (nats)"] == pytest.approx(0, abs=1e-12)
        number = next(row for row in found["numbers"] if row["of"] == name)
        assert 0 <= number["value"] <= 2
    with pytest.raises(NotAtHandError, match="token by token"):
        weft.analyze(runs[1:2], ["lens"], out=tmp_path / "none")
