"""An expert's mistakes as its page tells them: all of a handmade case, and a run's from its own answers."""

from weft.answering.evaluation import read_predictions
from weft.comparison.comparing import examples_of
from weft.reporting.answers.mistakes import KINDS, _bins, _curve, _kinds, _worst
from weft.reporting.document import Document, Marked, Section
from weft.reporting.run_report import Report
from weft.reporting.writers import to_html
from weft.tasks.cases import BINS, Case, Claim, Mark, Mistakes, Option, Reliability

CURVE = Reliability(
    (0,) * 5 + (4, 0, 0, 0, 6), (0,) * 5 + (2, 0, 0, 0, 6), (0.0,) * 5 + (2.2, 0, 0, 0, 5.7), 0.05, 0.02, 0.11
)  # fmt: skip
FOUND = Mistakes(
    n=10,
    wrong=3,
    kinds={"another choice": 1, "invented": 2},
    worst=(
        Case(
            "7",
            "ann <met> bob",
            "ran",
            "sat",
            (Claim(0.75, False),),
            ("another choice",),
            options=(Option("sat", 0.25, True), Option("ran", 0.75, False)),
        ),
        Case(
            "8",
            "ann met bob",
            "ann (per)",
            "none",
            (Claim(0.9, False), Claim(0.6, False)),
            ("invented", "invented"),
            asked="who?",
            marks=(Mark(0, 3, "per: invented", "wrong"),),
        ),
    ),
    reliability=CURVE,
)


def test_kinds_of_mistakes_are_counted() -> None:
    found = _kinds(FOUND, "moods")
    assert (
        found.caption
        == "moods: 3 of 10 rows have a mistake (30.0 %): what is wrong, and how often."
    )
    assert (found.headers, found.rows) == (
        ("mistake", "times"),
        (("another choice", "1"), ("invented", "2")),
    )
    many = {f"a taken for {at}": 20 - at for at in range(KINDS + 3)}
    rows = _kinds(Mistakes(99, 60, many, (), None), "moods").rows
    assert rows[:KINDS] == tuple((word, str(times)) for word, times in list(many.items())[:KINDS])
    assert rows[KINDS:] == (("3 other kinds", str(8 + 7 + 6)),)


def test_the_worst_rows_stand_with_their_text_and_what_was_said() -> None:
    found = _worst(FOUND, "moods")
    assert found.headers == ("row", "question", "text", "said", "right", "what is wrong")
    assert found.rows == (
        ("7", "", "ann <met> bob", "75 % ran\n25 % sat", "sat", "another choice"),
        ("8", "who?", "[ann: per: invented] met bob", "ann (per) (90 %)", "none", "invented"),
    )
    cell = found.rows[1][2]
    assert isinstance(cell, Marked)
    assert cell.parts == (("ann", FOUND.worst[1].marks[0]), (" met bob", None))


def test_the_curve_says_counts_and_the_calibration_error_with_its_interval() -> None:
    figure = _curve(CURVE, "moods-reliability", "moods (validation)", "moods")
    assert figure.alt == (
        "moods: share of right claims by confidence, 10 claims in 2 bins. Expected calibration error 5.0 "
        "(2.0 to 11.0) %."
    )
    assert "Expected calibration error: 5.0 % (2.0 to 11.0" in figure.caption
    assert _bins(CURVE, "moods").rows == (
        ("50 to 60", "4", "55.0", "50.0 (15.0 to 85.0)"),
        ("90 to 100", "6", "95.0", "100.0 (61.0 to 100.0)"),
    )


def test_a_page_shows_the_mistakes_of_the_run_s_own_answers(report: Report, said: Document) -> None:
    group = next(own for own in report.groups if own.task == "topic" and own.split == "validation")
    folder = group.scored[0].runs[0].folder
    found = read_predictions(folder.path)
    rows = {row["id"]: row for row in examples_of(folder).splits["validation"]}
    wrong = {key for key, row in rows.items() if found[key]["label"] != row["label"]}
    section = next(own for own in said.sections if own.key == group.key)
    tables = {table.headers[0]: table for table in section.tables}
    assert wrong
    assert f" {len(wrong)} of {len(rows)} rows have a mistake" in tables["mistake"].caption
    assert sum(int(times) for _, times in tables["mistake"].rows) == len(wrong)
    worst = tables["row"]
    assert {row[0] for row in worst.rows} == wrong
    sure = [found[row[0]]["probabilities"][rows[row[0]]["label"]] for row in worst.rows]
    assert sure == sorted(sure)
    for key, text, *_, right, what in worst.rows:
        row = rows[key]
        assert text == row["text"]
        assert right == row["label"]
        assert what == f"{row['label']} taken for {found[key]['label']}"
    bins = tables["confidence (%)"]
    highest = [max(one["probabilities"].values()) for one in found.values()]
    counts = [sum(at == min(BINS - 1, int(own * BINS)) for own in highest) for at in range(BINS)]
    assert [int(row[1]) for row in bins.rows] == [count for count in counts if count]
    assert f"{group.key}-reliability" in {figure.name for figure in section.figures}


def test_marks_are_elements_and_texts_are_no_markup() -> None:
    page = to_html(Document("moods", (Section("m", "moods", parts=(_worst(FOUND, "moods"),)),)))
    assert '<mark class="wrong">ann<span> per: invented</span></mark> met bob' in page
    assert "ann &lt;met&gt; bob" in page
