"""Settings of a run: frozen pydantic models, YAML in, complete YAML out.

A key that does not exist is an error that names the nearest one. Defaults live here and nowhere else, except those
that belong to a recipe (its file) or a task (its file); `run.yaml` in a run folder holds every value in force.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from weft import guard

Split = Literal["train", "validation", "test"]

S = TypeVar("S", bound=BaseModel)

SEARCH = "search"
"""In place of a learning rate: find one."""
_MOST_SAID = 10
"""Faults of one file that an error tells."""


class Settings(BaseModel):
    """Base of everything a user can set: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _labels(value: object) -> object:
    """Class weights with class names for keys: YAML reads `0: 2.5` as a number, and `no: 2.5` as false."""
    if not isinstance(value, Mapping):
        return value
    wrong = [label for label in value if isinstance(label, bool)]
    if wrong:
        raise ValueError(f"{wrong[0]} is no class name; write names like no, yes, on in quotes")
    return {str(label): weight for label, weight in value.items()}


class ReplaySettings(Settings):
    """Rows of another set that are learnt beside a task's own, so that what the base knew is not forgotten."""

    name: str
    """A set of the same kind: registered, or the path of its YAML file."""
    spec: dict[str, Any] | None = None
    """The set's description, in place of a YAML file."""
    data: str | None = None
    """Folder with the set's files; its `train` rows are taken."""
    share: float = Field(default=0.17, gt=0, lt=1)
    """Of all tokens that are learnt in an epoch, replayed ones, to the nearest whole row: 0.17 is 2.4 M of 13.9 M
    tokens (LLiMba)."""


class TaskSettings(Settings):
    """One task of a run: a registered name, or a YAML file that says a task of the user's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """A registered task (`weft list tasks`) or the path of a task's YAML file."""
    spec: dict[str, Any] | None = None
    """The set's description (kind, columns, labels, ...), in place of a YAML file."""
    data: str | None = None
    """Folder with the set's files as published; None loads the set from the hub."""
    in_memory: dict[Split, str] | None = None
    """Digests of the rows that were given in Python, by split; written by training. They have to be given again."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest sequence in tokens, special tokens included; None takes the task's own."""
    stride: int | None = Field(default=None, ge=0)
    """Tokens that neighbouring windows share, where the kind has windows; None takes the task's own."""
    truncate: bool = False
    """Cut what is too long where windows make no sense, instead of refusing it."""
    max_examples: dict[Split, int] | int | None = None
    """Size of a seeded sample, of every split or by split; None takes all."""
    replay: ReplaySettings | None = None
    """Rows of another set, of a language model, mixed into those that are trained on; scores are of the task's own."""
    class_weights: Annotated[
        Literal["balanced"] | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None,
        BeforeValidator(_labels),
    ] = None
    """What a class counts in the loss: `balanced`, by how rare it is among the training rows, or a number by class name
    (1 where not named). Where a row has several classes: what a class counts in the rows that have it."""

    loss_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """What the task's mean loss counts beside those of the run's other tasks, where they train something together."""

    @property
    def label(self) -> str:
        """What the task is called in folders, logs and routes: its name, or its file's without the ending."""
        return Path(self.name).stem


class RecipeSettings(Settings):
    """Which method, and its settings; keys beyond these belong to the method and are checked by it."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = "lora"
    """A file of `recipes/` (`weft list recipes`), or the path of a recipe's YAML file."""
    spec: dict[str, Any] | None = None
    """The recipe's description, in place of a YAML file; written by training where the file is the user's own."""
    targets: list[str] | str | None = None
    """Roles (query key value output ffn_in ffn_out), `all-linear`, module names or regular expressions (`re:...`)."""
    layers: list[int] | None = None
    """Layer numbers that get adapters, counted from 0; None means all."""
    ranks: dict[str, int] | None = None
    """Rank by role or module name, where it differs from `rank`."""
    train_also: list[str] = []
    """Parts of the base that the expert trains a private copy of: embeddings, norms, lm_head (a language model's head,
    parted from the embeddings where it is tied to them, as in PEFT), module names."""
    modules: list[str] | None = None
    """What `targets` resolved to; written by training, never read."""


class MixtureSettings(Settings):
    """How trained experts are combined at run time; keys beyond these belong to the method and are checked by it."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """A file of `mixtures/` (`weft list mixtures`)."""
    runs: list[str] = []
    """Run folders whose experts are mixed, one for each task; none where the mixture trains its own."""
    beside: list[str] = []
    """Run folders whose scores are shown beside the mixture's: full fine-tuning, one LoRA for all tasks, ..."""


def _rate(value: object) -> object:
    """A rate as YAML has it: a number, a number it reads as text (1e-3), or the word."""
    if value is None or value == SEARCH:
        return value
    try:
        rate = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"expected a number greater than 0, or {SEARCH}")
    return rate


class RateSource(Settings):
    """Where a run's rate comes from."""

    rate: float
    """The rate that this is said of; of another it says nothing."""
    said: str


class MergeSettings(Settings):
    """How experts were combined into one; keys beyond these belong to the method and are checked by it."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = "cat"
    """A file of `merges/` (`weft list merges`)."""
    runs: list[str] = []
    """Run folders whose experts are merged."""
    weights: list[float] | None = None
    """One for each expert, in the order of `runs`; None is 1 / their number."""
    rank: int | None = Field(default=None, ge=1)
    """Largest rank of the result; None takes the method's own."""
    head: str | None = None
    """The run whose head alone answers; None keeps every task's own."""
    dense: int | None = Field(default=None, ge=1)
    """Rank at which experts that have no exact factors (DoRA) enter, as the nearest of that rank; None refuses them."""
    seed: int = 0
    """Of methods that draw, and of what is learned."""


class TrainingSettings(Settings):
    """How long, how fast, and on what terms one expert is trained."""

    epochs: float = Field(default=3, gt=0)
    """Passes over the training split."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; takes the place of `epochs` where set."""
    batch_size: int = Field(default=16, ge=1)
    """Rows of one task per optimizer step: over all processes and accumulation steps together."""
    accumulation: int = Field(default=1, ge=1)
    """Pieces a batch is cut into, to save memory; the result is the same."""
    learning_rate: Annotated[
        Annotated[float, Field(gt=0)] | Literal["search"] | None, BeforeValidator(_rate)
    ] = None
    """Peak rate; None takes the recipe's at the base's width; `search` tries several on held-out rows of train."""
    rate_from: RateSource | None = None
    """Where `learning_rate` comes from, if not from the user; written by training, never read."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of the head; None takes the recipe's, and where it has none, `learning_rate`."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the rate after warm-up; linear and cosine end at 0."""
    warmup: float = Field(default=0.06, ge=0, le=1)
    """Fraction of all steps over which the rate rises from 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled decay; never applied to biases and norms."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Each expert's gradient norm is clipped to this; 0 does not clip."""
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """Arithmetic of the forward pass; trained weights stay fp32 under bf16 and fp16."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Mass taken from the true class and spread over all, where the loss is a cross-entropy."""
    base_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout inside base and heads while training; None keeps what the base's own config says."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    sampling: float | None = Field(default=None, ge=0, le=1)
    """Several tasks: each step's rows are drawn from all of them in proportion to their sizes to this power (1: the
    concatenated data, 0: equal shares); None gives every task a batch of its own in each step."""
    bucketing: bool = True
    """Batches of rows of similar length: less padding, same rows per epoch."""
    early_stopping: int | None = Field(default=None, ge=1)
    """Evaluations without a better one before training stops and the best weights return; None never stops."""
    early_stopping_on: Literal["score", "loss"] = "score"
    """What is to get better: the task's score, or the mean loss, which a score that starts at 0 may lag behind."""
    select_on: Literal["holdout", "validation"] = "holdout"
    """Rows that stopping looks at: a seeded tenth of train, held out of training, or the validation split."""
    evaluate_on: Literal["validation", "holdout"] = "validation"
    """Rows of the final score; `holdout` leaves the validation split untouched (searches)."""
    eval_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations while training; None is once an epoch if `early_stopping` is set, else never."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; None is once an epoch."""
    keep_checkpoints: int = Field(default=1, ge=1)
    """Newest checkpoints kept while training; all go when the run is complete."""
    trajectory: int = Field(default=0, ge=0)
    """How many states of the expert stay in the run's `trajectory/`, spread evenly over the second half of training and
    the last of them its end; a generator learns from them (`weft learn`)."""
    tracker: str | None = None
    """A tracker accelerate knows: tensorboard, wandb, mlflow, ..."""

    @property
    def rate(self) -> float | None:
        """`learning_rate` where it is a number, as it is in every run that learns."""
        return None if self.learning_rate == SEARCH else self.learning_rate


class PersonalSettings(Settings):
    """A small plain LoRA for each user, on the maps that the population's adapts; the rest is as `training` says."""

    rank: int = Field(default=2, ge=1)
    """Of each user's adapters."""
    alpha: float = Field(default=4.0, gt=0)
    """Their strength: they are scaled by alpha / rank."""
    epochs: float = Field(default=10, gt=0)
    """Passes over a user's rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of a user; takes the place of `epochs` where set."""
    batch_size: int = Field(default=16, ge=1)
    """Rows of a user per optimizer step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak rate of a user's adapters and head."""
    head: Literal["own", "shared"] = "own"
    """Whether a user has a head too, started from the population's, or answers through that one."""
    least_rows: int = Field(default=1, ge=1)
    """Users with fewer training rows get no expert: the population's answers them."""
    population: str | None = None
    """Run folder whose expert is the population's, for users who came later; None trains one on all rows."""
    apart: list[str] = []
    """Canonical columns (text, text_pair, user, ...) of which no value may be in two splits."""


PERSONAL = ("personal", "shared+personal")
"""Of `experts`: each user has an expert."""


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Run(Settings):
    """Everything that decides a run's result; `run.yaml` is this, complete."""

    base: str = "minilm"
    """An alias (`weft list bases`), a hub id, a folder with a transformers checkpoint, or a GGUF file."""
    revision: str | None = None
    """Branch, tag or commit of the base on the hub."""
    quantise: Literal["int8", "int4"] | None = None
    """The base's linear maps in so many bits, rounded at load (extra `quantised`); experts stay in full precision."""
    task: Annotated[TaskSettings | None, BeforeValidator(_named)] = None
    """The one task of this run; `tasks` for several."""
    tasks: list[Annotated[TaskSettings, BeforeValidator(_named)]] = []
    """Tasks trained in the same batches over one base."""
    experts: Literal["separate", "shared", "both", "personal", "shared+personal"] = "separate"
    """With several tasks: an expert for each, one shared by all, or a shared one plus one for each. With one task whose
    rows have users: one shared by all, one for each user, or a shared one plus one for each user."""
    personal: PersonalSettings = PersonalSettings()
    """What each user's expert is like, where users have experts."""
    encoders: Literal["shared", "own"] = "shared"
    """With several tasks that read recordings or pictures: one encoder and projector of each kind of input for all of
    them, which they train together, or each task its own."""
    data: str | None = None
    """Folder of the task's data; with several tasks, the folder that holds one sub-folder for each by name."""
    recipe: Annotated[RecipeSettings, BeforeValidator(_named)] = RecipeSettings()
    mixture: Annotated[MixtureSettings | None, BeforeValidator(_named)] = None
    """Mix experts instead of training one: `recipe` has no say then."""
    merge: MergeSettings | None = None
    """Written by `weft merge`: how the run's expert was made of others; nothing was trained."""
    training: TrainingSettings = TrainingSettings()
    init_from: str | None = None
    """Run folder whose expert the training starts from."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @property
    def is_personal(self) -> bool:
        """Whether each user has an expert."""
        return self.experts in PERSONAL

    @property
    def across_tasks(self) -> Literal["separate", "shared", "both"]:
        """How several tasks share experts; one task has its own, whoever its users are."""
        if self.experts in ("shared", "both") and self.tasks:
            return self.experts  # type: ignore[return-value]
        return "separate"

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.mixture is not None and self.mixture.runs and not (self.task or self.tasks):
            return self
        if (self.task is None) == (not self.tasks):
            raise ValueError("say what to train on: either `task: NAME` or `tasks: [NAME, ...]`")
        names = [task.label for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"each task may appear once, got {names}")
        return self


def validate(model: type[S], values: object, where: str) -> S:
    """`values` as a `model`, or one ValueError that says what came, where, and the nearest known key.

    Args:
        model: The settings expected.
        values: A mapping as read from YAML.
        where: What the error calls the source, e.g. a file's name.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected a mapping of settings, got {values!r:.200}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        said = [guard.sentence_of(model, item, where) for item in found[:_MOST_SAID]]
        more = len(found) - len(said)
        raise ValueError("\n".join([*said, *([f"and {more} more"] if more else [])])) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: If the file is missing or what `weft.guard` refuses, or no mapping; with the line where known.
    """
    values = guard.read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values


def load_run(
    source: str | Path | Mapping[str, Any] | Run, overrides: list[str] | None = None
) -> Run:
    """A run's settings from a YAML file or a mapping, with `--set` overrides applied.

    Raises:
        ValueError: If a key is unknown or a value is out of range, naming the key.
    """
    if isinstance(source, Run):
        source = source.model_dump()
    values = source if isinstance(source, Mapping) else read_yaml(Path(source))
    where = "run" if isinstance(source, Mapping) else str(source)
    if (
        isinstance(values, Mapping)
        and "kind" in values
        and values.keys().isdisjoint(Run.model_fields)
    ):
        raise ValueError(
            f"{where}: describes a set of rows, no run; give a config with a base and `task: {where}`"
        )
    return validate(Run, guard.with_overrides(values, overrides or []), where)


def to_yaml(settings: BaseModel) -> str:
    """`settings` as complete YAML, every default included, in the order they are declared."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
