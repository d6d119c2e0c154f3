"""What can be chosen on the page, and what a form means."""

import pytest

from weft.answering.gate_maps import TokenGates
from weft.serving.entries import Entry, State, TaskEntry
from weft.serving.entries import Form as EntryForm
from weft.serving.errors import BadInput, UnknownExpert
from weft.serving.gates import Gates
from weft.serving.page.asking import Form, choices_of, facts_of, fields_of, grouped, sized
from weft.serving.page.maps import gate_map

TEXTS = TaskEntry("topics", "sequence_classification", ("a", "b"), ("text",), ("text_pair",))
SPANS = TaskEntry("spans", "span_extraction", (), ("question", "context"), ())
STRANGE = TaskEntry("odd", "somebody's_kind", (), ("left", "right"), ())


def entry(name: str, kind: EntryForm, *tasks: TaskEntry, state: State = "stored") -> Entry:
    return Entry(name, kind, tasks, "/srv/bases/mini", 8, 1_250_000, False, None, state, "damaged")


def test_what_recognises_tasks_comes_first_then_kind_by_kind() -> None:
    entries = [
        entry("all", "several", TEXTS, SPANS),
        entry("blend", "mixture", TEXTS, SPANS),
        entry("broken", "expert", TEXTS, state="refused"),
        entry("one", "merged", TEXTS),
    ]
    found = {name: [one.value for one in own] for name, own in grouped(choices_of(entries))}
    assert list(found.items()) == [
        ("recognised", ["auto"]),
        ("mixtures", ["blend", "blend/topics", "blend/spans"]),
        ("sequence classification", ["all/topics", "one"]),
        ("span extraction", ["all/spans"]),
    ]
    two = choices_of([*entries, entry("other", "mixture", TEXTS)])
    assert "auto" not in [one.value for one in two]
    assert choices_of([]) == []


def test_a_kind_without_a_view_is_asked_by_its_columns() -> None:
    [choice] = choices_of([entry("x", "expert", STRANGE)])
    assert [(own.name, own.required) for own in choice.fields] == [("left", True), ("right", True)]


def test_of_two_that_are_asked_each_gets_its_own() -> None:
    one, other = choices_of([entry("t", "expert", TEXTS), entry("s", "expert", SPANS)])
    assert [own.name for own in fields_of([one, other])] == [
        "text",
        "text_pair",
        "question",
        "context",
    ]
    form = Form.of(
        [("in-text", "x\r\ny"), ("in-question", ""), ("in-context", "c"), ("expert", "t")]
    )
    assert form.given(one) == {"text": "x\ny"}
    assert form.given(other) == {"context": "c"}
    assert form.chosen([one, other]) == [one]
    with pytest.raises(UnknownExpert, match="no expert named 'tt'"):
        Form(expert="tt").chosen([one, other])


@pytest.mark.parametrize(
    ("pairs", "action"),
    [
        ([], "choose"),
        ([("do", "choose")], "choose"),
        ([("do", "answer")], "answer"),
        ([("do", "gates")], "gates"),
        ([("map", "")], "gates"),
        ([("do", "<script>")], "choose"),
    ],
)
def test_a_button_says_what_is_wanted(pairs: list[tuple[str, str]], action: str) -> None:
    assert Form.of(pairs).action == action


def test_facts_name_a_base_not_its_folder() -> None:
    [choice] = choices_of([entry("t", "expert", TEXTS)])
    said = facts_of(choice)
    assert said == "sequence classification; on mini; rank 8; 1.2 MB on disk; labels: a, b"


def test_sizes_have_units() -> None:
    assert [sized(own) for own in (0, 999, 1000, 2.5e6, 3e9)] == [
        *("0 B", "999 B", "1.0 kB", "2.5 MB", "3.0 GB"),
    ]


def gates(rows: dict[str, list[list[float]]]) -> Gates:
    tokens = [str(at) for at in range(max(map(len, rows.values()), default=0))]
    layers = dict.fromkeys(rows)
    return Gates("m", "1", "t", ("p", "q"), [TokenGates(tokens, rows)], layers)


def test_maps_with_fewer_gates_leave_cells_empty_and_shades_have_signs() -> None:
    found = gate_map(gates({"a.0": [[1.0, -0.5], [0.0, 0.5]], "a.1": [[0.25], [0.75]]}))
    assert found.by_map.columns == ("p", "q")
    assert [row.name for row in found.by_map.rows] == ["0", "1"]
    cells = [[own and (own.text, own.shade) for own in row.cells] for row in found.by_map.rows]
    # The largest is token 0 of p, the mean of 1 and 0.25.
    assert cells == [[("0.50", 8), ("0.00", 0)], [("0.50", 8), None]]
    [tokens] = found.by_token
    shown = [[own and (own.text, own.shade) for own in row.cells] for row in tokens.rows]
    assert shown == [[("0.62", 10), ("-0.50", -8)], [("0.38", 6), ("0.50", 8)]]


def test_a_chosen_map_is_shown_alone() -> None:
    found = gate_map(gates({"a.0": [[1.0, -0.5]], "a.1": [[0.25, 0.0]]}), "a.1")
    [tokens] = found.by_token
    assert [[own and own.text for own in row.cells] for row in tokens.rows] == [["0.25", "0.00"]]
    assert "map 1" in tokens.caption
    assert found.chosen == "a.1"


def test_gates_that_look_at_no_token_are_refused() -> None:
    with pytest.raises(BadInput, match="do not look at tokens"):
        gate_map(gates({}))
    with pytest.raises(BadInput, match="no map named 'b'"):
        gate_map(gates({"a.0": [[1.0]]}), "b")
