"""From a run's settings to everything its training needs: rows, base, experts, learners. All checks happen here."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from weft.base.loading import Base, attention_for, check_max_length, load_base
from weft.config import RecipeSettings, Run
from weft.data.memory import given_by_task
from weft.data.rows import Rows, encode, load
from weft.data.users import check_states
from weft.lowrank.roles import layer_of
from weft.lowrank.route import Members
from weft.methods.balances.contract import Balance
from weft.methods.gates.settings import Spec as MixtureSpec
from weft.methods.gates.settings import trains_experts
from weft.methods.recipes import Recipe
from weft.model.card import Card
from weft.model.expert import Expert, build, check_head_settings
from weft.model.factoring import added
from weft.model.head import Head, trained_dtype
from weft.model.heads import kind_for
from weft.model.mixed import Mix
from weft.model.mixing import MIX, Ingredient, make_mix
from weft.model.model import Model
from weft.model.prefix import Encoders, encoders_for, united
from weft.scoped import tell
from weft.storage.card import read_card
from weft.storage.experts import versions
from weft.storage.ingredients import read_ingredients
from weft.tasks.contract import Example, Record, Task
from weft.training.learning import Learner, Stream
from weft.training.preparation.balancing import balance_of
from weft.training.preparation.starting import prepare, prepare_model, start_from
from weft.training.preparation.trial import Trial
from weft.training.sampling import Sampled
from weft.training.settings import Complete

SHARED = "shared"
"""Name of the expert that several tasks train together."""
DTYPES = {"fp64": torch.float64}
"""The base's type by precision where it is not single: bf16 and fp16 are arithmetic, not storage."""


@dataclass
class Session:
    """What a training works on."""

    run: Run
    """Complete: every default of recipe and training written out."""
    base: Base
    model: Model
    streams: list[Stream]
    """Every task's training rows."""
    learners: list[Learner]
    """What learns; nothing, where a mixture's gates need no training."""
    device: torch.device
    _rows: dict[str, Rows]
    _recipe: Recipe
    ingredients: dict[str, Ingredient] = field(default_factory=dict)
    """The experts that a mixture mixes, by name."""

    @property
    def mix(self) -> Mix | None:
        """The mixture that is trained, if it is one."""
        return next((own for own in self.model.experts.values() if isinstance(own, Mix)), None)

    def final_rows(self, task: str) -> tuple[list[Example], list[Record]]:
        """The rows of a task's final score."""
        return self._rows[task].final

    def run_of(self, task: str) -> Run:
        """The settings of one task's own run folder."""
        own = next(settings for settings in self.run.tasks if settings.label == task)
        return self.run.model_copy(update={"task": own, "tasks": [], "data": None})

    def adapter_parameters(self, task: str) -> int:
        """Trained numbers in the adapters that answer a task; for recipe `full`, all of the trunk's."""
        if self.model.is_private:
            return sum(value.numel() for value in self.model.trunk.parameters())
        stream = self._stream(task)
        return sum(self.model.expert(name).adapter_parameters() for name in stream.members)

    def _stream(self, task: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == task)

    def result(self, task: str, metrics: Mapping[str, float]) -> tuple[Expert, Card]:
        """The trained expert of one task as it is saved: a shared one and its own are added up."""
        stream = self._stream(task)
        # A mixture is saved on its own: what is a task's then is its head.
        names = stream.members if self.run.mixture is None else ()
        owners = [self.model.expert(name) for name in names]
        head = self.model.expert(stream.head).head
        recipe = self._recipe.describe()
        if len(owners) <= 1:
            own = owners[0] if owners else self.model.expert(stream.head)
            expert = Expert(task, own.adapters, head, own.copies, own.shared)
        else:
            expert = added(task, owners, head, self.model.trunk)
            rank = max(adapter.rank for adapter in expert.adapters.values())
            recipe = RecipeSettings(
                name="lora",
                targets=recipe.targets,
                layers=recipe.layers,
                **{"rank": rank, "alpha": float(rank), "dropout": 0.0},
            )
        settings = recipe.model_copy(update={"modules": list(expert.adapters)})
        card = Card(
            task=stream.task.spec.model_dump(mode="json"),
            labels=tuple(stream.task.labels),
            head=stream.kind,
            recipe=settings.model_dump(mode="json"),
            targets=tuple(expert.adapters),
            base=self.base.name,
            source=self.base.source,
            revision=self.base.revision,
            digest=self.base.digest,
            train_also=tuple(expert.copies),
            versions=versions(),
            metrics=dict(metrics),
        )
        return expert, card


def assemble(
    complete: Complete, device: torch.device, data: Mapping[str, Any] | None = None
) -> Session:
    """Read, check and build everything that a complete run asks for.

    Args:
        complete: The settings, as `completed` returns them.
        device: Where to train if the run says `auto`.
        data: Rows in memory, by split or by task and split (`weft.data.memory`); None reads files.

    Raises:
        KeyError: If a name is unknown.
        ValueError: If anything does not fit: what came, what was expected, what to do.
    """
    run, recipe = complete.run, complete.recipe
    device = device if run.device == "auto" else torch.device(run.device)
    given = given_by_task(data, [settings.label for settings in complete.tasks])
    loaded = {own.label: load(run, own, given.get(own.label)) for own in complete.tasks}
    if complete.gates is not None and complete.gates.states is not None:
        for item in loaded.values():
            check_states(item, complete.gates.states)
            if complete.gates.states and item.task.spec.kind == "causal_lm":
                raise ValueError(
                    f"task {item.settings.label} writes its answers, and what is known of whom a row is for does not "
                    "travel with what is written; use kinds whose answers are read, or mixture.state_size=0"
                )
    base = load_base(
        run.base,
        revision=run.revision,
        dtype=DTYPES.get(run.training.precision, torch.float32),
        device=device,
        attention=attention_for(device, half=run.training.precision in ("bf16", "fp16")),
        quantised=run.quantise,
    )
    for name, item in loaded.items():
        kind_for(item.task.spec.kind, base.config)
        check_max_length(base, item.task.spec.max_length)
        if run.mixture is not None and item.task.files:
            raise ValueError(
                f"task {name} reads recordings or pictures, whose prefix no mixture's gates know; train experts apart, "
                "shared, or both"
            )
    model = Model(base, private=recipe.trains == "base").to(device)
    ingredients = {}
    if run.mixture is not None and run.mixture.runs:
        ingredients = read_ingredients(run.mixture.runs, base)
    tasks = {name: item.task for name, item in loaded.items()}
    experts = _experts(complete, base, tasks, ingredients)
    for expert, _ in experts.values():
        if model.is_private and expert.head is not None:
            expert.head.unfreeze(model.trunk)
        model.add(expert.to(device), trainable=True)
    rows = {name: encode(run, item, base) for name, item in loaded.items()}
    streams = {name: _stream(run, name, rows, recipe) for name in rows}
    chosen = _chosen(run, base, model, experts, streams)
    if run.init_from:
        start_from(run.init_from, base, experts)
    prepare(model, experts, streams, run)
    prepare_model(model, run)
    model.train()
    balance = balance_of(complete.gates, model, list(streams.values()), ingredients, run)
    described = run.recipe.model_copy(update={"modules": _modules(experts), **chosen})
    read = [item.settings for item in loaded.values()]
    which = {"task": read[0]} if run.task else {"tasks": read}
    run = run.model_copy(update={"recipe": described, **which})
    return Session(
        run,
        base,
        model,
        list(streams.values()),
        _learners(run, experts, streams, model, balance),
        device,
        rows,
        recipe,
        ingredients,
    )


def _experts(
    complete: Complete,
    base: Base,
    tasks: Mapping[str, Task],
    ingredients: Mapping[str, Ingredient],
) -> dict[str, tuple[Expert, Recipe]]:
    """Every expert of the run with its own recipe objects, by name."""
    run = complete.run
    found: dict[str, tuple[Expert, Recipe]] = {}
    together = SHARED if run.mixture is None else MIX
    if together in tasks and (run.mixture is not None or run.across_tasks != "separate"):
        raise ValueError(f"a task may not be called {together!r} here; rename its file")
    shared = run.across_tasks == "shared"
    encoders: list[Encoders] = []
    for name, task in tasks.items():
        recipe = complete.head_only() if shared else complete.recipe.again()
        head = Head(task.spec.kind, base, task.num_labels, seed=run.seed)
        head.encoders = encoders_for(
            task,
            base.config.hidden_size,
            trained_dtype(base),
            run.seed,
            shared=united(encoders) if run.encoders == "shared" else None,
        )
        encoders += [head.encoders] if head.encoders is not None else []
        check_head_settings(head, run.training)
        learns = head.trained_names() or head.encoders is not None
        if complete.recipe.trains == "head" and run.mixture is None and not learns:
            raise ValueError(
                f"recipe {run.recipe.name} has nothing to train on {name}: the head of {task.spec.kind} comes whole "
                "with the base; choose a recipe with adapters, or full"
            )
        found[name] = (_built(name, base, recipe, head, run.seed), recipe)
    if run.mixture is not None and complete.gates is not None:
        mixed = ingredients if complete.mixes_experts else {}
        _take_heads(found, mixed, complete.gates)
        mix = make_mix(run.mixture, base, mixed, list(tasks), run.seed)
        found[MIX] = (mix, complete.head_only())
    elif run.across_tasks != "separate":
        recipe = complete.recipe.again()
        found[SHARED] = (_built(SHARED, base, recipe, None, run.seed), recipe)
    return found


def _chosen(
    run: Run,
    base: Base,
    model: Model,
    experts: dict[str, tuple[Expert, Recipe]],
    streams: Mapping[str, Stream],
) -> dict[str, Any]:
    """Let plans that look at rows choose, and build their experts anew; what the recipe's settings say of it."""
    found: dict[str, list[str]] = {}
    for name, (expert, recipe) in experts.items():
        if not (recipe.plan.tries and expert.adapters):
            continue
        own = [stream for stream in streams.values() if name in stream.members]
        rate = run.training.rate or recipe.learning_rate
        tell(f"choosing the layers of {name}")
        if run.init_from:
            before = map(layer_of, read_card(Path(run.init_from) / "expert").targets)
            layers = list(dict.fromkeys(layer for layer in before if layer))
        else:
            trial = partial(Trial, model, name, own, run, rate)
            layers = list(recipe.plan.choose(name, list(expert.adapters), trial))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # An accelerator may add up in another order on each process.
            told = [layers]
            torch.distributed.broadcast_object_list(told, src=0)
            [layers] = told
        recipe.plan.keep(layers)
        found[name] = layers
        again = _built(name, base, recipe, expert.head, run.seed)
        experts[name] = again, recipe
        model.replace(again.to(next(model.parameters()).device), trainable=True)
    return {"chosen": found} if found else {}


def _take_heads(
    experts: Mapping[str, tuple[Expert, Recipe]], mixed: Mapping[str, Ingredient], spec: MixtureSpec
) -> None:
    """Give each task the head that its own expert has, and freeze it unless heads are to learn."""
    for name, (expert, _) in experts.items():
        if name in mixed:
            # A copy: what learns here must not change the expert that was trained before.
            expert.head = copy.deepcopy(mixed[name].expert.head)
        learns = spec.train_heads if spec.train_heads is not None else trains_experts(spec)
        if expert.head is not None and not learns:
            expert.head.requires_grad_(False)


def _built(name: str, base: Base, recipe: Recipe, head: Head | None, seed: int) -> Expert:
    """A new expert that PEFT's format can hold: no adapter on a module that is saved whole."""
    expert = build(name, base, recipe, head, seed=seed)
    for module in set(expert.adapters) & set(expert.copies):
        raise ValueError(f"train_also: {module} is a target as well; choose one of the two")
    return expert


def _stream(run: Run, name: str, rows: Mapping[str, Rows], recipe: Recipe) -> Stream:
    own, sampling = rows[name], run.training.sampling
    values: dict[str, Any] = {
        "name": name,
        "task": own.loaded.task,
        "kind": own.loaded.task.spec.kind,
        "head": name,
        "members": _members(run, name, recipe),
        "records": own.train,
        "held": own.held,
        "class_weights": own.class_weights,
        "loss_weight": own.loaded.settings.loss_weight,
        "training": run.training,
        "seed": run.seed,
    }
    if sampling is None:
        return Stream(**values)
    sizes = [len(other.train) for other in rows.values()]
    return Sampled(**values, sizes=sizes, place=list(rows).index(name), temperature=sampling)


def _members(run: Run, name: str, recipe: Recipe) -> Members:
    if run.mixture is not None:
        return (MIX,)
    if recipe.adapter is None:
        return (name,) if recipe.settings.train_also else ()
    return {"separate": (name,), "shared": (SHARED,), "both": (SHARED, name)}[run.across_tasks]


def _learners(
    run: Run,
    experts: Mapping[str, tuple[Expert, Recipe]],
    streams: Mapping[str, Stream],
    model: Model,
    balance: Balance | None,
) -> list[Learner]:
    if run.mixture is not None and not any(expert.trained() for expert, _ in experts.values()):
        return []
    heads = [expert.head for expert, _ in experts.values() if expert.head is not None]
    listens = run.encoders == "shared" and sum(head.encoders is not None for head in heads) > 1
    if run.across_tasks != "separate" or run.mixture is not None or listens:
        together = list(streams.values()), list(experts.values())
        return [Learner(*together, run.training, balance=balance)]
    trunk = model.trunk if model.is_private else None
    return [
        Learner([stream], [experts[name]], run.training, trunk) for name, stream in streams.items()
    ]


def _modules(experts: Mapping[str, tuple[Expert, Recipe]]) -> list[str] | None:
    return next((list(expert.adapters) for expert, _ in experts.values() if expert.adapters), None)
