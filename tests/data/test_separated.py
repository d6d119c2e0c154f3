"""Tables keep their marks, their headers and their lines, as the set says."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.data.formats import read_rows
from weft.data.layout import Layout
from weft.data.separated import separated

RAW = Layout(quotes=False)
QUOTED = Layout(quotes=True)


def _rows(text: str, delimiter: str = "\t", layout: Layout = Layout()) -> list[dict[str, str]]:  # noqa: B008
    return [row for row, _ in separated(text, Path("t"), delimiter, layout)]


def _error(text: str, delimiter: str = "\t", layout: Layout = Layout()) -> str:  # noqa: B008
    with pytest.raises(ValueError, match=r".") as caught:
        _rows(text, delimiter, layout)
    return str(caught.value)


def test_a_mark_that_opens_and_one_that_closes_are_text_in_tsv() -> None:
    lines = ['"It opens\t1', "plain\t0", 'and closes"\t0', '"Whole."\t1', 'in "the" midst\t0']
    rows = _rows("\n".join(["text\tlabel", *lines]))
    assert [f"{row['text']}\t{row['label']}" for row in rows] == lines


cells = st.text(
    st.characters(exclude_characters="\t\r\n\0", exclude_categories=("Cs",)), min_size=1
)


@given(st.lists(st.tuples(cells, cells), min_size=1))
def test_without_quoting_every_line_is_a_row_as_it_stands(rows: list[tuple[str, str]]) -> None:
    text = "a\tb\n" + "".join(f"{first}\t{second}\n" for first, second in rows)
    assert [tuple(row.values()) for row in _rows(text, layout=RAW)] == rows


def test_tsv_that_looks_quoted_is_refused_by_line_until_it_is_said() -> None:
    text = 'text\tlabel\nplain\t1\n"He said ""no"" twice"\t0\n'
    assert _error(text).startswith(
        "t:3: this line looks quoted as in CSV; say `quotes: true` if it is"
    )
    assert _rows(text, layout=QUOTED)[1] == {"text": 'He said "no" twice', "label": "0"}
    assert _rows(text, layout=RAW)[1] == {"text": '"He said ""no"" twice"', "label": "0"}
    every = '"text"\t"label"\n"plain"\t"1"\n'
    assert _error(every).startswith("t:1: this line looks quoted")
    assert _rows(every, layout=QUOTED) == [{"text": "plain", "label": "1"}]


def test_a_line_with_other_fields_is_refused_and_says_how_quotes_are_read() -> None:
    said = (
        "t:2: 3 fields, but the header has 2: ['text', 'label']; fields that are quoted as in CSV"
    )
    assert _error('text\tlabel\n"a\tb"\t1\n').startswith(said)
    assert _rows('text\tlabel\n"a\tb"\t1\n', layout=QUOTED) == [{"text": "a\tb", "label": "1"}]
    assert "or say `quotes: false`" in _error('text,label\n"a"b,1\n', ",")
    assert _rows('text,label\n"a"b,1\n', ",", RAW) == [{"text": '"a"b', "label": "1"}]


def test_a_header_may_be_given_where_the_file_has_none() -> None:
    header = Layout(header=("source", "label", "mark", "text"))
    text = "bc01\t1\t\tThe cat slept.\nbc01\t0\t*\tThe slept cat the.\n"
    assert _rows(text, layout=header) == [
        {"source": "bc01", "label": "1", "mark": "", "text": "The cat slept."},
        {"source": "bc01", "label": "0", "mark": "*", "text": "The slept cat the."},
    ]
    assert _rows("a,1\n", ",", Layout(header=("text", "label"))) == [{"text": "a", "label": "1"}]
    said = "t:1: 4 fields, but `header` names 2: ['text', 'label']"
    assert _error(text, layout=Layout(header=("text", "label"))).startswith(said)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "conll", "txt"])
def test_every_line_end_is_read(tmp_path: Path, end: str, ending: str) -> None:
    lines = {
        "csv": ["text,label", "a b,1", "c,2"],
        "tsv": ["text\tlabel", "a b\t1", "c\t2"],
        "jsonl": ['{"text": "a b"}', '{"text": "c"}'],
        "conll": ["Jo B-x", "saw O", "", "Al B-x"],
        "txt": ["one", "two", "", "three"],
    }[ending]
    path, reference = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    path.write_bytes("".join(line + end for line in lines).encode())
    reference.write_bytes("\n".join(lines).encode())
    rows, places = zip(*read_rows(path), strict=True)
    expected, others = zip(*read_rows(reference), strict=True)
    assert rows == expected
    assert len(rows) == 2
    assert [place.replace("a.", "b.") for place in places] == list(others)


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"], ids=ascii)
def test_no_other_character_ends_a_line(mark: str) -> None:
    assert _rows(f"text\tlabel\na{mark}b\t1\n") == [{"text": f"a{mark}b", "label": "1"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_refused_by_name(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("text\tlabel\na\tb\n".encode(encoding))
    with pytest.raises(
        ValueError, match=r"a\.tsv:1: not UTF-8 but UTF-16 .* save the file as UTF-8"
    ):
        list(read_rows(path))
