"""Every format gives its rows with their places, and refuses what is malformed by line."""

import json
from pathlib import Path

import datasets
import pytest

from weft.data.formats import json_lines, read_rows


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _error(path: Path, form: str | None = None) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        list(read_rows(path, form))
    return str(caught.value)


def test_csv_rows_keep_quoted_commas_and_newlines_and_name_their_first_line(tmp_path: Path) -> None:
    content = 'text,label\r\n"one, two\nthree ""four""",a\r\n\r\nfive,b\r\n'
    path = _file(tmp_path, "train.csv", content)
    assert list(read_rows(path)) == [
        ({"text": 'one, two\nthree "four"', "label": "a"}, f"{path}:2"),
        ({"text": "five", "label": "b"}, f"{path}:5"),
    ]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    path = _file(tmp_path, "train.csv", b"\xef\xbb\xbftext,label\nx,a\n")
    assert next(read_rows(path))[0] == {"text": "x", "label": "a"}


def test_tsv_parts_columns_by_tabs(tmp_path: Path) -> None:
    path = _file(tmp_path, "train.tsv", "text\tlabel\none, two\ta\n")
    assert list(read_rows(path)) == [({"text": "one, two", "label": "a"}, f"{path}:2")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\none,a\ntwo\n", ":3: 1 fields, but the header has 2"),
        ("text,text\n", ":1: the header names a column twice"),
        ('text,label\none,a\n"two,b\n', ":3: unexpected end of data"),
        ('text,label\n"two"x,b\n', ":2: ',' expected after '\"'"),
    ],
)
def test_malformed_csv_is_refused_by_line(tmp_path: Path, content: str, said: str) -> None:
    path = _file(tmp_path, "train.csv", content)
    assert _error(path).startswith(f"{path}{said}")


def test_jsonl_gives_an_object_a_line_whatever_its_strings_hold(tmp_path: Path) -> None:
    # U+2028 ends a line for str.splitlines, but not in JSON.
    path = _file(tmp_path, "train.jsonl", '{"text": "a\u2028b"}\n\n{"text": "c", "n": [1]}\n')
    assert list(read_rows(path)) == [
        ({"text": "a\u2028b"}, f"{path}:1"),
        ({"text": "c", "n": [1]}, f"{path}:3"),
    ]


@pytest.mark.parametrize(
    ("line", "said"), [('{"text": }', "not JSON: Expecting value at column 10"), ("[1]", "expect")]
)
def test_malformed_jsonl_is_refused_by_line(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^stdin:2: {said}"):
        list(json_lines('{"text": "a"}\n' + line, "stdin"))


def test_conll_sentences_end_at_blank_lines_even_with_a_tab_in_them(tmp_path: Path) -> None:
    content = "-DOCSTART-\tO\n\nBob\tB-person\ncame\tO\n\t\n#x y\tO\r\n \n\n"
    path = _file(tmp_path, "train.conll", content)
    assert list(read_rows(path)) == [
        ({"tokens": ["Bob", "came"], "tags": ["B-person", "O"]}, f"{path}:3"),
        ({"tokens": ["#x y"], "tags": ["O"]}, f"{path}:6"),
    ]


def test_conll_takes_the_first_of_many_columns_as_token_and_the_last_as_tag(tmp_path: Path) -> None:
    path = _file(tmp_path, "train.conll", "EU NNP B-NP B-ORG\nrejects VBZ B-VP O")
    assert [row for row, _ in read_rows(path)] == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\tO\nb\n", ":2: expected a token and its tag, got 'b'"),
        ("a\tO\n\nb\t\n", ":3: expected a token and its tag"),
        ("a N O\nb O\n", ":2: expected 3 columns"),
    ],
)
def test_malformed_conll_is_refused_by_line(tmp_path: Path, content: str, said: str) -> None:
    path = _file(tmp_path, "train.conll", content)
    assert _error(path).startswith(f"{path}{said}")


def _squad(*questions: dict) -> dict:
    return {"data": [{"title": "T", "paragraphs": [{"context": "ab c", "qas": list(questions)}]}]}


def test_squad_gives_a_row_a_question_with_all_answers(tmp_path: Path) -> None:
    answers = [{"text": "ab", "answer_start": 0}, {"text": "c", "answer_start": 3}]
    document = _squad(
        {"id": "1", "question": "q?", "answers": answers}, {"id": "2", "question": "r?"}
    )
    path = _file(tmp_path, "train.json", json.dumps(document))
    place = f"{path}: data[0].paragraphs[0].qas"
    assert list(read_rows(path)) == [
        ({"id": "1", "context": "ab c", "question": "q?", "answers": answers}, f"{place}[0]"),
        ({"id": "2", "context": "ab c", "question": "r?"}, f"{place}[1]"),
    ]


def test_squad_2_gives_questions_without_an_answer_and_no_plausible_ones(tmp_path: Path) -> None:
    answers = [{"text": "ab", "answer_start": 0}]
    document = _squad(
        {"id": "1", "question": "q?", "answers": answers, "is_impossible": False},
        {
            "id": "2",
            "question": "r?",
            "answers": [],
            "is_impossible": True,
            "plausible_answers": answers,
        },
        {"id": "3", "question": "s?", "is_impossible": True},
        {"id": "4", "question": "t?", "is_impossible": False},
    )
    path = _file(tmp_path, "train.json", json.dumps({"version": "v2.0", **document}))
    found = [(row["id"], row.get("answers")) for row, _ in read_rows(path)]
    assert found == [("1", answers), ("2", []), ("3", []), ("4", None)]
    assert all(set(row) <= {"id", "context", "question", "answers"} for row, _ in read_rows(path))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (
            {"answers": [{"text": "ab"}], "is_impossible": True},
            "is_impossible is true, but .* 1 ans",
        ),
        ({"answers": [], "is_impossible": False}, "is_impossible is false, but .* 0 answers"),
        ({"answers": [], "is_impossible": "yes"}, r"an object with 'is_impossible' \(bool\)"),
    ],
)
def test_a_question_that_contradicts_itself_is_refused_by_place(
    tmp_path: Path, question: dict, said: str
) -> None:
    document = _squad({"id": "1", "question": "q?", **question})
    path = _file(tmp_path, "train.json", json.dumps(document))
    with pytest.raises(ValueError, match=rf"data\[0\]\.paragraphs\[0\]\.qas\[0\]: .*{said}"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"data": [\n1,]}', ":2: not JSON"),
        ("[]", ": expected SQuAD's form, an object with 'data' (list); got []"),
        (json.dumps(_squad({"id": 3})), ": data[0].paragraphs[0].qas[0]: expected SQuAD's form"),
        ('{"data": [{"title": "T"}]}', ": data[0]: expected SQuAD's form, an object with 'par"),
    ],
)
def test_malformed_squad_is_refused_by_place(tmp_path: Path, content: str, said: str) -> None:
    path = _file(tmp_path, "train.json", content)
    assert _error(path, "squad").startswith(f"{path}{said}")


def test_parquet_gives_class_names_for_class_numbers(tmp_path: Path) -> None:
    classes = datasets.ClassLabel(names=["O", "B-x"])
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(classes)}
        | {"label": classes, "number": datasets.Value("int64")}
    )
    columns = {"tokens": [["a", "b"], ["c"]], "tags": [[1, 0], [0]]}
    columns |= {"label": [1, -1], "number": [1, 0]}
    path = tmp_path / "train.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    assert list(read_rows(path)) == [
        (
            {"tokens": ["a", "b"], "tags": ["B-x", "O"], "label": "B-x", "number": 1},
            f"{path}: row 0",
        ),
        ({"tokens": ["c"], "tags": ["O"], "label": None, "number": 0}, f"{path}: row 1"),
    ]


def test_a_file_that_only_says_parquet_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, "train.parquet", "version https://git-lfs.github.com/spec/v1\n" * 9)
    assert _error(path).startswith(f"{path}: not a parquet file")


def test_text_gives_a_row_a_paragraph(tmp_path: Path) -> None:
    path = _file(tmp_path, "train.txt", "\none\ntwo\r\n \n\nthree")
    assert list(read_rows(path)) == [
        ({"text": "one\ntwo"}, f"{path}:2"),
        ({"text": "three"}, f"{path}:6"),
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.conll", "a.json", "a.txt"])
def test_other_encodings_are_refused_by_line(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name, "text\na\ncafé\n".encode("latin-1"))
    assert _error(path) == f"{path}:3: not UTF-8; save the file as UTF-8"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    assert _error(tmp_path / name) == f"{tmp_path / name}: no such file"


def test_an_unknown_ending_or_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    assert ".csv, .tsv, .jsonl" in _error(_file(tmp_path, "train.xls", ""))
    with pytest.raises(KeyError, match="Did you mean 'jsonl'"):
        read_rows(tmp_path / "train.csv", "jsonll")


ROWS = [{"text": "a", "n": 1}, {"text": "b\u2028", "n": None}]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (json.dumps(ROWS), ": [{}]"),
        (json.dumps(ROWS, indent=2), ": [{}]"),
        (json.dumps({"version": "1", "data": ROWS}), ": [{}]"),
        ("\n".join(map(json.dumps, ROWS)), ":{}"),
    ],
    ids=["list", "indented", "member", "lines"],
)
def test_json_gives_the_objects_of_its_list(tmp_path: Path, content: str, place: str) -> None:
    path = _file(tmp_path, "train.json", content)
    first = int(place == ":{}")
    assert list(read_rows(path)) == [
        (row, f"{path}{place.format(at)}") for at, row in enumerate(ROWS, first)
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", ": [0]: expected an object, got 1"),
        ('"a"', ": expected a list of objects, got 'a'"),
        (
            '{"text": {"0": "a"}}',
            ": expected a list of objects, got an object with ['text']; write one",
        ),
        ('[{"a": 1},\n{]', ":2: not JSON"),
        ('{"a": 1}\n{"a": }', ":2: not JSON"),
    ],
)
def test_malformed_json_is_refused_by_place(tmp_path: Path, content: str, said: str) -> None:
    path = _file(tmp_path, "train.json", content)
    assert _error(path).startswith(f"{path}{said}")


def test_squad_is_known_by_its_form(tmp_path: Path) -> None:
    document = json.dumps(_squad({"id": "1", "question": "q?"}))
    path = _file(tmp_path, "train.json", document)
    assert list(read_rows(path)) == list(read_rows(path, "squad"))
