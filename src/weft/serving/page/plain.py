"""Kinds of tasks that came without a view: their columns as fields, their answers as they are."""

from weft.serving.entries import TaskEntry
from weft.serving.page.views import views
from weft.serving.page.views.contract import Field, Given, Shown, View
from weft.tasks.contract import Prediction


class Plain(View):
    """A kind of somebody else's.

    Args:
        columns: What its inputs hold, all of them texts.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.fields = tuple(Field(name, name, lines=4) for name in columns)

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        return Shown("answered")


def view_of(task: TaskEntry) -> View:
    """How a task is asked and answered on the page."""
    return views.load(task.kind)() if task.kind in views.names() else Plain(task.columns)
