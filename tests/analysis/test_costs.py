"""What an expert costs: other tasks, graded pairs, masked words, merges; against merging, transformers and scipy."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import transformers

import weft
from tests.analysis.conftest import PAIRS
from tests.analysis.drawn import drawn
from tests.merging.runs import Made, made_on
from tests.training.mixed_runs import Runs, runs_of
from weft.analysis.measures.foretelling import by_chance, rank_correlation
from weft.analysis.reading.answers import pairs_of_tasks
from weft.analysis.reading.masked import masked, own_head, surprise
from weft.analysis.study import Study
from weft.analysis.subjects import find, read
from weft.analysis.texts import NotAtHandError
from weft.base.loading import load_base
from weft.config import load_run
from weft.runs import RunFolder


@pytest.fixture(scope="session")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


def study_of(runs: list[Path], data: Path | None = None) -> Study:
    return Study(*read(find(runs), torch.device("cpu")), data)


def asked(runs: list[Path], name: str, out: Path, data: Path | None = None) -> dict[str, Any]:
    return weft.analyze(runs, [name], out=out, data=data).values["questions"][name]


def test_two_experts_together_score_as_their_merge(made: Made, tmp_path: Path) -> None:
    """`weft merge` adds them up in weights, and scores both tasks."""
    runs = [made("tags"), made("where", targets=["value", "ffn_in"], rank=3)]
    out = weft.merge(runs, "task_arithmetic", weights=[1, 1], rank=None, out=tmp_path / "merged")
    expected = {}
    for part in out.parts():
        values = {row["name"]: row["value"] for row in part.metrics}
        expected[part.path.name] = values["f1"]
    costs = asked(runs, "forgetting", tmp_path / "costs")
    assert {row["other"]: row["beside"] for row in costs["rows"]} == pytest.approx(expected)
    merged = asked(runs, "merging", tmp_path / "merging")
    for row in merged["rows"]:
        assert row["score after"] == pytest.approx(expected[row["expert"]])
        lost = (row["score"] - row["score after"]) / row["score"] if row["score"] else None
        assert row["lost"] == (None if lost is None else pytest.approx(lost))
    for number in costs["numbers"]:
        row = next(row for row in costs["rows"] if number["of"].endswith(f"on {row['other']}"))
        ends = ("beside", "own") if number["what"].endswith("beside") else ("instead", "base")
        assert number["value"] == pytest.approx(row[ends[0]] - row[ends[1]])


def test_alone_and_on_the_bare_base_a_head_scores_as_evaluate_says(
    made: Made, tmp_path: Path
) -> None:
    runs = [made("tags"), made("topic")]
    rows = {row["other"]: row for row in asked(runs, "forgetting", tmp_path / "out")["rows"]}
    for name, metric, run in zip(("tags", "topic"), ("f1", "accuracy"), runs, strict=True):
        found = weft.evaluate(run, save=False)
        assert not isinstance(found, list)
        assert rows[name]["own"] == pytest.approx(found.scores[metric].value)
    study = study_of(runs)
    tags = next(one for one in study.subjects if one.name == "tags")
    assert study.model.experts.keys() == {"tags", "topic"}
    assert tags.changes is not None


def test_only_other_tasks_of_like_seed_are_paired(made: Made) -> None:
    runs = []
    for task in ("topic", "tags"):
        for seed in range(2):
            run = made(task, called=f"{task}-{seed}")
            settings = load_run(run / "run.yaml").model_copy(update={"seed": seed})
            RunFolder(run).write_config(settings)
            runs.append(run)
    found = {(one.name, other.name) for one, other in pairs_of_tasks(study_of(runs))}
    assert found == {("topic-0", "tags-0"), ("topic-1", "tags-1")}
    lonely = {(one.name, other.name) for one, other in pairs_of_tasks(study_of(runs[:3]))}
    assert lonely == {("topic-0", "tags-0"), ("topic-1", "tags-0")}


def test_experts_of_one_task_cost_no_other(made: Made, tmp_path: Path) -> None:
    runs = [made("topic"), made("topic", called="again")]
    for name in ("forgetting", "merging"):
        with pytest.raises(NotAtHandError, match="different tasks"):
            weft.analyze(runs, [name], out=tmp_path / "out")


@torch.no_grad()
def test_similarity_is_scipy_s_spearman_of_mean_states(
    made: Made, trees: Path, tmp_path: Path
) -> None:
    run = made("topic")
    found = asked([run], "similarity", tmp_path / "out", trees)
    study = study_of([run], trees)
    tokenizer = study.base.tokenizer

    def correlation(trunk: Any) -> float:
        def mean(text: str) -> torch.Tensor:
            inputs = tokenizer(text, return_tensors="pt")
            return trunk(**inputs).last_hidden_state[0].mean(0)

        cosines = [torch.cosine_similarity(mean(a), mean(b), dim=0).item() for a, b, _ in PAIRS]
        return float(scipy.stats.spearmanr(cosines, [score for *_, score in PAIRS])[0])  # type: ignore[arg-type]

    (row,) = found["rows"]
    assert row["base"] == pytest.approx(correlation(study.base.trunk))
    plain = study.model.merged(study.subjects[0].member)
    assert row["adapted"] == pytest.approx(correlation(plain))
    (number,) = found["numbers"]
    assert number["value"] == pytest.approx(row["adapted"] - row["base"])
    assert number["low"] <= number["value"] <= number["high"]
    assert set(study.model.experts) == {"topic"}


def test_a_mixture_is_asked_for_similarity_in_the_name_of_its_task(
    runs: Runs, trees: Path, tmp_path: Path
) -> None:
    """Where the task alone selects the expert, it knows what that expert knows."""
    mixture, experts = runs.mixture("bert", "switch"), runs.experts("bert")
    mixed = asked([mixture.path], "similarity", tmp_path / "mixed", trees)
    alone = asked([experts.path], "similarity", tmp_path / "alone", trees)
    by_task = [{row["task"]: row["adapted"] for row in found["rows"]} for found in (mixed, alone)]
    assert len(by_task[0]) > 2
    assert by_task[0] == pytest.approx(by_task[1])


def test_without_graded_pairs_it_says_so(made: Made, tmp_path: Path) -> None:
    with pytest.raises(NotAtHandError, match="has stsb/"):
        weft.analyze([made("topic")], ["similarity"], out=tmp_path / "out", data=made.tasks)


@torch.no_grad()
def test_surprise_at_masked_words_is_that_of_transformers(made: Made, trees: Path) -> None:
    study = study_of([made("topic")], trees)
    corpus = study.common(study.subjects[0])
    hidden, wanted = masked(corpus, study)
    head = own_head(study)
    nll, hit = surprise(head, study.states(hidden, None)[-1], wanted)
    model = transformers.BertForMaskedLM.from_pretrained(made.where, dtype=torch.float64).eval()
    at = 0
    for record, plain, places in zip(hidden.records, corpus.records, hidden.units, strict=True):
        ids, before = (torch.tensor(own["input_ids"]) for own in (record, plain))
        masks = ids[0].eq(study.base.tokenizer.mask_token_id or -1).nonzero()[:, 0]
        assert masks.tolist() == [place for (place,) in places]
        logits = model(ids, token_type_ids=torch.tensor(record["token_type_ids"])).logits[0, masks]
        count = len(masks)
        assert wanted[at : at + count].tolist() == before[0, masks].tolist()
        expected = -logits.log_softmax(-1).gather(1, before[0, masks][:, None])[:, 0]
        torch.testing.assert_close(nll[at : at + count], expected)
        right = (logits.argmax(-1) == before[0, masks]).double()
        torch.testing.assert_close(hit[at : at + count], right)
        at += count
    assert at == len(wanted)
    assert len(hidden.tags["part of speech"]) == len(wanted)


def test_masked_words_are_asked_with_intervals_and_chance(
    made: Made, trees: Path, tmp_path: Path
) -> None:
    found = asked([made("topic")], "masked_words", tmp_path / "out", trees)
    row = next(row for row in found["rows"] if not row["tagged by"])
    number = next(row for row in found["numbers"] if row["what"].startswith("surprise"))
    apart = row["surprise (nats), adapted"] - row["surprise (nats), base"]
    assert number["value"] == pytest.approx(apart)
    assert number["low"] < number["value"] < number["high"]
    assert number["chance"] != 0


def test_a_base_without_a_head_for_masked_words_is_not_given_one(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, trees: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "headless"
    base = load_base(str(tiny_folder("bert")))
    transformers.BertModel.from_pretrained(tiny_folder("bert")).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    made = made_on(lambda _: folder, tasks_folder, tmp_path)
    run = made("topic")
    with pytest.raises(NotAtHandError, match="has no head for masked words"):
        weft.analyze([run], ["masked_words"], out=tmp_path / "out", data=trees)


class TestForetelling:
    def test_correlation_is_scipy_s(self) -> None:
        x, y = drawn(2, 14).tolist()
        y[3] = y[5]
        found = rank_correlation(x, y, range(14))
        assert found.value == pytest.approx(scipy.stats.spearmanr(x, y)[0])
        assert found.low < found.value < found.high

    def test_a_planted_order_is_found_and_noise_is_not(self) -> None:
        x = drawn(30).tolist()
        owner = [at // 2 for at in range(30)]
        found = rank_correlation(x, [math.exp(value) for value in x], owner)
        assert (found.value, found.low, found.high) == (1, 1, 1)
        noise = rank_correlation(x, drawn(30, seed=1).tolist(), owner)
        assert noise.low < 0 < noise.high

    def test_values_of_one_pair_are_drawn_together(self) -> None:
        """Each value there twice says no more than once, so the interval is that of half as many."""
        x, y = drawn(2, 10).tolist()
        once = rank_correlation(x, y, range(10))
        both = ([value for value in own for _ in range(2)] for own in (x, y))
        twice = rank_correlation(*both, [at // 2 for at in range(20)])
        assert (twice.low, twice.high) == (pytest.approx(once.low), pytest.approx(once.high))

    def test_few_pairs_have_no_interval(self) -> None:
        found = rank_correlation([1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 1, 1])
        assert found.value == 1
        assert math.isnan(found.low)

    def test_chance_is_the_95_percent_point_of_random_orders(self) -> None:
        x, y = drawn(2, 40).tolist()
        # The null's standard deviation is 1 / sqrt(n - 1), and it is about normal.
        assert by_chance(x, y) == pytest.approx(1.96 / np.sqrt(39), rel=0.1)
