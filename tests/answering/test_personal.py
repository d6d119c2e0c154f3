"""A user's expert answers by its user's name, in Python, on the command line and as an export."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

import weft
from tests.training.test_personal import READERS, Settings, data_of, rows_of, run_of_readers
from weft.cli import app
from weft.runs import RunFolder
from weft.storage.personal.experts import layout_of, new_expert, read_expert, stored
from weft.storage.personal.users import Index, Trained, Users, write_users
from weft.training.loop import train

__all__ = ["run_of_readers"]

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXTS = ["the cat of house", "good film", "the book and the bad dog of city"]


@pytest.fixture
def folder(run_of_readers: Settings, tmp_path: Path) -> RunFolder:
    return train(run_of_readers(), out=tmp_path / "words", data=data_of(*READERS))


def shares(found: list[Any]) -> torch.Tensor:
    return torch.tensor([list(one["probabilities"].values()) for one in found])


def test_a_user_is_answered_by_population_and_own_factors_and_a_stranger_by_the_population(
    folder: RunFolder,
) -> None:
    model = weft.load(folder.path, device="cpu")
    population = model.predict(TEXTS)
    shown = model.model
    ann, bob = (model.user(user).predict(TEXTS) for user in ("ann", "bob"))
    assert ann != bob
    assert model.user("nobody").predict(TEXTS) == population
    assert model.user("nobody").loaded().user is None
    assert weft.predict(folder.path, TEXTS, user="nobody", device="cpu") == population
    assert weft.predict(folder.path, TEXTS, user="ann", device="cpu") == ann
    # What answers is what was stored, head and all.
    for user in ("ann", "bob"):
        expert, kept = shown.expert(f"words@{user}"), Users(folder.path).tensors(user)
        held = stored(expert, own_head=True)
        assert held.keys() == kept.keys()
        assert all(torch.equal(held[name], kept[name]) for name in kept)
    # The equation, map by map: W0 + population's B A + the user's.
    own = model.user("ann").loaded()
    assert own.members == ("words", "words@ann")
    trunk = shown.merged("words")
    with torch.no_grad():
        for module, adapter in shown.expert("words@ann").adapters.items():
            weight = trunk.get_submodule(module).get_parameter("weight")
            weight += adapter.delta(weight)
        batch = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
        states = trunk(**batch).last_hidden_state
        head = shown.snapshot.head("words@ann")
        logits = head(states, batch["attention_mask"], (1,) * len(TEXTS), batch["input_ids"])
    # float32 through two layers of width 32.
    torch.testing.assert_close(shares(ann), logits.softmax(-1), atol=2e-6, rtol=0)
    # Many users in one batch say what each says alone.
    rows = [{**row, "id": str(at)} for at, row in enumerate(rows_of(*READERS, start=40))]
    together = weft.evaluate(folder.path, data={"validation": rows}, device="cpu", save=False)
    assert not isinstance(together, list)
    for user in READERS:
        alone = weft.evaluate(
            folder.path, data={"validation": rows}, device="cpu", save=False, user=user
        )
        assert not isinstance(alone, list)
        theirs = [
            said
            for said, row in zip(together.predictions, rows, strict=True)
            if row["reader"] == user
        ]
        torch.testing.assert_close(shares(theirs), shares(alone.predictions), atol=2e-6, rtol=0)


def test_an_export_is_the_exact_sum_and_opens_in_peft(folder: RunFolder, tmp_path: Path) -> None:
    weft.export(folder.path, tmp_path / "ann", user="ann")
    model = weft.load(folder.path, device="cpu")
    said = model.user("ann").predict(TEXTS)
    plain = AutoModelForSequenceClassification.from_pretrained(folder.run.base, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path / "ann")).eval()
    config = json.loads((tmp_path / "ann" / "adapter_config.json").read_text())
    assert config["r"] == 4  # 2 of the population and 2 of her own
    batch = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**batch).logits
    torch.testing.assert_close(shares(said), logits.softmax(-1), atol=2e-6, rtol=0)
    with pytest.raises(KeyError, match=r"no user named 'anne'"):
        weft.export(folder.path, tmp_path / "anne", user="anne")


def test_commands_work_by_user(folder: RunFolder) -> None:
    def say(*words: str) -> Any:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    run = str(folder.path)
    listed = say("list", "users", run, "--json")
    assert [(one["user"], one["rows"]) for one in listed] == [(user, 8) for user in sorted(READERS)]
    page = say("show", "user", f"{run}@bob", "--json")
    assert (page["user"], page["rank"], page["speaks"]) == ("bob", 2, "with the population")
    found = say("predict", run, TEXTS[0], "--user", "bob", "--json")
    assert found["label"] == weft.predict(folder.path, TEXTS[:1], user="bob")[0]["label"]


def test_five_thousand_users_are_listed_in_a_second_and_one_is_read_as_fast_as_one_of_three(
    folder: RunFolder, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    shutil.copytree(folder.path, big)
    model = weft.load(big, device="cpu")
    population = model.model.expert("words")
    settings = folder.run.personal
    sample = new_expert(
        "", population, model.base, settings, head=population.head, generator=torch.Generator()
    )
    layout = layout_of(sample, own_head=True)
    users = {f"user {at}": Trained(1, 1, 0.0, 0.0) for at in range(5000)}
    index = Index(2, 4.0, "own", True, layout, users)
    write_users(big, index, {user: torch.rand(index.numbers) for user in users})
    began = time.process_time()
    assert len(Users(big).names) == 5000
    assert time.process_time() - began < 1
    few = tmp_path / "few"
    shutil.copytree(folder.path, few)
    write_users(
        few,
        replace(index, users=dict(list(users.items())[:3])),
        {u: torch.rand(index.numbers) for u in list(users)[:3]},
    )
    both = [Users(big), Users(few)]
    times: list[list[float]] = [[], []]
    for at in range(51):
        for own, read in zip(times, both, strict=True):
            began = time.process_time()
            # The header is read once, at the first.
            expert = read_expert(read, f"user {at % 3}", population, f"{at} of {len(read)}")
            model.model.add(expert)
            own.append(time.process_time() - began)
    of_many, of_few = (sorted(own)[25] for own in times)
    # How many others there are costs nothing: milliseconds, and beside each other since machines differ.
    assert of_many < 3 * of_few
