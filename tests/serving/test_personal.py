"""Users' experts are served by name, `RUN@USER`, many in one batch; strangers get the population's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from tests.training.test_personal import READERS, Settings, data_of, run_of_readers
from weft.serving import Engine, Room, Shelf
from weft.serving.errors import NameRefused, UnknownExpert
from weft.serving.names import checked, owner
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
