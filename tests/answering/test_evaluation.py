"""Outputs do not depend on who shares a batch; scores are the libraries'; intervals cover."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import accuracy_score, f1_score

from weft.answering.evaluation import evaluate, predictions
from weft.answering.inference import outputs, padding_id, total_loss
from weft.answering.prediction import predict
from weft.base.loading import Base, load_base
from weft.config import RecipeSettings, Run
from weft.methods.recipes import resolve
from weft.model.batching import Item, collate
from weft.model.card import Card
from weft.model.expert import Expert, build
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.runs import RunFolder
from weft.storage.experts import save_expert
from weft.storage.loading import load_run_model
from weft.tasks.contract import Example, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.scoring import Score, holm, mean_difference, paired_difference, score

LONG = "the river was in paris and the old city of london had a big house for john and mary "
SPECS: dict[str, dict[str, Any]] = {
    "sequence_classification": {"labels": ["bad", "good"]},
    "token_classification": {"labels": ["O", "B-x", "I-x"], "max_length": 16, "stride": 4},
    "span_extraction": {"max_length": 24, "stride": 4},
    "multiple_choice": {"options": {"choices": 3}},
    "masked_lm": {"max_length": 20},
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "sequence_classification": [
        {"text": "a good film", "label": "good"},
        {"text": LONG * 2, "label": "bad"},
    ],
    "token_classification": [
        {"tokens": ["john", "was", "in", "paris"], "tags": ["B-x", "O", "O", "B-x"]},
        {"tokens": LONG.split() * 2, "tags": ["O"] * (2 * len(LONG.split()))},
    ],
    "span_extraction": [
        {"question": "who", "context": LONG * 2, "answers": [{"text": "john", "start": 70}]},
        {"question": "where is it", "context": "in paris", "answers": [{"text": "in", "start": 0}]},
    ],
    "multiple_choice": [
        {"context": "the dog", "choices": ["said", "was " * 9, "a cat"], "label": 0},
        {"context": LONG, "choices": ["one", "two three", "no"], "label": 2},
    ],
    "masked_lm": [{"text": LONG}, {"text": "the good dog and the bad cat"}],
}


def task_of(kind: str, **spec: Any) -> Task:
    full = TaskSpec.model_validate(
        {"name": f"tiny-{kind}", "kind": kind, **SPECS.get(kind, {}), **spec}
    )
    loaded = kinds.load(kind)
    return loaded(full, loaded.collect_labels(full, []))


def expert_of(base: Base, task: Task, seed: int) -> Expert:
    """A LoRA expert that has moved away from its start."""
    recipe = resolve(RecipeSettings(name="lora", rank=seed + 1, targets="all-linear"))
    expert = build(
        task.spec.kind, base, recipe, Head(task.spec.kind, base, task.num_labels, seed), seed
    )
    with torch.no_grad():
        for number, adapter in enumerate(expert.adapters.values()):
            noise = torch.Generator().manual_seed(99 * seed + number)
            adapter.B.copy_(0.2 * torch.randn(adapter.B.shape, generator=noise))
    return expert


def examples_of(task: Task) -> list[Example]:
    rows = ROWS[task.spec.kind]
    return [task.check({"id": str(at), **row}, f"row {at}") for at, row in enumerate(rows)]


@pytest.fixture(scope="module")
def bert(tiny_folder: Callable[[str], Path]) -> Model:
    """One tiny base with an expert of every kind it can serve."""
    base = load_base(str(tiny_folder("bert")))
    model = Model(base)
    for seed, kind in enumerate(SPECS):
        model.add(expert_of(base, task_of(kind), seed))
    return model


def test_outputs_are_each_row_s_own_whatever_shares_its_batch(bert: Model) -> None:
    items = []
    for at in (0, 1):
        for kind in SPECS:
            task = task_of(kind)
            record = task.encode(examples_of(task)[at], bert.base.tokenizer)
            items.append(Item(kind, kind, (kind,), record))
    pad = padding_id(bert.base)
    bert.eval()
    alone = []
    with torch.no_grad():
        for item in items:
            batch = collate([item], pad)
            part = batch.parts[0]
            logits = bert(batch)[item.head]
            alone.append(kind_of(item.kind).outputs(logits, part.labels, part.lengths)[0])
    bert.train()
    bert.expert("masked_lm").eval()
    modes = [module.training for module in bert.modules()]
    told: list[tuple[int, int]] = []
    for tokens in (1, 60, 4096):
        together = outputs(
            bert,
            items,
            pad_id=pad,
            device="cpu",
            tokens_per_batch=tokens,
            progress=lambda done, total: told.append((done, total)),
        )
        for item, got, expected in zip(items, together, alone, strict=True):
            whole = item.kind in ("sequence_classification", "multiple_choice")
            pairs = [(got, expected)] if whole else list(zip(got, expected, strict=True))
            for a, b in pairs:
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        counts = [done for done, _ in told]
        assert counts == sorted(counts)
        assert told[-1] == (len(items), len(items))
        told.clear()
    assert [module.training for module in bert.modules()] == modes


@pytest.mark.parametrize("kind", SPECS)
def test_the_loss_of_rows_is_the_sum_of_their_own(bert: Model, kind: str) -> None:
    task, pad = task_of(kind), padding_id(bert.base)
    draw = np.random.default_rng(0)
    records = [task.encode(example, bert.base.tokenizer) for example in examples_of(task)]
    items = [Item(kind, kind, (kind,), task.sample(record, draw)) for record in records]
    loss, count = 0.0, 0
    bert.eval()
    with torch.no_grad():
        for item in items:
            batch = collate([item], pad)
            labels = batch.parts[0].labels
            assert labels is not None
            loss += kind_of(kind).loss(bert(batch)[kind], labels, 0.0).item()
            count += kind_of(kind).count(labels)
    bert.train()
    assert count > 0
    found, labelled = total_loss(bert, items, pad_id=pad, device="cpu")
    assert labelled == count
    assert found == pytest.approx(loss, rel=1e-5)
    assert bert.training


def test_windows_answered_apart_keep_their_row_s_weight(bert: Model) -> None:
    kind = "token_classification"
    task, pad = task_of(kind), padding_id(bert.base)
    records = [task.encode(example, bert.base.tokenizer) for example in examples_of(task)]
    assert len(records[1]["input_ids"]) > 1

    def loss(rows: list[dict[str, Any]]) -> tuple[float, float]:
        items = [Item(kind, kind, (kind,), record) for record in rows]
        return total_loss(bert, items, pad_id=pad, device="cpu")

    found = loss([records[0], {**records[1], "weight": 3.0}])
    assert found == pytest.approx(loss([records[0], *[records[1]] * 3]), rel=1e-5)


def test_bf16_rounds_and_fp64_does_not(tiny_folder: Callable[[str], Path]) -> None:
    task = task_of("sequence_classification")
    found = {}
    for precision in ("fp64", "fp32", "bf16"):
        dtype = torch.float64 if precision == "fp64" else torch.float32
        base = load_base(str(tiny_folder("bert")), dtype=dtype)
        model = Model(base)
        model.add(expert_of(base, task, 3))
        records = [task.encode(example, base.tokenizer) for example in examples_of(task)]
        items = [
            Item(task.spec.kind, task.spec.kind, (task.spec.kind,), record) for record in records
        ]
        found[precision] = np.stack(
            outputs(model, items, pad_id=0, device="cpu", precision=precision)
        )
    exact = found["fp64"]
    assert np.abs(found["fp32"] - exact).max() < 1e-5
    assert 1e-4 < np.abs(found["bf16"] - exact).max() < 0.1


def test_masked_rows_are_scored_on_the_same_tokens_in_any_company(bert: Model) -> None:
    task = task_of("masked_lm")
    examples = examples_of(task)
    records = [task.encode(example, bert.base.tokenizer) for example in examples]

    def scored(order: list[int]) -> dict[str, tuple[float, int]]:
        found = predictions(
            bert,
            task,
            [examples[at] for at in order],
            [records[at] for at in order],
            head="masked_lm",
            kind="masked_lm",
            members=("masked_lm",),
            pad_id=0,
            device="cpu",
        )
        return {row["id"]: (round(row["nll"], 3), row["tokens"]) for row in found}

    assert scored([0, 1]) == scored([1, 0]) == {**scored([0]), **scored([1])}
    assert all(tokens > 0 for _, tokens in scored([0, 1]).values())


def classified(said: list[str], right: list[str]) -> tuple[Task, list[Any], list[Any]]:
    task = task_of("sequence_classification", labels=sorted({*said, *right, "b"}))
    return (
        task,
        [{"id": str(at), "label": label} for at, label in enumerate(said)],
        [{"id": str(at), "label": label} for at, label in enumerate(right)],
    )


def drawn_labels(rows: int, right: float, seed: int) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(seed)
    gold = generator.choice(["a", "b", "c"], size=rows)
    wrong = generator.choice(["a", "b", "c"], size=rows)
    return np.where(generator.random(rows) < right, gold, wrong).tolist(), gold.tolist()


def test_class_scores_are_scikit_learn_s_and_intervals_a_plain_bootstrap_s() -> None:
    said, right = drawn_labels(200, 0.6, 0)
    found = score(*classified(said, right), resamples=50, seed=3, level=0.9)
    drawn = np.random.default_rng(3).integers(200, size=(50, 200))
    a, b = np.array(said), np.array(right)
    for name, oracle in (
        ("accuracy", accuracy_score),
        ("f1_macro", lambda gold, said: f1_score(gold, said, average="macro")),
    ):
        plain = [oracle(b[rows], a[rows]) for rows in drawn]
        low, high = np.quantile(plain, [0.05, 0.95])
        expected = [oracle(b, a), low, high]
        got = found[name]
        np.testing.assert_allclose([got.value, got.low, got.high], expected, rtol=1e-12)


def test_entity_scores_are_seqeval_s() -> None:
    task = task_of("token_classification")
    generator = np.random.default_rng(5)
    gold = [generator.choice(["O", "B-x", "I-x"], size=9).tolist() for _ in range(40)]
    said = [[tag if generator.random() < 0.8 else "O" for tag in tags] for tags in gold]
    found = score(
        task,
        [{"id": "-", "tags": tags} for tags in said],
        [{"id": "-", "tags": tags} for tags in gold],
    )
    assert found["f1"].value == pytest.approx(seqeval_f1(gold, said), rel=1e-12)
    assert 0 < found["f1"].low < found["f1"].value < found["f1"].high < 1


def test_the_interval_covers_the_true_score_about_as_often_as_it_says() -> None:
    # True accuracy 0.6 + 0.4 / 3. Of 200 draws at 0.9 the count covered is binomial: 180 +- 4.2;
    # the percentile interval itself falls a little short at 120 rows.
    truth, covered = 0.6 + 0.4 / 3, 0
    for seed in range(200):
        said, right = drawn_labels(120, 0.6, 1000 + seed)
        found = score(*classified(said, right), resamples=300, level=0.9, seed=seed)["accuracy"]
        covered += found.low <= truth <= found.high
    assert 165 <= covered <= 194


def test_many_rows_are_resampled_in_parts_without_a_seam() -> None:
    # 1000 resamples of 9000 rows take three parts; the interval is the normal one, but for noise.
    rows = 9000
    found = score(*classified(*drawn_labels(rows, 0.5, 1)))["accuracy"]
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / rows)
    assert found.high - found.value == pytest.approx(half, rel=0.12)
    assert found.value - found.low == pytest.approx(half, rel=0.12)


def test_a_seed_decides_the_interval() -> None:
    rows = classified(*drawn_labels(50, 0.5, 2))
    assert score(*rows, seed=1) == score(*rows, seed=1)
    assert score(*rows, seed=1) != score(*rows, seed=2)


def test_one_row_has_a_score_and_an_interval_of_no_width() -> None:
    assert score(*classified(["a"], ["a"]))["accuracy"] == Score(1.0, 1.0, 1.0)
    task = task_of("sequence_classification", labels=None, options={"mode": "regression"})
    with pytest.warns(UserWarning, match="pearson is undefined for these 1 rows.*; 0 stands for"):
        found = score(task, [{"label": 2.0}], [{"id": "0", "label": 5.0}])
    assert found == {
        "pearson": Score(0.0, 0.0, 0.0),
        "mse": Score(9.0, 9.0, 9.0),
        "mae": Score(3.0, 3.0, 3.0),
    }


def test_without_resamples_there_is_no_interval() -> None:
    said, right = drawn_labels(30, 0.5, 2)
    found = score(*classified(said, right), resamples=0)["accuracy"]
    assert found == Score(*[accuracy_score(right, said)] * 3)


def test_what_cannot_be_scored_is_refused() -> None:
    task, said, right = classified(["a", "b"], ["a", "a"])
    with pytest.raises(ValueError, match="no rows to score"):
        score(task, [], [])
    with pytest.raises(ValueError, match="1 predictions for 2 rows"):
        score(task, said[:1], right)
    with pytest.raises(ValueError, match="row '9' has no 'label'"):
        score(task, said[:1], [{"id": "9"}])
    with pytest.raises(ValueError, match="nothing to score"):
        score(task_of("causal_lm"), [{"nll": 0.0, "tokens": 0, "bytes": 0}], [{"id": "0"}])


def test_a_difference_is_paired() -> None:
    said, right = drawn_labels(400, 0.5, 4)
    task, a, gold = classified(said, right)
    zero = paired_difference(task, a, a, gold)
    assert set(zero.values()) == {Score(0.0, 0.0, 0.0)}
    better = [*a]
    wrong = [at for at, label in enumerate(said) if label != right[at]][:12]
    for at in wrong:
        better[at] = {**a[at], "label": right[at]}
    found = paired_difference(task, better, a, gold)["accuracy"]
    back = paired_difference(task, a, better, gold)["accuracy"]
    assert found.value == pytest.approx(12 / 400)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )
    # 12 rows of 400 differ: the paired interval is far narrower than either score's own.
    own = score(task, a, gold)["accuracy"]
    assert 0 < found.low < found.high
    assert found.high - found.low < 0.5 * (own.high - own.low)


def improved(said: list[str], right: list[str], count: int) -> list[str]:
    """`said` with the first `count` errors put right."""
    wrong = [at for at, label in enumerate(said) if label != right[at]][:count]
    return [right[at] if at in wrong else label for at, label in enumerate(said)]


def test_a_difference_of_means_is_paired_by_row_and_run() -> None:
    said, right = drawn_labels(400, 0.5, 4)
    task, a, gold = classified(said, right)
    runs = [classified(improved(said, right, count), right)[1] for count in (10, 12, 14)]
    found = mean_difference(task, runs, [a, a, a], gold)["accuracy"]
    assert found.value == pytest.approx(12 / 400)
    assert 0 < found.low < found.value < found.high
    assert found.p == pytest.approx(2 / 1001)
    back = mean_difference(task, [a, a, a], runs, gold)["accuracy"]
    assert (back.value, back.low, back.high, back.p) == pytest.approx(
        (-found.value, -found.high, -found.low, found.p)
    )
    same = mean_difference(task, [a, a], [a, a], gold)["accuracy"]
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    # One run of a kind: the paired difference of two systems.
    alone = mean_difference(task, runs[:1], [a], gold)["accuracy"]
    pair = paired_difference(task, runs[0], a, gold)["accuracy"]
    assert (alone.value, alone.low, alone.high) == (pair.value, pair.low, pair.high)
    # Runs that disagree make the mean less sure than runs that agree.
    apart = [classified(improved(said, right, count), right)[1] for count in (0, 12, 24)]
    wide = mean_difference(task, apart, [a, a, a], gold)["accuracy"]
    assert wide.value == pytest.approx(found.value)
    assert wide.high - wide.low > 1.3 * (found.high - found.low)
    with pytest.raises(ValueError, match="3 runs and 1: give as many of both"):
        mean_difference(task, runs, [a], gold)


def test_many_p_values_are_corrected_as_holm_says() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}


@pytest.fixture
def run_folder(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Path:
    """A run folder as training leaves it, without the training; its data beside it."""
    (tmp_path / "data").mkdir()
    rows = [
        {"id": f"r{at}", "text": text, "label": label}
        for at, (text, label) in enumerate(
            [("a good film", "good"), ("bad", "bad"), (LONG, "good")]
        )
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "data" / "validation.jsonl").write_text(lines)
    settings = tmp_path / "own.yaml"
    settings.write_text("kind: sequence_classification\nlabels: [bad, good]\nformat: jsonl\n")
    base = load_base(str(tiny_folder("bert")))
    run = Run.model_validate(
        {
            "base": str(tiny_folder("bert")),
            "task": {"name": str(settings), "data": str(tmp_path / "data")},
            "seed": 5,
        }
    )
    folder = RunFolder.create(tmp_path / "run", run)
    task = task_of("sequence_classification", name="own")
    expert = expert_of(base, task, 2)
    recipe = resolve(RecipeSettings(name="lora", rank=3, targets="all-linear"))
    card = Card(
        task=task.spec.model_dump(mode="json"),
        labels=tuple(task.labels),
        head=task.spec.kind,
        recipe=recipe.describe().model_dump(mode="json"),
        targets=tuple(expert.adapters),
        base=base.name,
        source=base.source,
        revision=None,
        digest=base.digest,
    )
    save_expert(expert, card, base, folder.expert)
    return folder.path


def test_a_run_folder_is_evaluated_and_remembers_it(run_folder: Path) -> None:
    result = evaluate(run_folder, device="cpu")
    inputs = [
        {"id": f"r{at}", "text": text} for at, text in enumerate(["a good film", "bad", LONG])
    ]
    expected = predict(load_run_model(run_folder, device="cpu"), inputs)
    assert [row["id"] for row in result.predictions] == ["r0", "r1", "r2"]
    assert [row["label"] for row in result.predictions] == [row["label"] for row in expected]
    right = sum(a["label"] == b for a, b in zip(expected, ["good", "bad", "good"], strict=True))
    assert result.scores["accuracy"].value == pytest.approx(right / 3)
    scores = result.as_json()["scores"]
    assert result.as_json() == {"task": "own", "split": "validation", "n": 3, "scores": scores}
    assert set(scores["accuracy"]) == {"value", "low", "high"}
    lines = (run_folder / "predictions-validation.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.predictions
    saved = RunFolder.open(run_folder).metrics
    assert saved == [
        {"name": name, **values, "n": 3, "seed": 5, "split": "validation"}
        for name, values in scores.items()
    ]


def test_a_sample_is_scored_without_saving(run_folder: Path) -> None:
    result = evaluate(run_folder, device="cpu", max_examples=2, save=False)
    assert result.n == 2
    assert sorted(path.name for path in run_folder.iterdir()) == ["expert", "run.yaml"]


def test_a_run_of_several_tasks_is_evaluated_task_by_task(run_folder: Path, tmp_path: Path) -> None:
    run = RunFolder.open(run_folder).run
    assert run.task is not None
    both = []
    for name in ("first", "second"):
        shutil.copy(run.task.name, tmp_path / f"{name}.yaml")
        shutil.copytree(tmp_path / "data", tmp_path / "all" / name)
        both.append(run.task.model_copy(update={"name": str(tmp_path / f"{name}.yaml")}))
    whole = RunFolder.create(
        tmp_path / "several", run.model_copy(update={"task": None, "tasks": both})
    )
    for part, task in zip(whole.parts(), both, strict=True):
        made = RunFolder.create(part.path, run.model_copy(update={"task": task}))
        shutil.copytree(run_folder / "expert", made.expert)
    found = evaluate(whole.path, data=str(tmp_path / "all"), device="cpu")
    alone = evaluate(run_folder, device="cpu")
    assert [one.task for one in found] == ["first", "second"]
    assert [one.scores for one in found] == [alone.scores] * 2
    assert [len(part.metrics) for part in whole.parts()] == [len(alone.scores)] * 2
    with pytest.raises(
        ValueError, match="trained several tasks; name one, or give the run folder of one: "
    ):
        load_run_model(whole.path)


def test_a_folder_without_an_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no run\.yaml"):
        evaluate(tmp_path)
    folder = RunFolder.create(tmp_path / "run", Run.model_validate({"task": "squad"}))
    with pytest.raises(ValueError, match="holds no expert yet"):
        evaluate(folder.path)
