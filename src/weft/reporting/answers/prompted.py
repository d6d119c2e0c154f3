"""What commands print of a decoder's answers: scores, and what they took."""

from rich.table import Table

from weft.prompting.prompt import Prompted
from weft.reporting.answers.scores import show_scores
from weft.reporting.writers import console


def show_prompted(found: Prompted) -> None:
    """Print scores as of an expert, and tokens and seconds, in all and an answer."""
    show_scores(found)
    cost = found.cost
    table = Table("", "tokens read", "tokens written", "seconds")
    parts = (("all answers", 1, ",.0f", ",.1f"), ("an answer", found.n, ",.1f", ",.3f"))
    for name, by, form, clock in parts:
        tokens = (cost.tokens_read / by, cost.tokens_written / by)
        table.add_row(
            name, *(f"{value:{form}}" for value in tokens), f"{cost.seconds / by:{clock}}"
        )
    console().print(table)
