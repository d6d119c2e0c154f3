"""An answer marked in its paragraph."""

from weft.serving.page.views.contract import (
    Bar,
    Bars,
    Field,
    Given,
    Passage,
    Shown,
    View,
    marked,
    percent,
)
from weft.tasks.contract import Prediction

NONE = "no answer"


class SpanExtraction(View):
    """The paragraph with its answer, and the next best ones."""

    fields = (
        Field("question", "Question"),
        Field("context", "Paragraph", "the answer is a part of it", lines=8),
    )

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        start, end = prediction["start"], prediction["end"]
        places = () if start is None else ((start, end, "answer"),)
        said = (start, end)
        best = prediction["n_best"]
        bars = [Bar(one["text"], one["score"], (one["start"], one["end"]) == said) for one in best]
        if "no_answer" in prediction:
            bars.append(Bar(NONE, prediction["no_answer"], start is None))
        words = NONE if start is None else prediction["text"]
        return Shown(
            f"{words} ({percent(prediction['score'])})",
            passages=(Passage("The answer in its paragraph", marked(given["context"], places)),),
            bars=(Bars("Best answers", tuple(bars)),),
        )
