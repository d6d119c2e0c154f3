import io

from rich.console import Console

from weft.reporting.progress import Bar, clock, words_of
from weft.training.loop import Event

EVENT = Event(
    step=3,
    total=20,
    epoch=0.15,
    loss={"swag": 1.25},
    score={"swag": 0.5, "squad": 0.25},
    tokens_per_second=1234.5,
    seconds_left=3725.0,
)


def test_an_event_in_one_line() -> None:
    assert words_of(EVENT) == (
        "step 3/20  epoch 0.1  loss 1.250  score swag 0.500 squad 0.250  1,234 tokens/s  1:02:05 left"
    )
    early = Event(1, 20, 0.05, {}, {}, 10.0, 5.0)
    assert words_of(early, with_time=False) == "step 1/20  epoch 0.1  10 tokens/s"


def test_time_is_read_off_a_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 61, 3600)] == ["0:00", "1:01", "1:00:00"]


def test_without_a_terminal_a_line_comes_first_and_every_tenth() -> None:
    out = io.StringIO()
    with Bar("train", Console(file=out)) as bar:
        for step in range(1, 41):
            bar.show(step / 40, f"[{step}]")
    assert out.getvalue().splitlines() == [f"train [{step}]" for step in (1, *range(4, 41, 4))]


def test_what_is_counted_anew_is_told_anew() -> None:
    out = io.StringIO()
    with Bar("train", Console(file=out)) as bar:
        for words, fraction in (("search", 0.5), ("search", 1.0), ("first", 0.01), ("more", 0.02)):
            bar.show(fraction, words)
    assert out.getvalue().splitlines() == ["train search", "train search", "train first"]


def test_in_a_terminal_the_bar_holds_the_words_as_they_are() -> None:
    out = io.StringIO()
    with Bar("train", Console(file=out, force_terminal=True, width=100)) as bar:
        bar.show(0.5, "[bold]step 1/2")
    assert "[bold]step 1/2" in out.getvalue()
