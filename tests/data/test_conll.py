"""Sentences with one token a line, in the forms that files have them."""

from pathlib import Path

import pytest

from weft.config import TaskSettings
from weft.data.conll import sentences
from weft.data.layout import Layout
from weft.data.reading import load_task
from weft.tasks.contract import Example, place_of

GERMEVAL = (
    "#\thttp://x.org [2010]\t\n1\tMainz\tB-LOC\tO\n2\tspielt\tO\tO\n\n"
    "#\tsource\t[2011]\t\n1\tDer\tO\tO\n2\tVfB\tB-ORG\tB-LOC\n"
)


def _rows(text: str, layout: Layout = Layout()) -> list[tuple[list[str], list[str]]]:  # noqa: B008
    return [(row["tokens"], row["tags"]) for row, _ in sentences(text, Path("t"), layout)]


def _load(folder: Path, text: str, spec: str = "") -> list[Example]:
    (folder / "train.conll").write_text(text, encoding="utf-8")
    (folder / "mine.yaml").write_text(f"kind: token_classification\n{spec}", encoding="utf-8")
    settings = TaskSettings(name=str(folder / "mine.yaml"))
    return load_task(settings, splits=["train"], seed=0).splits["train"]


def _error(folder: Path, text: str, spec: str = "") -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        _load(folder, text, spec)
    return str(caught.value)


def test_comments_before_sentences_are_skipped_and_hashtags_are_tokens() -> None:
    text = "# sent_id = 1\n# text\nJo\tB-x\n#tag\tO\n\n#begin document (a); part 0\n#\tO\nAl\tB-x\n"
    assert _rows(text) == [(["Jo", "#tag"], ["B-x", "O"]), (["#", "Al"], ["O", "B-x"])]


def test_docstart_ends_a_sentence_with_or_without_a_blank_line() -> None:
    text = "-DOCSTART- -X- O O\nJo N N B-x\n-DOCSTART- -X- O O\n\nAl N N B-x\n-DOCSTART- -X- O O"
    assert _rows(text) == [(["Jo"], ["B-x"]), (["Al"], ["B-x"])]


def test_a_comment_inside_a_sentence_is_refused_unless_it_is_said() -> None:
    text = "Jo\tB-x\n# so\nAl\tO\n"
    with pytest.raises(ValueError, match=r"^t:2: expected a token and its tag, got '# so'"):
        _rows(text)
    assert _rows(text, Layout(comments="#")) == [(["Jo", "Al"], ["B-x", "O"])]
    assert _rows("% a b\nJo\tO", Layout(comments="%")) == [(["Jo"], ["O"])]
    assert _rows("# O\nJo O", Layout(comments="")) == [(["#", "Jo"], ["O", "O"])]


def test_a_comment_with_as_many_columns_as_tokens_is_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    text = "# id 7 domain=dev\noslo _ _ B-LOC\nis _ _ O\n"
    said = _error(tmp_path, text)
    assert said.startswith(f"{tmp_path / 'train.conll'}:1: 'domain=dev' is no tag")
    assert said.endswith("`comments: '#'` that such lines hold no token")
    assert _load(tmp_path, text, "comments: '#'\n")[0]["tokens"] == ["oslo", "is"]


@pytest.mark.parametrize(
    "spec",
    [
        "columns: {tokens: 1, tags: 2}\n",
        "columns: {tokens: '1', tags: -2}\n",
        "header: [number, word, outer, inner]\ncolumns: {tokens: word, tags: outer}\n",
    ],
)
def test_columns_are_chosen_by_number_or_name(tmp_path: Path, spec: str) -> None:
    found = _load(tmp_path, GERMEVAL, spec)
    assert [(row["tokens"], row["tags"]) for row in found] == [
        (["Mainz", "spielt"], ["B-LOC", "O"]),
        (["Der", "VfB"], ["O", "B-ORG"]),
    ]


def test_a_tag_that_stands_first_is_read_when_it_is_said(tmp_path: Path) -> None:
    text = "O\tthe\nB-DISH\tsoup\n\nO\tof\nB-DISH\tday\n"
    said = _error(tmp_path, text)
    assert said.startswith(
        f"{tmp_path / 'train.conll'}:1: 'the' is no tag: expected O, or B-<type>"
    )
    assert len(said) < 400
    found = _load(tmp_path, text, "columns: {tokens: 1, tags: 0}\n")
    assert [row["tokens"] for row in found] == [["the", "soup"], ["of", "day"]]
    assert "no column named '7'" in _error(tmp_path, text, "columns: {tokens: 7, tags: 0}\n")


def test_the_first_wrong_tag_is_named_by_its_own_line(tmp_path: Path) -> None:
    text = "-DOCSTART- O\n\na O\nb B-x\n\n# note here\nc O\nd " + "z" * 9000 + "\n"
    said = _error(tmp_path, text)
    assert said.startswith(f"{tmp_path / 'train.conll'}:8: 'zzz")
    assert len(said) < 400


def test_a_type_that_train_lacks_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "dev.conll").write_text("a O\n\nb O\nc I-x\nd B-y\n", encoding="utf-8")
    _load(tmp_path, "a O\nb B-x\n")
    settings = TaskSettings(name=str(tmp_path / "mine.yaml"))
    with pytest.raises(ValueError, match=r"dev\.conll:5: no tag named 'B-y'\. Did you mean 'B-x'"):
        load_task(settings, splits=["train", "validation"], seed=0)


def test_an_item_of_a_row_has_a_line_only_where_rows_have_one_for_each() -> None:
    (_, place), _ = sentences("\n# a b c\nx O\ny O\n\nz O", Path("f"), Layout())
    assert (place, place_of(place, 1)) == ("f:3", "f:4")
    assert place_of("f.jsonl:2", 1) == "f.jsonl:2"
