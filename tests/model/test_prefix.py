"""A prefix is what its parts make it, whatever stands beside it in a batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.tiny_sounds import spec_of, write_sounds
from weft.base.loading import Base, load_base
from weft.lowrank.route import Route
from weft.model.batching import Item, collate
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model
from weft.model.prefix import Encoders, encoders_for, places_of, pooled, state_of, take_state
from weft.tasks.contract import Record, TaskSpec
from weft.tasks.kinds.causal_lm import CausalLM
from weft.tasks.kinds.transcription import Transcription

NAMES = ("hear", "see", "both")


@pytest.fixture(scope="module")
def base(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("llama")), dtype=torch.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("sounds"), train=4, validation=1)


def task_of(name: str) -> Transcription:
    return Transcription(TaskSpec.model_validate({"name": name, **spec_of(name)}))


def shaken(encoders: Encoders) -> Encoders:
    """With no parameter at 0 or 1, so that a lost one shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in encoders.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    return encoders


@pytest.fixture(scope="module")
def model(base: Base) -> Model:
    """An expert for each set, and one of plain text."""
    made = Model(base)
    for name in NAMES:
        head = Head("transcription", base, 0, seed=0)
        own = encoders_for(task_of(name), base.config.hidden_size, torch.float64, seed=2)
        assert own is not None
        head.encoders = shaken(own)
        made.add(Expert(name, {}, head))
    made.add(Expert("plain", {}, Head("causal_lm", base, 0, seed=0)))
    return made.eval()


def items(base: Base, folder: Path, name: str, step: int | None = None) -> list[Item]:
    """Rows of a set, as training sees them."""
    if name == "plain":
        plain = CausalLM(TaskSpec(name="plain", kind="causal_lm"))
        texts = ({"id": str(at), "text": text} for at, text in enumerate(("a good", "film")))
        return [Item(name, "causal_lm", (), plain.encode(t, base.tokenizer)) for t in texts]
    task, found = task_of(name), []
    for at in range(4):
        files = {"audio": folder / f"train{at}.wav", "image": folder / f"train{at}.npy"}
        row = {"id": str(at), "text": "good film", **{k: str(v) for k, v in files.items()}}
        record = task.encode(task.check(row, "row"), base.tokenizer)
        if step is not None:
            record = task.at_step(record, seed=0, step=step)
        record = task.sample(record, np.random.default_rng(0))
        found.append(Item(name, "transcription", (), record))
    return found


@pytest.mark.parametrize("rate", [1, 2, 3, 5])
def test_pooling_is_torch_s_where_the_rate_divides(rate: int) -> None:
    states = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool1d(states.T.unsqueeze(0), rate).squeeze(0).T
    torch.testing.assert_close(pooled(states, rate), expected, rtol=1e-12, atol=1e-12)


def test_a_rest_that_does_not_fill_a_token_is_its_own_mean() -> None:
    states = torch.arange(22.0).view(11, 2)
    found = pooled(states, 4)
    expected = torch.stack([states[:4].mean(0), states[4:8].mean(0), states[8:].mean(0)])
    torch.testing.assert_close(found, expected)


def test_a_prefix_is_the_equation_by_hand(base: Base, folder: Path, model: Model) -> None:
    """Encoder, pooling and projector written out for one row without a batch around it."""
    item = items(base, folder, "hear", step=0)[2]
    (given,) = item.record["given"]
    head = model.expert("hear").head
    assert head is not None
    assert head.encoders is not None
    weights = state_of(head.encoders)

    def own(name: str) -> torch.Tensor:
        return weights[f"encoders.audio.{name}"]

    x = torch.tensor(task_of("hear").readers["audio"].features(Path(given["path"]))).double()
    h = x @ own("weight").T + own("bias")
    # Written as a sum over neighbours.
    kernel = own("layers.0.weight")
    padded = F.pad(h, (0, 0, 2, 2))
    y = sum(padded[k : k + len(h)] @ kernel[:, :, k].T for k in range(5)) + own("layers.0.bias")
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    h = h + F.gelu(y * own("layers.0.norm.weight") + own("layers.0.norm.bias"))
    rate = given["rate"]
    means = torch.stack([h[at : at + rate].mean(0) for at in range(0, len(h), rate)])
    p = {
        name: weights[f"projectors.audio.{name}"]
        for name in ("into", "into_bias", "out", "out_bias")
    }
    expected = torch.relu(means @ p["into"].T + p["into_bias"]) @ p["out"].T + p["out_bias"]
    ids = torch.tensor(item.record["input_ids"])
    held = model.snapshot
    found = held.embed(ids, [("hear", slice(0, 1), places_of([item.record]))])[0]
    start, stop = given["start"], given["start"] + len(expected)
    torch.testing.assert_close(found[start:stop], expected, rtol=1e-9, atol=1e-9)
    table = base.trunk.get_input_embeddings()(ids)[0]
    assert torch.equal(found[:start], table[:start])
    assert torch.equal(found[stop:], table[stop:])


@pytest.mark.parametrize("step", [None, 0, 3])
def test_a_batch_of_all_kinds_answers_as_each_row_alone(
    step: int | None, base: Base, folder: Path, model: Model
) -> None:
    names = (*NAMES, "plain")
    rows = [item for name in names for item in items(base, folder, name, step)]
    together = collate(rows[::-1], 0)
    with torch.no_grad():
        answers = model.snapshot(together)
        for part in together.parts:
            for at, place in enumerate(part.rows):
                item = rows[::-1][place]
                alone = model.snapshot(collate([item], 0))[item.head][0]
                found = answers[item.head][at][: item.length]
                torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)


def test_a_prefix_matters_to_what_is_behind_it(base: Base, folder: Path, model: Model) -> None:
    rows = items(base, folder, "both")
    swapped: Record = {**rows[0].record, "given": [dict(one) for one in rows[0].record["given"]]}
    other = {one["name"]: one for one in rows[3].record["given"]}
    swapped["given"][1] |= {key: other["image"][key] for key in ("path", "stamp")}
    with torch.no_grad():
        before = model.snapshot(collate([rows[0]], 0))["both"]
        after = model.snapshot(collate([Item("both", "transcription", (), swapped)], 0))["both"]
    assert (before - after).abs()[0, -1].max() > 1e-4


def test_encoders_are_shared_by_name_and_settings(base: Base) -> None:
    def made(name: str, shared: Encoders | None = None) -> Encoders:
        own = encoders_for(task_of(name), 32, torch.float64, 0, shared)
        assert own is not None
        return own

    hear = made("hear")
    both = made("both", hear)
    assert both.encoders["audio"] is hear.encoders["audio"]
    assert both.projectors["audio"] is hear.projectors["audio"]
    see = made("see")
    # The same start, whatever is beside it.
    for name, value in state_of(see).items():
        assert torch.equal(value, state_of(both)[name])
    spec = spec_of("hear", encoders={"audio": {"sample_rate": 8000, "width": 8}})
    other = Transcription(TaskSpec.model_validate({"name": "other", **spec}))
    with pytest.raises(ValueError, match=r"task other: .*audio has other settings"):
        encoders_for(other, 32, torch.float64, 0, hear)


def test_tensors_of_other_encoders_are_refused(base: Base) -> None:
    own = encoders_for(task_of("hear"), 32, torch.float64, 0)
    assert own is not None
    state = state_of(own)
    name = "encoders.audio.bias"
    with pytest.raises(ValueError, match="encoders have the tensors"):
        take_state(own, {key: value for key, value in state.items() if key != name})
    with pytest.raises(ValueError, match=r"encoder tensor encoders\.audio\.bias: expected shape"):
        take_state(own, {**state, name: torch.zeros(3)})


def test_rows_without_an_answer_behind_their_prefix_have_no_labels(
    base: Base, folder: Path
) -> None:
    task = task_of("hear")
    row = {"id": "a", "audio": str(folder / "train0.wav"), "text": "good"}
    record = task.encode(task.check(row, "row"), base.tokenizer)
    with pytest.raises(ValueError, match="row 'a' has no answer behind its prefix yet"):
        collate([Item("hear", "transcription", (), record)], 0)


def test_other_trunks_calls_still_read_tokens(base: Base, model: Model) -> None:
    batch = collate(items(base, Path(), "plain"), 0)
    with torch.no_grad():
        assert torch.equal(
            model.snapshot.read(batch), model.snapshot.states(batch.inputs, Route.everywhere())
        )
