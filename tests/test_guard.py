"""Whatever is wrong with a file is one ValueError that names it, and where."""

import json
import os
import socket
from pathlib import Path

import pytest
import yaml

from weft.config import load_run, read_yaml
from weft.guard import (
    DEEPEST,
    check_file,
    json_lines,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_text,
    refuse_links_out,
)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # A socket's path is short: it is made where it lies.
    own = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        own.bind(path.name)
    finally:
        os.chdir(before)
        own.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "is a folder, expected a file"),
        (_pipe, "is a device, pipe or socket"),
        (_socket, "cannot be read: No such device or address"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, pipe or socket"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b"x" * 9), "9 bytes, at most 8 are read"),
    ],
)
def test_only_regular_files_of_a_stated_size_are_read(tmp_path: Path, make, said: str) -> None:
    path = tmp_path / "file"
    make(path)
    for read in (read_bytes, read_text, read_json, check_file):
        with pytest.raises(ValueError, match=f"^{path}: {said}"):
            read(path, 8)


def test_a_file_whose_size_is_not_stated_is_bounded_all_the_same() -> None:
    # Of these the system says 0 bytes before they are read.
    path = "/proc/self/status"
    if not Path(path).is_file():
        pytest.skip("needs a system with /proc")
    with pytest.raises(ValueError, match=f"^{path}: more than 8 bytes"):
        read_bytes(path, 8)


def test_a_file_of_just_the_size_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa\xc3\xa9b\n")
    assert read_text(tmp_path / "file", 8) == "aéb\n"
    assert check_file(tmp_path / "file", 8) == 8


def test_text_that_is_not_utf8_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\nb\n\xff\n")
    with pytest.raises(ValueError, match=r"file:3: not UTF-8; save the file as UTF-8"):
        read_text(tmp_path / "file")


NESTED = {depth: "[" * depth + "]" * depth for depth in (DEEPEST, DEEPEST + 1, 100_000)}


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_nesting_is_read_to_its_limit_and_refused_beyond(parse) -> None:
    value, depth = parse(NESTED[DEEPEST], "here"), 0
    while value is not None:
        value, depth = (value[0] if value else None), depth + 1
    assert depth == DEEPEST
    for deeper in (DEEPEST + 1, 100_000):
        with pytest.raises(
            ValueError, match=f"^here.*: lists and mappings nested deeper than {DEEPEST}"
        ):
            parse(NESTED[deeper], "here")


def test_nesting_that_has_no_end_is_refused_too() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "- " * 10_000):
        for parse in (parse_json, parse_yaml):
            with pytest.raises(ValueError, match=r"^here"):
                parse(text, "here")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,\n "b": }', "here:2: not JSON: Expecting value at column 7"),
        ("", "here:1: not JSON: Expecting value at column 1"),
        ("9" * 5000, "here: not JSON: Exceeds the limit"),
        ('["\\ud83d"]', "here: a text holds half of a surrogate pair"),
    ],
)
def test_malformed_json_is_refused_by_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        parse_json(text, "here")


def test_json_is_what_the_standard_library_reads() -> None:
    value = {"a": [1, 2.5, None, True, {"b": "é\u2028😀"}], "c": [[]] * 100}
    assert parse_json(json.dumps(value), "here") == value
    assert parse_json(json.dumps(value, ensure_ascii=False), "here") == value


def test_json_lines_have_their_places_and_name_the_wrong_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x\u2028y"}\n\n[1]\n', encoding="utf-8")
    assert list(json_lines(path)) == [({"a": "x\u2028y"}, f"{path}:1"), ([1], f"{path}:3")]
    path.write_text('{}\n{"a": nul}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{path}:2: not JSON: Expecting value at column 7"):
        list(json_lines(path))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine lines that unfold to 10^9 values."""
MERGED = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "here, line 5: more than 100000 values, aliases unfolded"),
        (MERGED, "here, line 6: more than 100000 values, aliases unfolded"),
        ("a: &a [1, *a]", r"here, line 1: \*a stands inside itself"),
        (f"a: &a {'[' * 40}{']' * 40}\nb: {'[' * 40}*a{']' * 40}", "here, line 2: lists and map"),
        ("a: 1\nb: {c", "here, line 3: not YAML: "),
        ("a: *b", "here, line 1: not YAML: found undefined alias"),
        ("--- 1\n--- 2", "here, line 2: not YAML: but found another document"),
        ("a: !!python/object/apply:os.getcwd []", "here, line 1: not YAML: could not determine"),
        ("a: \x07", "here: not YAML: control characters are not allowed"),
        ("? [a]\n: b", "here, line 1: not YAML: found unhashable key"),
        ("a: 1\nb: {c: 1}\na: 2", "here, line 3: 'a' is said twice; remove one of them"),
        ("a:\n- x: [1]\n  y: a\n  x: 3", "here, line 4: 'x' is said twice"),
        # What the safe loader itself lets through as errors of every kind.
        ("!!bool 7", "here: not YAML: a value is not of its type: KeyError"),
        ("2001-99-99", "here: not YAML: a value is not of its type: ValueError: month"),
        ('!!int ""', "here: not YAML: a value is not of its type: IndexError"),
        ("!!timestamp x", "here: not YAML: a value is not of its type: AttributeError"),
    ],
)
def test_malformed_and_hostile_yaml_is_refused_by_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        parse_yaml(text, "here")


def test_yaml_with_honest_aliases_is_what_the_safe_loader_reads() -> None:
    text = "a: &a {x: [1, 2]}\nb: {<<: *a, y: 3, x: 4}\nc: [*a, *a, a, a, {x: x}]\nd: 2001-01-02\ne: ~\n"
    assert parse_yaml(text, "here") == yaml.safe_load(text)


def test_settings_are_read_through_the_guard(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(LAUGHS)
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"bomb.yaml, line 5: more than 100000 values"):
        read_yaml(tmp_path / "bomb.yaml")
    with pytest.raises(ValueError, match=r"device.yaml: is a device"):
        load_run(tmp_path / "device.yaml")
    with pytest.raises(ValueError, match=r"--set 'seed=\[+.*lists and mappings nested deeper"):
        load_run({"task": "squad"}, [f"seed={'[' * 1000}"])


def test_what_an_error_repeats_of_a_file_is_bounded() -> None:
    values = {"task": "squad", "seed": "x" * 10_000} | {f"no{n}": n for n in range(1000)}
    with pytest.raises(ValueError, match=r"(?s)run: seed: .*and 991 more$") as caught:
        load_run(values)
    assert len(str(caught.value)) < 5000


def test_a_link_out_of_the_folder_is_refused_but_for_the_cache_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "1234"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    for name, target in {
        "own": "deep/file",
        "blob": "../../blobs/5678",
        "out": "../../refs",
        "absolute": "/etc/hostname",
    }.items():
        (folder / name).symlink_to(target)
    for inside in ("own", "blob", "plain"):
        refuse_links_out(folder / inside, folder)
    for outside in ("out", "absolute"):
        with pytest.raises(ValueError, match=f"{outside}: a link to a file outside"):
            refuse_links_out(folder / outside, folder)
    # A folder of that name alone opens no way.
    other = tmp_path / "expert"
    other.mkdir()
    (other / "blob").symlink_to("../models--a--b/blobs/5678")
    with pytest.raises(ValueError, match=r"a link to a file outside"):
        refuse_links_out(other / "blob", other)
