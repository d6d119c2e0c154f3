"""The engine answers as `weft predict` does, whoever asks beside."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.runs import INPUTS, Answered, close, write_run
from weft.answering.prediction import predict
from weft.base.loading import Base, load_base
from weft.serving import Engine, Limits, Shelf
from weft.serving.errors import UnknownExpert

KINDS = [kind for kind in INPUTS if kind != "causal_lm"]


@pytest.fixture(scope="module")
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


@pytest.fixture(scope="module")
def runs(bert: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert of every kind, each by its kind's name; never to be changed."""
    folder = tmp_path_factory.mktemp("experts")
    for at, kind in enumerate(KINDS):
        write_run(folder / kind, bert, kind, at)
    return folder


@pytest.fixture(scope="module")
def offline(runs: Path) -> dict[str, Answered]:
    return {kind: predict(runs / kind, INPUTS[kind], device="cpu") for kind in KINDS}


def test_an_expert_asked_alone_answers_bit_for_bit_as_offline(
    runs: Path, offline: dict[str, Answered]
) -> None:
    async def ask() -> dict[str, Answered]:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            found = {}
            for kind in KINDS:
                found[kind] = (await engine.predict(kind, INPUTS[kind])).predictions
            return found

    assert asyncio.run(ask()) == offline


@pytest.mark.parametrize("batch_tokens", [4096, 64])
def test_many_clients_share_batches_and_get_what_offline_says(
    runs: Path, offline: dict[str, Answered], batch_tokens: int
) -> None:
    async def ask() -> tuple[list[tuple[str, Answered]], int]:
        engine = Engine(Shelf(folders=[runs], device="cpu"), Limits(batch_tokens=batch_tokens))

        async def one(kind: str) -> tuple[str, Answered]:
            return kind, (await engine.predict(kind, INPUTS[kind])).predictions

        async with engine:
            found = await asyncio.gather(*(one(kind) for kind in KINDS * 8))
            return found, engine.load().batches

    found, batches = asyncio.run(ask())
    for kind, answers in found:
        assert close(answers, offline[kind]), kind
    if batch_tokens == 4096:
        assert batches < len(found)


def test_a_name_nobody_knows_is_refused_and_leaves_the_rest(runs: Path) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            with pytest.raises(UnknownExpert, match="Did you mean 'span_extraction'"):
                await engine.predict("spans_extraction", ["x"])
            assert (await engine.predict("masked_lm", INPUTS["masked_lm"])).predictions

    asyncio.run(ask())
