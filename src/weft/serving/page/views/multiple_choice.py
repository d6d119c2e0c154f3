"""Choices as bars."""

from weft.serving.page.views.contract import Bar, Bars, Field, Given, Shown, View, percent
from weft.tasks.contract import Prediction


class MultipleChoice(View):
    """Every choice with its probability, in the order in which they were given."""

    fields = (
        Field("context", "Beginning", lines=4),
        Field("prefix", "First words of every choice", required=False),
        Field("choices", "Choices", "one a line", lines=4, is_list=True),
    )

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        label, shares = prediction["label"], prediction["probabilities"]
        bars = tuple(
            Bar(text, share, at == label)
            for at, (text, share) in enumerate(zip(given["choices"], shares, strict=True))
        )
        said = f"{prediction['choice']} ({percent(shares[label])})"
        return Shown(said, bars=(Bars("Choices", bars),))
