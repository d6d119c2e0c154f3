"""What can be asked on the page, and what somebody asks: the choices, the fields, and the form that comes back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from weft.registry import unknown
from weft.serving.entries import Entry, TaskEntry
from weft.serving.errors import UnknownExpert
from weft.serving.names import AUTO
from weft.serving.page.plain import view_of
from weft.serving.page.views.contract import Field

Action = Literal["choose", "answer", "gates"]
PREFIX = "in-"
"""Before the names of fields that hold inputs: columns are called what others like."""
MOST_FIELDS = 64
"""Fields of a form."""
RECOGNISED, MIXTURES = "recognised", "mixtures"
"""Groups of choices beside kinds of tasks."""


@dataclass(frozen=True)
class Choice:
    """Something that can be asked."""

    value: str
    """What the engine knows it by."""
    label: str
    group: str
    entry: Entry
    tasks: tuple[TaskEntry, ...]
    """Those that it may answer; of more than one it recognises which."""

    @property
    def writes(self) -> bool:
        """Whether its answers come word by word."""
        return len(self.tasks) == 1 and view_of(self.tasks[0]).writes

    @property
    def has_gates(self) -> bool:
        return self.entry.kind == "mixture"

    @property
    def fields(self) -> tuple[Field, ...]:
        """What it is asked with; where it recognises tasks, any of them may be left out."""
        found = [view_of(task).fields for task in self.tasks]
        if len(found) == 1:
            return found[0]
        return _union([replace(own, required=False) for own in fields] for fields in found)


def choices_of(entries: Sequence[Entry]) -> list[Choice]:
    """Everything that can be asked, group by group: what recognises tasks, mixtures, then kinds of tasks."""
    mixtures = [own for own in entries if own.kind == "mixture" and own.state != "refused"]
    found: list[Choice] = []
    if len(mixtures) == 1:
        [own] = mixtures
        found.append(Choice(AUTO, f"auto ({own.name})", RECOGNISED, own, own.tasks))
    found += [
        Choice(own.name, f"{own.name}: any of its tasks", MIXTURES, own, own.tasks)
        for own in mixtures
    ]
    singles = []
    for own in entries:
        if own.state == "refused":
            continue
        for task in own.tasks:
            several = own.kind in ("mixture", "several")
            name = f"{own.name}/{task.name}" if several else own.name
            label = f"{name} (merged)" if own.kind == "merged" else name
            group = MIXTURES if own.kind == "mixture" else _words(task.kind)
            singles.append(Choice(name, label, group, own, (task,)))
    found += sorted(singles, key=lambda one: (one.group != MIXTURES, one.group))
    return found


def grouped(choices: Iterable[Choice]) -> list[tuple[str, list[Choice]]]:
    """Choices by group, in order."""
    return [(name, list(own)) for name, own in groupby(choices, lambda one: one.group)]


@dataclass(frozen=True)
class Form:
    """What the page's form says.

    Attributes:
        action: What is wanted: fields for other experts, an answer, gates.
        expert: Who is asked.
        beside: Who else; "" is nobody.
        inputs: What was typed, by column.
        max_new_tokens: Longest continuation, as typed.
        temperature: As typed; "" takes the most probable token each time.
        map: Whose gates are shown token by token; "" is the mean over all.
        streams: Whether who asks fetches what is written by itself.
        key: The key, where a browser without script sends it along.
    """

    action: Action = "choose"
    expert: str = ""
    beside: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    max_new_tokens: str = "64"
    temperature: str = ""
    map: str = ""
    streams: bool = False
    key: str = ""

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> "Form":
        """The form that came; fields it does not have are passed over, of two of one name the last counts."""
        # Browsers send every end of a line as two characters; nobody typed the first.
        sent = {name: value.replace("\r\n", "\n") for name, value in pairs}
        own = {
            name: sent[name]
            for name in ("expert", "beside", "max_new_tokens", "temperature", "map", "key")
            if name in sent
        }
        inputs = {
            name.removeprefix(PREFIX): value
            for name, value in sent.items()
            if name.startswith(PREFIX)
        }
        action: Action = "choose"
        if "map" in sent or sent.get("do") == "gates":
            action = "gates"
        elif sent.get("do") == "answer":
            action = "answer"
        return cls(action=action, inputs=inputs, streams=sent.get("streams") == "1", **own)

    def chosen(self, choices: Sequence[Choice]) -> list[Choice]:
        """Who is asked, one or two; where nothing is said, the first there is.

        Raises:
            UnknownExpert: If there is nobody of that name.
        """
        if not choices:
            return []
        known = {one.value: one for one in choices}
        names = [self.expert or choices[0].value, *([self.beside] if self.beside else [])]
        for name in names:
            if name not in known:
                raise UnknownExpert(unknown("expert", name, known))
        return [known[name] for name in names]

    def given(self, choice: Choice) -> dict[str, Any]:
        """What was typed for somebody, by column; what was left empty is not there."""
        return {
            own.name: _items(self.inputs[own.name]) if own.is_list else self.inputs[own.name]
            for own in choice.fields
            if self.inputs.get(own.name, "").strip()
        }

    def writing(self, choice: Choice) -> dict[str, Any]:
        """The same as a body of `/v1/completions`, for somebody who writes; numbers that are none stay as typed."""
        own: dict[str, Any] = {"model": choice.value, "prompt": self.inputs.get("text", "")}
        if self.max_new_tokens.strip():
            own["max_tokens"] = _number(self.max_new_tokens, int)
        if self.temperature.strip():
            own["temperature"] = _number(self.temperature, float)
        return own


def fields_of(chosen: Sequence[Choice]) -> tuple[Field, ...]:
    """What those who are asked are asked with, each column once."""
    return _union(one.fields for one in chosen)


def facts_of(choice: Choice) -> str:
    """What there is to know of somebody, in a line."""
    own = choice.entry
    kinds = ", ".join(dict.fromkeys(_words(task.kind) for task in choice.tasks))
    # Of a base that is a folder of the server's, its name is enough.
    parts = [kinds, f"on {own.base.rstrip('/').rpartition('/')[2]}"]
    if own.rank is not None:
        parts.append(f"rank {own.rank}")
    parts.append(f"{sized(own.bytes)} {'in memory' if own.resident else 'on disk'}")
    labels = list(dict.fromkeys(label for task in choice.tasks for label in task.labels))
    if labels:
        more = f" and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""
        parts.append(f"labels: {', '.join(labels[:_LABELS])}{more}")
    return "; ".join(parts)


def sized(count: float) -> str:
    """Bytes in words."""
    unit, power = next(((u, p) for u, p in _UNITS if count >= p), ("B", 1))
    return f"{count / power:,.{0 if power == 1 else 1}f} {unit}"


_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_LABELS = 12
"""That are named."""


def _union(several: Iterable[Sequence[Field]]) -> tuple[Field, ...]:
    found: dict[str, Field] = {}
    for own in (own for fields in several for own in fields):
        before = found.setdefault(own.name, own)
        required, lines = before.required or own.required, max(before.lines, own.lines)
        found[own.name] = replace(before, required=required, lines=lines)
    return tuple(found.values())


def _items(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _number(text: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


def _words(kind: str) -> str:
    return kind.replace("_", " ")
