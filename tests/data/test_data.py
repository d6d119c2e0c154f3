"""A task's rows arrive in canonical columns, whatever their source calls them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.config import Split, TaskSettings
from weft.data.reading import example_from_user, find_kind, find_spec, holdout, load_task, sample
from weft.tasks.contract import Example
from weft.tasks.kinds import kinds
from weft.tasks.sets import sets

REAL = Path(__file__).parents[3] / "shared" / "data"

CLASSES = "name: mine\nkind: sequence_classification\n"
TAGS = "name: mine\nkind: token_classification\n"
SPANS = "name: mine\nkind: span_extraction\n"
CHOICES = "name: mine\nkind: multiple_choice\noptions: {choices: 2}\n"
SWAG_HEADER = ",video-id,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"
WORDS = [
    "Stabilized",
    "approach",
    "or",
    "not",
    "?",
    "That",
    "\xb4",
    "s",
    "insane",
    "and",
    "good",
    ".",
]


def _write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        stem, ending = name.rsplit("_", 1)
        (folder / f"{stem}.{ending}").write_text(content, encoding="utf-8")


def _settings(folder: Path, spec: str, **values: Any) -> TaskSettings:
    _write(folder, mine_yaml=spec)
    return TaskSettings(name=str(folder / "mine.yaml"), **values)


def _load(settings: TaskSettings, *splits: Split, **values: Any) -> Mapping[Split, list[Example]]:
    return load_task(settings, splits=splits or ("train",), seed=0, **values).splits


def _error(settings: TaskSettings, *splits: Split, **values: Any) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        _load(settings, *splits, **values)
    return str(caught.value)


@pytest.mark.parametrize("name", sets.names())
def test_every_named_set_says_what_it_is_and_under_what_terms(name: str) -> None:
    spec = find_spec(name)
    assert spec.name == name
    assert spec.kind in kinds.names()
    assert spec.hub is not None
    assert all([spec.description, spec.source, spec.licence, spec.citation, spec.format])
    assert spec.stride < spec.max_length
    find_kind(spec)(spec, spec.labels or [])


@pytest.mark.parametrize(
    ("name", "rows", "example"),
    [
        (
            "wnut17",
            {"train": 3394, "validation": 1009},
            {
                "id": "validation-0",
                "tokens": WORDS,
                "tags": ["O"] * 12,
            },
        ),
        (
            "swag",
            {"train": 1876, "validation": 500},
            {
                "id": "0",
                "context": "A dog runs across a field as a frisbee flies through the air.",
                "prefix": "The dog",
                "choices": [
                    "leaps through the air and catches the frisbee in its mouth.",
                    "can't catch a break.",
                    "loves the song strawberry fields and uses its mouth to sing.",
                    "is a drawing and has no mouth.",
                ],
                "label": 0,
            },
        ),
        ("squad", {"train": 8310, "validation": 985}, None),
    ],
)
def test_the_published_sets_read_without_options(
    name: str, rows: dict[Split, int], example: Example | None
) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"the published files of {name} are not at {REAL / name}")
    settings = TaskSettings(name=name, data=str(REAL / name))
    splits = _load(settings, "train", "validation")
    assert {split: len(examples) for split, examples in splits.items()} == rows
    assert example is None or example in splits["validation"]


def test_swag_rows_are_context_prefix_and_choices(tmp_path: Path) -> None:
    row = '7,v,s,"A dog, here.",It,gold,runs.,sits.,eats.,sings.,2'
    _write(tmp_path, train_csv=f"{SWAG_HEADER},label\n{row}\n")
    expected = {"id": "7", "context": "A dog, here.", "prefix": "It"}
    expected |= {"choices": ["runs.", "sits.", "eats.", "sings."], "label": 2}
    assert _load(TaskSettings(name="swag", data=str(tmp_path))) == {"train": [expected]}


def test_swag_from_the_hub_is_the_same_but_numbered(tmp_path: Path) -> None:
    text = {name: datasets.Value("string") for name in SWAG_HEADER.strip(",").split(",")}
    features = datasets.Features({**text, "label": datasets.ClassLabel(names=list("0123"))})
    row = dict.fromkeys(text, "same") | {"sent1": "A dog.", "sent2": "It", "label": 3}
    row |= {f"ending{number}": f"e{number}" for number in range(4)}
    rows = {name: [value, value] for name, value in row.items()}
    path = tmp_path / "regular" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    choices = ["e0", "e1", "e2", "e3"]
    expected = {"context": "A dog.", "prefix": "It", "choices": choices, "label": 3}
    assert _load(TaskSettings(name="swag", data=str(tmp_path))) == {
        "train": [{"id": f"train-{number}", **expected} for number in range(2)]
    }


def test_swag_from_the_hub_refuses_the_unlabelled_test_split(tmp_path: Path) -> None:
    names = [name for name in SWAG_HEADER.split(",") if name]
    text = {name: datasets.Value("string") for name in names}
    features = datasets.Features({**text, "label": datasets.ClassLabel(names=list("0123"))})
    rows = {name: ["x"] for name in text} | {"label": [-1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test.parquet")
    settings = TaskSettings(name="swag", data=str(tmp_path))
    said = "row 0: 'label' is needed, but its column holds nothing"
    assert _error(settings, "test", labels=[]) == f"{tmp_path / 'test.parquet'}: {said}"


def test_squad_reads_alike_as_published_and_from_the_hub(tmp_path: Path) -> None:
    context, answers = "Ada met Bob.", [{"text": "Bob", "start": 8}, {"text": "Bob.", "start": 8}]
    published = [{"text": answer["text"], "answer_start": answer["start"]} for answer in answers]
    question = {"id": "q1", "question": "Whom?", "answers": published}
    document = {"data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "train-v1.1.json").write_text(json.dumps(document))
    hub: dict[str, list[Any]] = {"id": ["q1"], "context": [context], "question": ["Whom?"]}
    hub["answers"] = [{"text": ["Bob", "Bob."], "answer_start": [8, 8]}]
    path = tmp_path / "hub" / "plain_text" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(hub).to_parquet(path)
    expected = {"id": "q1", "question": "Whom?", "context": context, "answers": answers}
    for folder in ("published", "hub"):
        settings = TaskSettings(name="squad", data=str(tmp_path / folder))
        assert _load(settings) == {"train": [expected]}


def test_squad_v2_reads_alike_as_published_and_from_the_hub(tmp_path: Path) -> None:
    context, plausible = "Ada met Bob.", [{"text": "Bob", "answer_start": 8}]
    questions = [
        {"id": "q1", "question": "Whom?", "answers": plausible, "is_impossible": False},
        {"id": "q2", "question": "When?", "answers": [], "is_impossible": True}
        | {"plausible_answers": plausible},
    ]
    document = {
        "version": "v2.0",
        "data": [{"paragraphs": [{"context": context, "qas": questions}]}],
    }
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "train-v2.0.json").write_text(json.dumps(document))
    answers = [{"text": ["Bob"], "answer_start": [8]}, {"text": [], "answer_start": []}]
    hub: dict[str, list[Any]] = {"id": ["q1", "q2"], "title": ["T"] * 2, "context": [context] * 2}
    path = tmp_path / "hub" / "squad_v2" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    rows = hub | {"question": ["Whom?", "When?"], "answers": answers}
    datasets.Dataset.from_dict(rows).to_parquet(path)
    for folder in ("published", "hub"):
        found = _load(TaskSettings(name="squad_v2", data=str(tmp_path / folder)))["train"]
        assert [(row["id"], row["answers"]) for row in found] == [
            ("q1", [{"text": "Bob", "start": 8}]),
            ("q2", []),
        ]
    said = "a question without an answer (SQuAD 2.0)"
    assert said in _error(TaskSettings(name="squad", data=str(tmp_path / "published")))


def test_sets_of_glue_read_as_the_hub_keeps_them(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["unacceptable", "acceptable"])
    kinds_of = {
        "sentence": datasets.Value("string"),
        "label": names,
        "idx": datasets.Value("int32"),
    }
    rows: dict[str, list[Any]] = {"sentence": ["They run.", "Run they the."], "label": [1, 0]}
    features = datasets.Features(kinds_of)
    made = datasets.Dataset.from_dict({**rows, "idx": [7, 8]}, features=features)
    made.to_parquet(tmp_path / "cola" / "train-00000-of-00001.parquet")
    pairs = {"sentence1": ["One."], "sentence2": ["Two."], "label": [3.8], "idx": [0]}
    datasets.Dataset.from_dict(pairs).to_parquet(tmp_path / "stsb" / "train-00000-of-00001.parquet")
    assert _load(TaskSettings(name="cola", data=str(tmp_path)))["train"] == [
        {"id": "7", "text": "They run.", "label": "acceptable"},
        {"id": "8", "text": "Run they the.", "label": "unacceptable"},
    ]
    assert _load(TaskSettings(name="stsb", data=str(tmp_path)))["train"] == [
        {"id": "0", "text": "One.", "text_pair": "Two.", "label": 3.8}
    ]


def _tag_numbers(path: Path, names: list[str] | None) -> None:
    inner = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(inner)}
    )
    rows = {"tokens": [["Ada", "Ba", "ran"]], "ner_tags": [[1, 2, 0]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def test_tag_numbers_get_the_names_that_the_file_has(tmp_path: Path) -> None:
    # In another order than the set's own labels: the file decides.
    _tag_numbers(tmp_path / "train.parquet", ["O", "B-person", "I-person"])
    expected = {"id": "train-0", "tokens": ["Ada", "Ba", "ran"]}
    expected["tags"] = ["B-person", "I-person", "O"]
    assert _load(TaskSettings(name="wnut17", data=str(tmp_path))) == {"train": [expected]}


def test_tag_numbers_without_names_need_labels(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    _tag_numbers(path, None)
    columns = "columns: {tags: ner_tags}\n"
    said = _error(_settings(tmp_path, TAGS + columns))
    assert said.startswith(f"{path}: row 0: column 'ner_tags' holds numbers without names")
    labels = "labels: [O, B-x, I-x]\n"
    assert _load(_settings(tmp_path, TAGS + columns + labels))["train"][0]["tags"] == [
        "B-x",
        "I-x",
        "O",
    ]
    short = "labels: [O, B-x]\n"
    said = _error(_settings(tmp_path, TAGS + columns + short))
    assert said.endswith("expected numbers of `labels`, 0 to 1, got 2")


def test_a_users_yaml_names_files_columns_and_labels(tmp_path: Path) -> None:
    spec = CLASSES + "columns: {text: review, label: stars, id: key}\nfiles: {train: all.tsv}\n"
    _write(tmp_path, all_tsv="key\treview\tstars\nk1\tgood\t5\nk2\tbad\t1\n")
    loaded = load_task(_settings(tmp_path, spec), splits=["train"], seed=0)
    assert loaded.splits["train"] == [
        {"id": "k1", "text": "good", "label": "5"},
        {"id": "k2", "text": "bad", "label": "1"},
    ]
    assert loaded.task.labels == ["1", "5"]


def test_a_users_yaml_without_a_name_is_called_after_its_file(tmp_path: Path) -> None:
    _write(tmp_path, mine_yaml="kind: causal_lm\n")
    assert find_spec(str(tmp_path / "mine.yaml")).name == "mine"


def test_choices_may_stand_in_one_column_or_in_several(tmp_path: Path) -> None:
    inner = {"choices": ["a", "b"], "x": "a", "y": "b"}
    _write(tmp_path, train_jsonl=json.dumps({"context": "c", "label": 1, **inner}))
    expected = {"id": "train-0", "context": "c", "prefix": "", "choices": ["a", "b"], "label": 1}
    assert _load(_settings(tmp_path, CHOICES)) == {"train": [expected]}
    settings = _settings(tmp_path, CHOICES + "columns: {choices: 'y, x'}\n")
    assert _load(settings) == {"train": [{**expected, "choices": ["b", "a"]}]}


def test_overrides_of_the_run_reach_the_task_and_leave_the_rest(tmp_path: Path) -> None:
    _write(tmp_path, train_txt="one\n\ntwo\n")
    spec = "name: mine\nkind: causal_lm\nmax_length: 64\nstride: 4\n"
    loaded = load_task(_settings(tmp_path, spec, max_length=32, truncate=True), splits=[], seed=0)
    used = loaded.task.spec
    assert (used.max_length, used.stride, used.truncate) == (32, 4, True)
    assert loaded.splits == {}


def test_unknown_set_kind_and_key_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"Did you mean 'squad'"):
        find_spec("squat")
    settings = _settings(tmp_path, "name: mine\nkind: sequence_clasification\n")
    assert "Did you mean 'sequence_classification'" in _error(settings)
    said = _error(_settings(tmp_path, CLASSES + "colums: {text: review}\n"))
    assert "mine.yaml: colums: no setting named 'colums'. Did you mean 'columns'" in said
    said = _error(_settings(tmp_path, CLASSES + "columns: {text_pear: b}\n"))
    assert "no sequence_classification column named 'text_pear'. Did you mean 'text_pair'" in said


def test_a_missing_column_is_refused_with_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, train_csv="txt,label\na,x\n")
    said = _error(_settings(tmp_path, CLASSES))
    place = f"{tmp_path / 'train.csv'}:2"
    assert said.startswith(f"{place}: no column named 'text'. Did you mean 'txt'? Known: label, t")
    said = _error(_settings(tmp_path, CLASSES + "columns: {text: txt, text_pair: pair}\n"))
    assert said.startswith(f"{place}: no column named 'pair'")
    said = _error(_settings(tmp_path, CLASSES + "columns: {text: txt, label: lable}\n"))
    assert said.startswith(f"{place}: no column named 'lable'. Did you mean 'label'?")


def test_a_row_without_its_answer_is_refused_by_line(tmp_path: Path) -> None:
    rows = '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n{"text": "c"}\n'
    _write(tmp_path, train_jsonl=rows)
    said = "'label' is needed, but its column holds nothing"
    assert _error(_settings(tmp_path, CLASSES)) == f"{tmp_path / 'train.jsonl'}:2: {said}"


def test_duplicate_ids_are_refused_with_both_places(tmp_path: Path) -> None:
    _write(tmp_path, train_csv="id,text,label\n1,a,x\n2,b,y\n1,c,x\n")
    path = tmp_path / "train.csv"
    said = f"{path}:4: id '1' is also at {path}:2; ids must differ"
    assert _error(_settings(tmp_path, CLASSES)) == said


def test_an_empty_id_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, train_csv="id,text,label\n,a,x\n")
    said = f"{tmp_path / 'train.csv'}:2: column 'id' holds an empty id"
    assert _error(_settings(tmp_path, CLASSES)) == said


def test_duplicate_questions_are_refused(tmp_path: Path) -> None:
    question = {"id": "q", "question": "?", "answers": [{"text": "a", "answer_start": 0}]}
    document = {"data": [{"paragraphs": [{"context": "a", "qas": [question, question]}]}]}
    _write(tmp_path, train_json=json.dumps(document))
    place = f"{tmp_path / 'train.json'}: data[0].paragraphs[0].qas"
    said = f"{place}[1]: id 'q' is also at {place}[0]; ids must differ"
    assert _error(TaskSettings(name="squad", data=str(tmp_path))) == said


def test_answers_of_unequal_length_are_refused(tmp_path: Path) -> None:
    row = {"question": "?", "context": "a", "answers": {"text": ["a"], "answer_start": []}}
    _write(tmp_path, train_jsonl=json.dumps(row))
    assert _error(_settings(tmp_path, SPANS)).endswith(
        ":1: column 'answers' has 1 texts but 0 starts"
    )


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, train_csv="text,label\n")
    said = f"mine: the train split in {tmp_path} has no rows"
    assert _error(_settings(tmp_path, CLASSES)) == said


def test_a_class_that_training_never_had_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, train_csv="text,label\na,x\nb,y\n", dev_csv="text,label\na,z\n")
    said = _error(_settings(tmp_path, CLASSES), "validation")
    assert said.startswith(f"{tmp_path / 'dev.csv'}:2: column 'label': no class named 'z'")


def test_evaluation_with_labels_reads_no_training_split(tmp_path: Path) -> None:
    _write(tmp_path, dev_csv="text,label\na,y\n")
    settings = _settings(tmp_path, CLASSES)
    loaded = load_task(settings, splits=["validation"], seed=0, labels=["y", "x"])
    assert loaded.task.labels == ["y", "x"]
    assert loaded.splits == {"validation": [{"id": "validation-0", "text": "a", "label": "y"}]}
    assert "no file for the train split" in _error(settings, "validation")


def test_labels_come_from_all_of_train_even_when_it_is_sampled(tmp_path: Path) -> None:
    rows = "".join(f"t{n},c{n}\n" for n in range(20))
    _write(tmp_path, train_csv=f"text,label\n{rows}")
    settings = _settings(tmp_path, CLASSES, max_examples=2)
    loaded = load_task(settings, splits=["train"], seed=0)
    assert set(loaded.task.labels) == {f"c{n}" for n in range(20)}
    assert len(loaded.splits["train"]) == 2


def test_max_examples_may_differ_by_split_and_must_be_positive(tmp_path: Path) -> None:
    rows = "text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(9))
    _write(tmp_path, train_csv=rows, dev_csv=rows)
    settings = _settings(tmp_path, CLASSES, max_examples={"train": 4})
    splits = _load(settings, "train", "validation")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4, "validation": 9}
    settings = _settings(tmp_path, CLASSES, max_examples=0)
    assert _error(settings).endswith("max_examples must be at least 1, got 0")


def _rows(count: int) -> list[Example]:
    return [{"id": str(number)} for number in range(count)]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_a_sample_is_seeded_ordered_and_without_repeats(count: int, size: int, seed: int) -> None:
    rows = _rows(count)
    drawn = sample(rows, size, seed=seed, split="train")
    numbers = [int(row["id"]) for row in drawn]
    assert len(drawn) == min(count, size)
    assert numbers == sorted(set(numbers))
    assert drawn == sample(rows, size, seed=seed, split="train")


def test_samples_differ_between_seeds_and_splits() -> None:
    rows = _rows(1000)
    first = sample(rows, 20, seed=0, split="train")
    assert first != sample(rows, 20, seed=1, split="train")
    assert first != sample(rows, 20, seed=0, split="validation")


@settings(deadline=None)
@given(st.integers(2, 80), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_holding_out_parts_the_rows_in_two(count: int, fraction: float, seed: int) -> None:
    rows = _rows(count)
    kept, held = holdout(rows, fraction, seed=seed)
    assert len(held) == min(max(round(count * fraction), 1), count - 1)
    for part in (kept, held):
        assert part == [row for row in rows if row in part]
    assert sorted([*kept, *held], key=lambda row: int(row["id"])) == rows
    assert (kept, held) == holdout(rows, fraction, seed=seed)


def test_holding_out_refuses_what_cannot_be_parted() -> None:
    assert holdout(_rows(1000), seed=0)[1] != holdout(_rows(1000), seed=1)[1]
    with pytest.raises(ValueError, match="at least 2, got 1"):
        holdout(_rows(1), seed=0)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.0"):
        holdout(_rows(5), 1.0, seed=0)


def test_a_row_to_predict_may_use_the_sets_columns_or_the_canonical_ones() -> None:
    spec = find_spec("swag")
    task = find_kind(spec)(spec, [])
    published = {"sent1": "c", "sent2": "p", "other": 1}
    published |= {f"ending{number}": str(number) for number in range(4)}
    canonical = {"context": "c", "prefix": "p", "choices": ["0", "1", "2", "3"]}
    expected = {"id": "stdin:3", **canonical}
    assert example_from_user(task, published, "stdin:3") == expected
    assert example_from_user(task, canonical, "stdin:3") == expected
    named = {"id": 5, **canonical, "label": 2}
    assert example_from_user(task, named, "stdin:3") == {**named, "id": "5"}


def test_words_may_be_left_to_the_task_when_predicting() -> None:
    spec = find_spec("wnut17")
    task = find_kind(spec)(spec, spec.labels or [])
    assert example_from_user(task, {"text": "Ada ran"}, "row")["tokens"] == ["Ada", "ran"]


def test_a_wrong_row_to_predict_is_refused_by_place() -> None:
    spec = find_spec("squad")
    task = find_kind(spec)(spec, [])
    with pytest.raises(ValueError, match=r"^stdin:1: no column named 'context'\. Did you mean"):
        example_from_user(task, {"question": "?", "contxt": "c", "context ": "c"}, "stdin:1")
    row: Any = ["?"]
    with pytest.raises(ValueError, match=r"^stdin:2: expected an object of columns"):
        example_from_user(task, row, "stdin:2")


def test_importing_the_data_side_imports_neither_torch_nor_datasets() -> None:
    code = (
        "import sys, weft.tasks, weft.data.reading, weft.data.encoding\n"
        "assert not {'torch', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_users_yaml_says_header_and_quotes_of_published_tables(tmp_path: Path) -> None:
    cola = 'bc01\t1\t\tThe cat slept.\nbc01\t0\t*\t"The slept"" cat the.\n'
    mrpc = 'Quality\t#1 ID\t#1 String\n1\t7\t"" Who "" said it .\n0\t8\tNo one .\n'
    _write(tmp_path, train_tsv=cola, dev_tsv=mrpc)
    header = "header: [source, label, mark, text]\n"
    found = _load(_settings(tmp_path, CLASSES + header))["train"]
    assert [(row["text"], row["label"]) for row in found] == [
        ("The cat slept.", "1"),
        ('"The slept"" cat the.', "0"),
    ]
    columns = "columns: {text: '#1 String', label: Quality, id: '#1 ID'}\nquotes: false\n"
    found = _load(_settings(tmp_path, CLASSES + columns), "validation", labels=["0", "1"])
    assert found["validation"][0] == {"id": "7", "text": '"" Who "" said it .', "label": "1"}


def test_classes_that_yaml_reads_as_truth_values_are_refused_with_the_file(tmp_path: Path) -> None:
    _write(tmp_path, train_csv="text,label\na,no\nb,yes\n")
    said = _error(_settings(tmp_path, CLASSES + "labels: [no, yes]\n"))
    assert said.startswith(f"{tmp_path / 'mine.yaml'}: labels: Value error, YAML reads yes, no")
    assert (
        _load(_settings(tmp_path, CLASSES + "labels: ['no', 'yes']\n"))["train"][1]["label"]
        == "yes"
    )


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        (["B-PER", "E-PER", "O", "S-LOC"], None),
        (["I-PER", "I-PER", "O", "I-LOC"], None),
        (["B-PER", "L-PER", "O", "U-LOC"], None),
        ([1, 2, 0, 3], "labels: [O, B-PER, E-PER, S-LOC, I-PER]\n"),
        (["PER", "PER", "O", "LOC"], "options: {scheme: io}\n"),
    ],
    ids=str,
)
def test_tags_of_every_scheme_arrive_in_iob2(
    tmp_path: Path, tags: list, labels: str | None
) -> None:
    row = {"tokens": ["Ada", "Byron", "in", "Rome"], "tags": tags}
    _write(tmp_path, train_jsonl=json.dumps(row))
    loaded = load_task(_settings(tmp_path, TAGS + (labels or "")), splits=["train"], seed=0)
    assert loaded.splits["train"][0]["tags"] == ["B-PER", "I-PER", "O", "B-LOC"]
    assert set(loaded.task.labels) == {"O", "B-PER", "I-PER", "B-LOC", "I-LOC"}


def test_messages_stay_short_whatever_a_file_holds(tmp_path: Path) -> None:
    _write(tmp_path, train_csv="text,label\n" + "".join(f"t,{'c' * 300}{n}\n" for n in range(3000)))
    _write(tmp_path, dev_csv=f"text,label\nt,{'d' * 9000}\n")
    said = _error(_settings(tmp_path, CLASSES), "train", "validation")
    assert said.startswith(f"{tmp_path / 'dev.csv'}:2: column 'label': no class named 'ddd")
    assert len(said) < 4000
