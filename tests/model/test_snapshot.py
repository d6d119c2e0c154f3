"""A model may change while it answers: a call is answered from the value that the model had at its start."""

import copy
import gc
import itertools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.test_model import batch_of, expert, rows
from weft.answering.inference import outputs
from weft.base.loading import Base, load_base
from weft.config import MixtureSettings, RecipeSettings
from weft.lowrank.route import Route
from weft.methods.recipes import resolve
from weft.model.batching import Batch, Item
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.mixed import Mix
from weft.model.mixing import Ingredient, make_mix
from weft.model.model import Model
from weft.model.snapshot import Snapshot, twin
from weft.storage.experts import load_expert, save_expert

KIND = "token_classification"
CALLS, THREADS = 2000, 8
MIXTURES = ("single_pass", "early_pass", "xlora")
ADAPTED = {"name": "lora", "rank": 3, "targets": ["query", "ffn_out"]}
Bits = dict[str, bytes]


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


def named(base: Base, name: str, number: int, **settings: Any) -> Expert:
    return expert(base, KIND, number, name=name, **settings)


def card_of(base: Base, name: str = "", own: Expert | None = None) -> Card:
    task = {"name": name, "kind": KIND, "labels": ["a", "b", "c"]}
    recipe = resolve(RecipeSettings(**ADAPTED)).describe().model_dump(mode="json")
    targets = tuple(own.adapters) if own else ()
    labels, source = ("a", "b", "c"), base.source
    return Card(task, labels, KIND, recipe, targets, base.name, source, None, base.digest)


def mixture(base: Base, method: str) -> Mix:
    """A mixture of two experts, its gates away from their start."""
    owners = {
        name: Ingredient(named(base, name, at), card_of(base), Path(name))
        for at, name in enumerate(("one", "two"))
    }
    made = make_mix(MixtureSettings(name=method), base, owners, list(owners), seed=1)
    draw = torch.Generator().manual_seed(MIXTURES.index(method))
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=draw))
    return made


def items(base: Base, head: str, *members: str) -> list[Item]:
    return [Item(head, KIND, members or (head,), own.record) for own in rows(base, KIND, 2)]


def bits(answers: Mapping[str, Tensor]) -> Bits:
    return {name: value.numpy().tobytes() for name, value in answers.items()}


def answered(held: Snapshot, batch: Batch) -> Bits:
    with torch.inference_mode():
        return bits(held(batch))


def plainly(model: Model, own: Sequence[Item]) -> list[list[bytes]]:
    """What prediction makes of rows, on whatever the model holds."""
    return [[part.tobytes() for part in row] for row in outputs(model, own, pad_id=0, device="cpu")]


class Traffic:
    """Models on one base that change in every way while threads ask; expected bits are of each version alone."""

    def __init__(self, base: Base, folder: Path) -> None:
        self.base = base
        stored = named(base, "loaded", 1)
        save_expert(stored, card_of(base, "loaded", stored), base, folder)
        self.folder = folder
        self.forms: list[dict[str, list[Expert]]] = [
            {
                "kept": [named(base, "kept", first)],
                "swapped": [
                    named(base, "swapped", first + at, train_also=["norms"][: at % 2])
                    for at in range(3)
                ],
                "guest": [named(base, "guest", first, targets=["value"])],
                "mix": [mixture(base, method) for method in MIXTURES[first:]],
            }
            for first in (0, 1)
        ]
        self.asked = {
            ("kept",): items(base, "kept"),
            ("swapped",): items(base, "swapped"),
            ("kept", "swapped"): items(base, "kept") + items(base, "swapped"),
            ("mix", "kept"): items(base, "kept", "mix"),
            ("mix", "kept", "swapped"): items(base, "kept", "mix") + items(base, "swapped"),
            ("guest",): items(base, "guest"),
            ("loaded",): items(base, "loaded"),
        }
        self.batches = {names: batch_of(base, own) for names, own in self.asked.items()}
        self.expected = {
            (number, *key): value
            for number in range(2)
            for key, value in self._alone(self.forms[number] | {"loaded": [stored]}).items()
        }
        self.number = {
            id(o): at for own in self.forms for f in own.values() for at, o in enumerate(f)
        }
        self.models = [Model(base), Model(base)]
        for model, own in zip(self.models, self.forms, strict=True):
            model.change(add=[forms[0] for forms in own.values()])
        self.seen: set[tuple[Any, ...]] = set()
        self.wrong: list[str] = []
        self.asking, self.done = itertools.count(), threading.Event()

    def _alone(self, forms: Mapping[str, list[Expert]]) -> dict[tuple[Any, ...], Bits]:
        """Bits by what is asked and the number of each expert's form, on a model that holds no other."""
        found = {}
        for names, batch in self.batches.items():
            for numbers in itertools.product(*(range(len(forms[name])) for name in names)):
                model = Model(self.base)
                model.change(add=[forms[n][at] for n, at in zip(names, numbers, strict=True)])
                found[names, numbers] = answered(model.snapshot, batch)
        return found

    def ask(self) -> None:
        """Calls until there have been enough; each says which value it took."""
        whats = itertools.cycle(self.batches)
        while (call := next(self.asking)) < CALLS:
            names, which = next(whats), call % 2
            held = self.models[which].snapshot
            if not set(names) <= set(held.residents):
                names = ("kept",)
            got = answered(held, self.batches[names])
            # One that was loaded is a new object each time, and always of the one form.
            form = tuple(self.number.get(id(held.expert(name)), 0) for name in names)
            self.seen.add((which, names, form))
            if got != self.expected[which, names, form]:
                self.wrong.append(f"{which} {names} {form}")

    def change(self) -> None:
        """Every way to change a model, over and over."""
        for turn in itertools.count():
            if self.done.is_set():
                return
            model, own = self.models[turn % 2], self.forms[turn % 2]
            model.replace(own["swapped"][turn // 2 % 3])
            model.replace(own["mix"][turn // 2 % len(own["mix"])])
            if "guest" in model.experts:
                model.remove("guest")
            else:
                model.add(own["guest"][0])
            fresh, _ = load_expert(self.folder, self.base)
            model.change(add=[fresh], remove=["loaded"] if "loaded" in model.experts else [])
            if turn % 5 == 4:
                model.remove("mix")
                model.add(own["mix"][0])
            time.sleep(0.002)

    def disturb(self) -> None:
        """Modes that others set, wherever they can reach."""
        for turn in itertools.count():
            if self.done.is_set():
                return
            for module in (*self.models, self.base.trunk, *self.models[0].experts.values()):
                module.train(turn % 2 == 0)
            time.sleep(0.002)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns five hundred times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("impatient")
def test_every_answer_is_that_of_the_version_at_its_start(bert: Base, tmp_path: Path) -> None:
    traffic = Traffic(bert, tmp_path / "loaded")
    before = {name: value.clone() for name, value in bert.trunk.state_dict().items()}
    with ThreadPoolExecutor(THREADS + 2) as threads:
        others = [threads.submit(traffic.change), threads.submit(traffic.disturb)]
        calls = [threads.submit(traffic.ask) for _ in range(THREADS)]
        try:
            for call in calls:
                call.result()
        finally:
            traffic.done.set()
        for other in others:
            other.result()
    assert traffic.wrong == []
    # Nearly all that can be seen of a version has been: no answer was right because nothing changed.
    assert len(traffic.seen) >= 0.8 * len(traffic.expected)
    after = bert.trunk.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_two_models_on_one_base_do_not_see_each_other(bert: Base) -> None:
    names = [name for name, _ in bert.trunk.named_modules()]
    inputs = batch_of(bert, items(bert, "x")).inputs
    with torch.inference_mode():
        bare = bert.trunk(**inputs).last_hidden_state
    first, second = Model(bert), Model(bert)
    first.add(named(bert, "x", 0, train_also=["norms"]))
    wanted = plainly(first, items(bert, "x"))
    second.add(named(bert, "x", 1))
    second.add(named(bert, "y", 2, targets="all-linear"))
    second.add(mixture(bert, "xlora"))
    second.train()
    assert plainly(first, items(bert, "x")) == wanted
    assert plainly(second, items(bert, "x")) != wanted
    assert list(first.experts) == ["x"]
    with pytest.raises(KeyError, match="no expert named 'y'"):
        first.snapshot.states(inputs, Route.everywhere("y"))
    # They share the weights, each by each, and the base is what it was.
    own = [{id(value) for value in model.trunk.parameters()} for model in (first, second)]
    assert own == [{id(value) for value in bert.trunk.parameters()}] * 2
    assert [name for name, _ in bert.trunk.named_modules()] == names
    assert not bert.trunk.training
    with torch.inference_mode():
        assert torch.equal(bert.trunk(**inputs).last_hidden_state, bare)
        assert torch.equal(first.snapshot.states(inputs, None), bare)


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("what", ["expert", *MIXTURES])
def test_no_mode_that_anybody_sets_changes_an_answer(
    bert: Base, what: str, trainable: bool
) -> None:
    bert.config.hidden_dropout_prob = 0.5
    model = Model(bert)
    model.add(named(bert, "x", 0, dropout=0.5), trainable=trainable)
    own = items(bert, "x")
    if what != "expert":
        model.add(mixture(bert, what), trainable=trainable)
        own = items(bert, "x", "mix")
    # Nobody has called `eval()`: torch's modules begin in training.
    assert model.training
    assert model.expert("x").head.training
    found = [plainly(model, own)]
    for change in (model.eval, model.train, bert.trunk.train, model.expert("x").train):
        change()
        found.append(plainly(model, own))
    assert found == [found[0]] * 5
    kept = model.snapshot
    model.train()
    assert {module.training for module in kept.trunk.modules()} == {False}
    assert {module.training for module in kept.head("x").modules()} == {False}
    assert model.trunk.training


def test_a_value_that_was_kept_stays_as_it_is(bert: Base) -> None:
    model, own = Model(bert), items(bert, "x")
    model.add(named(bert, "x", 0))
    kept, wanted, batch = model.snapshot, plainly(model, own), batch_of(bert, own)
    bits_of_first = answered(kept, batch)
    old = kept.expert("x")
    new = named(bert, "x", 1)
    assert model.replace(new) is old
    assert (kept.expert("x"), model.expert("x")) == (old, new)
    assert model.snapshot is not kept
    assert model.snapshot is model.snapshot
    assert answered(kept, batch) == bits_of_first
    assert answered(model.snapshot, batch) != bits_of_first
    model.remove("x")
    assert answered(kept, batch) == bits_of_first
    assert [
        [part.tobytes() for part in row] for row in outputs(kept, own, pad_id=0, device="cpu")
    ] == wanted
    with pytest.raises(KeyError, match="no expert named 'x'"):
        plainly(model, own)


def test_several_changes_are_one_and_come_whole_or_not_at_all(bert: Base) -> None:
    model = Model(bert)
    a, b, c = (named(bert, name, at) for at, name in enumerate("abc"))
    model.change(add=[a, b])
    before = model.snapshot
    assert model.change(add=[c, new_b := named(bert, "b", 3)], remove=["a", "b"]) == [a, b]
    assert model.experts == {"c": c, "b": new_b}
    assert before.experts == {"a": a, "b": b}
    held, listed = model.snapshot, list(model.named_children())
    lora = next(iter(named(bert, "broken", 0).adapters.values()))
    places = ("encoder.layer.0.attention.self.query", "embeddings.LayerNorm")
    broken = Expert("broken", dict.fromkeys(places, lora), None)
    grows = [value.requires_grad for value in broken.parameters()]
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"add": [named(bert, "d", 1), broken]}, TypeError, "LayerNorm"),
        ({"add": [named(bert, "d", 1), broken], "trainable": True}, TypeError, "LayerNorm"),
        ({"add": [named(bert, "c", 1)]}, ValueError, "'c' is resident"),
        ({"add": [named(bert, "d", 1), named(bert, "d", 2)]}, ValueError, "'d' is resident"),
        ({"add": [named(bert, "d", 1)], "remove": ["nobody"]}, KeyError, "named 'nobody'"),
    ]
    for change, kind, words in cases:
        with pytest.raises(kind, match=words):
            model.change(**change)
        assert model.snapshot is held
        assert list(model.named_children()) == listed
    with pytest.raises(KeyError, match="named 'd'"):
        model.replace(named(bert, "d", 1))
    assert [value.requires_grad for value in broken.parameters()] == grows
    assert model.snapshot is held


def test_a_removed_expert_is_freed_as_soon_as_no_call_holds_it(bert: Base) -> None:
    model = Model(bert)
    model.add(named(bert, "stays", 0))
    gc.collect()
    gc.disable()
    try:
        for add in (
            lambda: named(bert, "x", 1, train_also=["norms"]),
            lambda: mixture(bert, "early_pass"),
        ):
            own = add()
            model.add(own)
            name = own.name
            term = next(iter(model.snapshot.resident(name).woven.terms.values()))
            kept, gone = model.snapshot, [weakref.ref(own), weakref.ref(term)]
            gone += [weakref.ref(value) for value in own.parameters()]
            plainly(model, items(bert, "stays", name))
            del own, term
            model.remove(name)
            assert all(one() is not None for one in gone)
            del kept
            # At once: there is no circle for the collector to find.
            assert [one() for one in gone] == [None] * len(gone)
    finally:
        gc.enable()


@pytest.mark.usefixtures("impatient")
def test_threads_that_add_leave_every_expert_whole_and_none_twice(bert: Base) -> None:
    made = [named(bert, f"x{at}", at % 3) for at in range(48)]
    model = Model(bert)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(model.add, made))
    assert set(model.experts) == {one.name for one in made}
    children = [module for module in model.children() if isinstance(module, Expert)]
    assert {id(one) for one in children} == {id(one) for one in made}
    assert len(children) == len(made)
    for own in made[::12]:
        alone = Model(bert)
        alone.add(own)
        assert plainly(model, items(bert, own.name)) == plainly(alone, items(bert, own.name))
    clashes = [named(bert, "same", at % 3) for at in range(8)]

    def added(own: Expert) -> bool:
        try:
            model.add(own)
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(added, clashes)) == 1


def test_answers_follow_what_is_trained(bert: Base) -> None:
    model, own = Model(bert), items(bert, "x")
    trained = named(bert, "x", 0)
    model.add(trained, trainable=True)
    before = plainly(model, own)
    with torch.no_grad():
        for value in trained.trained().values():
            value.add_(0.1)
    moved = plainly(model, own)
    assert moved != before
    # Some methods put other tensors in place of those that were there.
    for adapter in trained.adapters.values():
        setattr(adapter, "A", nn.Parameter(2 * adapter.get_parameter("A").detach()))  # noqa: B010
    after = plainly(model, own)
    assert after != moved
    same = Model(bert)
    same.add(copy.deepcopy(trained), trainable=True)
    assert plainly(same, own) == after


def test_moving_a_model_moves_what_answers(bert: Base) -> None:
    own = items(bert, "x")
    model = Model(bert, private=True)
    model.add(named(bert, "x", 0, train_also=["norms"]))
    model.double()
    batch = batch_of(bert, own)
    with torch.inference_mode():
        moved, learnt = model.snapshot(batch)["x"], model.eval()(batch)["x"]
    assert moved.dtype == torch.float64
    assert torch.equal(moved, learnt)
    assert bert.trunk.dtype == torch.float32


def test_a_twin_shares_every_tensor_and_no_mode(bert: Base) -> None:
    head = named(bert, "x", 0).head
    assert head is not None
    for module in (bert.trunk, head, mixture(bert, "xlora")):
        same = twin(module)
        assert isinstance(same, nn.Module)
        pairs = zip(module.named_modules(), same.named_modules(), strict=True)
        assert all(a == b and one is not other for (a, one), (b, other) in pairs)
        for tensors in ("named_parameters", "named_buffers"):
            ours, theirs = dict(getattr(module, tensors)()), dict(getattr(same, tensors)())
            assert list(ours) == list(theirs)
            assert all(value is theirs[name] for name, value in ours.items())
        module.train()
        assert not any(part.training for part in same.modules())
    assert twin(bert.trunk).config is bert.config
    own = twin(bert.trunk, own_config=True)
    assert own.config is not bert.config
    assert {id(m.config) for m in own.modules() if hasattr(m, "config")} == {id(own.config)}
