"""Two texts and how near they are."""

from weft.serving.page.views.contract import Bar, Bars, Field, Given, Shown, View
from weft.tasks.contract import Prediction


class Embedding(View):
    """Similarity of two texts: the cosine of their vectors, -1 to 1."""

    fields = (
        Field("text_a", "First text", lines=3),
        Field("text_b", "Second text", lines=3),
    )

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        near = prediction["similarity"]
        bars = (Bar("similarity", near, True),)
        return Shown(f"similarity {near:.3f}", bars=(Bars("Cosine of both vectors", bars),))
