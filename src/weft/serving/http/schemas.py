"""What comes and goes over HTTP for weft's own routes; the document at /openapi.json is made of these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from weft.answering.generation import Generation
from weft.config import Settings
from weft.serving.settings import Options

AUTO = "auto"
_PART = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?"
OWN_NAME: dict[str, Any] = {"pattern": f"^{_PART}$", "not": {"const": AUTO}}
"""Of what comes and goes: an expert with all its tasks."""
NAME: dict[str, Any] = {"pattern": f"^{_PART}(/{_PART}|@[^\\x00-\\x1f\\x7f]{{1,128}})?$"}
"""What the document says of names; the engine refuses others, in its words."""


def integral(value: object) -> object:
    """A number that JSON counts as an integer, as one; all else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(integral)]
"""An integer as JSON has them: 3.0 is one."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(json_schema_extra=NAME)]
Weights = Annotated[
    dict[str, Finite],
    Field(min_length=1, json_schema_extra={"propertyNames": NAME}),
]


class Body(Settings):
    """A body of a request: JSON's own types, nothing turned into another."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class PredictOptions(Body):
    """How to answer."""

    task: Name | None = None
    """Of an expert that has several tasks, or of weighed experts, whose head answers; `auto`: recognised."""
    max_new_tokens: Whole | None = Field(default=None, ge=1)
    """Longest continuation in tokens; this and what follows is for causal language models."""
    sample: bool | None = None
    """Draw by probability instead of taking the most probable."""
    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    top_k: Whole | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Whole | None = Field(default=None, ge=0, lt=2**63)
    stop: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, max_length=16)
    """Texts at which a continuation ends; they are cut off."""

    def of_engine(self) -> Options:
        """The same as the engine takes them."""
        given = self.model_dump(exclude={"task"}, exclude_none=True)
        if "stop" in given:
            given["stop"] = tuple(given["stop"])
        return Options(task=self.task, generation=Generation(**given) if given else None)


class PredictRequest(Body):
    """Inputs, and who is to answer."""

    expert: Name | Weights = Field(examples=["entities", AUTO, {"entities": 0.7}])
    """An expert's name; `auto`: recognised; or names with weights, which speak together."""
    inputs: list[str | dict[str, Any]] = Field(examples=[["wren sold jay the lamp ."]])
    """Texts, or the task's columns by name; those without an `id` are numbered from 0."""
    options: PredictOptions = PredictOptions()


class PredictResponse(BaseModel):
    """The answers, in the order of the inputs."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    predictions: list[dict[str, Any]]
    """As `weft predict` prints them: what they hold depends on the kind of task."""
    expert: str
    version: str
    """Of the expert that answered; another after it was replaced."""
    tokens: int
    seconds: float


class GatesRequest(Body):
    """One input, and the mixture whose gates are to be looked at."""

    expert: Name = Field(examples=["mixture", "mixture/entities"])
    """A mixture's name, with a task or without; or `auto`."""
    input: str | dict[str, Any]
    """A text, or the task's columns by name."""
    task: Name | None = None
    """Which of its tasks; null: recognised."""


class SequenceGates(BaseModel):
    """Gates of one text that an input is read as."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    tokens: list[str]
    """As the tokenizer calls them."""
    gates: dict[str, list[list[float]]]
    """By adapted map, for each token how much each expert speaks."""


class GatesResponse(BaseModel):
    """How much each expert of a mixture speaks, token by token, map by map."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    expert: str
    version: str
    task: str
    """Whose head would answer."""
    experts: list[str]
    """Names along the last axis; a map may have fewer gates, or one for each rank."""
    layers: dict[str, int | None]
    """The layer of each map; null where its name has no number."""
    sequences: list[SequenceGates]
    """One for each text that the input is read as: choices, windows."""


class TaskModel(BaseModel):
    """One task that an expert answers."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    name: str
    kind: str
    labels: list[str]
    columns: list[str]
    """What an input must hold."""
    optional: list[str]
    """What it may hold beside."""


class ExpertEntry(BaseModel):
    """An expert, merged expert, mixture, or several experts that were trained together."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    name: str
    kind: Literal["expert", "merged", "several", "mixture"]
    tasks: list[TaskModel]
    base: str
    rank: int | None
    """Largest of its maps, where its recipe has one for all."""
    bytes: int
    """In memory where it is resident, else of its tensors on disk."""
    resident: bool
    version: str | None
    """Of what is resident; answers name it."""
    state: Literal["stored", "resident", "refused"]
    reason: str
    """Why it was refused."""


class ExpertList(BaseModel):
    """All that can be asked."""

    experts: list[ExpertEntry]


class PutRequest(Body):
    """Where an expert's files are."""

    folder: str | None = Field(
        default=None, min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$"
    )
    """A run folder of the server's, below one that it may read from; null: the folder of the expert's name."""


class Problem(BaseModel):
    """Why a request has no answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """Stays the same between versions."""
    message: str
    """What came, what was expected, what to do."""
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = None
    request_id: str


class Refusal(BaseModel):
    """The shape of every error."""

    error: Problem


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok", "ready"]
