"""Classes as bars; of a regression the number."""

from weft.serving.page.views.contract import Bars, Field, Given, Shown, View, percent, ranked
from weft.tasks.contract import Prediction


class SequenceClassification(View):
    """Every class with its probability, the likeliest first."""

    fields = (
        Field("text", "Text", lines=4),
        Field("text_pair", "Second text", "for tasks about two texts", lines=2, required=False),
    )

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        label = prediction["label"]
        if "probabilities" not in prediction:
            return Shown(f"{label:.4g}")
        shares = prediction["probabilities"]
        # Of a task with any number of classes a row, the label is a list.
        said = label if isinstance(label, list) else [label]
        words = ", ".join(f"{name} ({percent(shares[name])})" for name in said)
        return Shown(words or "no class", bars=(Bars("Classes", ranked(shares.items(), said)),))
