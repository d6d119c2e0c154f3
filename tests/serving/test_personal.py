"""Users' experts are served by name, `RUN@USER`, many in one batch; strangers get the population's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from tests.training.test_personal import READERS, Settings, data_of, run_of_readers
from weft.model.expert import factors_of
from weft.model.factoring import added
from weft.serving import Engine, Room, Shelf
from weft.serving.errors import NameRefused, UnknownExpert
from weft.serving.names import checked, owner
from weft.storage.experts import load_expert
from weft.storage.loading import ground_of, load_user_onto
from weft.storage.personal.experts import read_expert
from weft.storage.personal.users import Users
from weft.system import exchange
from weft.training.loop import train

__all__ = ["run_of_readers"]

TEXTS = ["the cat of house", "good film"]


def shares(found: Any) -> torch.Tensor:
    return torch.tensor([list(one["probabilities"].values()) for one in found])


def test_users_are_answered_side_by_side_and_as_offline(
    run_of_readers: Settings, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    folder = train(run_of_readers(), out=runs / "words", data=data_of(*READERS))
    offline = {user: weft.predict(folder.path, TEXTS, user=user, device="cpu") for user in READERS}
    offline["nobody"] = weft.predict(folder.path, TEXTS, device="cpu")

    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], room=Room(experts=4), device="cpu")) as engine:
            names = [*READERS, "nobody"]
            found = await asyncio.gather(
                *(engine.predict(f"words@{user}", TEXTS) for user in names)
            )
            for user, answered in zip(names, found, strict=True):
                # float32; ranks of both are one product here and two offline.
                torch.testing.assert_close(
                    shares(answered.predictions), shares(offline[user]), atol=2e-6, rtol=0
                )
            said = {user: answered.expert for user, answered in zip(names, found, strict=True)}
            # Who answers is said: of a stranger, the population.
            assert said == {**{user: f"words@{user}" for user in READERS}, "nobody": "words"}
            assert len({answered.version for answered in found}) == 4
            assert [entry.name for entry in await engine.experts()] == ["words"]
            await engine.remove("words")
            with pytest.raises(UnknownExpert):
                await engine.predict("words@ann", TEXTS)
            assert engine.load().residents == 0

    asyncio.run(ask())


def test_names_of_users_are_looked_up_and_never_paths() -> None:
    assert checked("words@ann o'neill/../x") == ("words@ann o'neill/../x", None)
    assert owner("words@a@b") == ("words", "a@b")
    for name in (
        "words@",
        "@ann",
        "words/task@ann",
        "words@\x00",
        "words@" + "a" * 129,
        "../x@ann",
    ):
        with pytest.raises(NameRefused):
            checked(name)


@pytest.mark.parametrize("experts", ["shared+personal", "personal"])
def test_a_served_user_has_the_factors_of_both_one_under_the_other(
    run_of_readers: Settings, tmp_path: Path, experts: str
) -> None:
    folder = train(run_of_readers(experts=experts), out=tmp_path / "words", data=data_of(*READERS))
    ground = ground_of(folder.path, device="cpu")
    for user in READERS:
        load_user_onto(folder.path, ground, user, name=user)
        population, _ = load_expert(folder.expert, ground.model.base)
        own = read_expert(Users(folder.path), user, population)
        owners = [population, own] if experts == "shared+personal" else [own]
        expected = added("expected", owners, own.head, ground.model.trunk)
        found = ground.model.expert(user)
        for name, pair in factors_of(expected, ground.model.trunk).items():
            held = found.adapters[name].factors(torch.empty(0))
            assert all(torch.equal(one, two) for one, two in zip(held, pair, strict=True)), name
        assert found.head is not None
        assert own.head is not None
        assert all(
            torch.equal(value, own.head.state()[name]) for name, value in found.head.state().items()
        )
    # What its users have in common was read once.
    assert list(ground.populations) == [folder.path]


def test_users_that_were_trained_anew_answer_as_they_are_now(
    run_of_readers: Settings, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    folder = train(run_of_readers(), out=runs / "words", data=data_of(*READERS))
    other = train(run_of_readers(seed=5), out=tmp_path / "other", data=data_of(*READERS))
    before = weft.predict(folder.path, TEXTS, user="ann", device="cpu")
    after = weft.predict(other.path, TEXTS, user="ann", device="cpu")
    assert not torch.allclose(shares(before), shares(after), atol=1e-3)

    async def ask() -> None:
        # Room for one expert: every other user asked for is read from the disk.
        async with Engine(Shelf(folders=[runs], room=Room(experts=1), device="cpu")) as engine:
            first = await engine.predict("words@ann", TEXTS)
            torch.testing.assert_close(shares(first.predictions), shares(before), atol=2e-6, rtol=0)
            assert exchange(folder.path, other.path)
            await engine.predict("words@bob", TEXTS)
            again = await engine.predict("words@ann", TEXTS)
            torch.testing.assert_close(shares(again.predictions), shares(after), atol=2e-6, rtol=0)
            assert again.version != first.version

    asyncio.run(ask())
