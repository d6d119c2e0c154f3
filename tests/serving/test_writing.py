"""Texts written in company: the same as `weft predict` writes alone, whoever joins and leaves meanwhile."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.serving.runs import INPUTS, write_mixture, write_run
from weft.answering.generation import Generation
from weft.answering.prediction import predict
from weft.base.loading import Base, load_base
from weft.model.expert import LM_HEAD
from weft.serving import Engine, Limits, Options, Shelf
from weft.serving.computing.writing import Chunk, Line, Writer
from weft.serving.errors import BadInput, Failed
from weft.serving.streaming import Delta, input_of
from weft.storage.loading import ground_of, load_mixture_model, load_onto

PROMPTS = INPUTS["causal_lm"]
OWN_HEAD = "own-head"
WRITERS = ("w0", "w1", "w2", OWN_HEAD)
HOW = {
    "greedy": Generation(max_new_tokens=12),
    "short": Generation(max_new_tokens=2),
    "drawn": Generation(max_new_tokens=9, sample=True, temperature=2.0, top_k=20, seed=4),
    "two batches": Generation(max_new_tokens=7, sample=True, top_p=0.9, seed=4, batch_size=2),
    "stopped": Generation(max_new_tokens=20, stop=("a", "ook")),
    "without a cache": Generation(max_new_tokens=6, cache=False),
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def base(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder(request.param)))


@pytest.fixture(scope="module")
def runs(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writers on the base's head and one on its own, and an expert of another kind on one decoder."""
    folder = tmp_path_factory.mktemp("writers")
    for at, name in enumerate(WRITERS):
        also = [LM_HEAD] if name == OWN_HEAD else []
        write_run(folder / name, base, "causal_lm", at, train_also=also)
    write_run(folder / "topic", base, "sequence_classification", 9)
    return folder


@pytest.fixture(scope="module")
def offline(runs: Path) -> dict[tuple[str, str], list[Any]]:
    return {
        (name, how): predict(runs / name, PROMPTS, generation=HOW[how], device="cpu")
        for name in WRITERS
        for how in HOW
    }


def test_many_texts_of_many_experts_are_those_of_each_alone(
    runs: Path, offline: dict[tuple[str, str], list[Any]]
) -> None:
    async def ask() -> None:
        engine = Engine(Shelf(folders=[runs], device="cpu"), Limits(sequences=7))

        async def one(name: str, how: str) -> None:
            options = Options(generation=HOW[how])
            found = await engine.predict(name, PROMPTS, options=options)
            assert found.predictions == offline[name, how], (name, how)

        async with engine:
            alone = await engine.predict(
                "w0", PROMPTS[:1], options=Options(generation=HOW["greedy"])
            )
            assert (
                alone.predictions[0]["continuation"] == offline["w0", "greedy"][0]["continuation"]
            )
            await asyncio.gather(
                *(one(name, how) for how in HOW for name in WRITERS),
                engine.predict("topic", ["a good film"]),
            )
            assert engine.load().writing == 0
            greedy = [one(name, how) for how in ("greedy", "stopped", "short") for name in WRITERS]
            before = engine.load().batches
            await asyncio.gather(*greedy)
            written = sum(
                row["tokens"]
                for how in ("greedy", "stopped", "short")
                for name in WRITERS
                for row in offline[name, how]
            )
            # Seven places, full but for the end.
            assert 3 * (engine.load().batches - before) < written

    asyncio.run(ask())


@pytest.mark.parametrize("how", HOW)
def test_streamed_pieces_make_the_text(
    runs: Path, offline: dict[tuple[str, str], list[Any]], how: str
) -> None:
    alone = predict(runs / "w1", PROMPTS[2:], generation=HOW[how], device="cpu")[0]

    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            options = Options(generation=HOW[how])
            told: list[Delta] = []
            async for delta in engine.stream("w1", PROMPTS[2], options=options):
                told.append(delta)
            assert "".join(delta.text for delta in told) == alone["continuation"]
            assert [delta.finish for delta in told[:-1]] == [None] * (len(told) - 1)
            assert told[-1].finish in ("stop", "length")
            assert told[-1].tokens == alone["tokens"]
            if how == "greedy":
                assert len(told) > 3

    asyncio.run(ask())


def test_a_listener_who_leaves_frees_its_place(runs: Path) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu"), Limits(sequences=1)) as engine:
            options = Options(generation=Generation(max_new_tokens=60))
            stream = engine.stream("w0", PROMPTS[2], options=options)
            first = await anext(stream)
            assert first.finish is None
            await stream.aclose()  # type: ignore[attr-defined]
            # With one place, this is written only when the other has gone.
            found = await engine.predict("w1", PROMPTS[:1], options=options)
            assert found.predictions
            assert engine.load().rows == 0
            [resident] = [one for one in engine.shelf.residents if one.name == "w0"]
            assert resident.users == 0

    asyncio.run(ask())


def test_a_flood_of_texts_for_one_expert_leaves_the_next_place_to_another(runs: Path) -> None:
    ended: list[str] = []
    options = Options(generation=Generation(max_new_tokens=4))

    async def one(engine: Engine, name: str) -> None:
        await engine.predict(name, PROMPTS[:1], options=options)
        ended.append(name)

    async def ask() -> None:
        engine = Engine(Shelf(folders=[runs], device="cpu"), Limits(sequences=2))
        tasks = [asyncio.create_task(one(engine, "w0")) for _ in range(40)]
        tasks.append(asyncio.create_task(one(engine, "w1")))
        while engine.load().waiting.keys() != {"w0", "w1"} or engine.load().rows < 41:
            await asyncio.sleep(0)
        async with engine:
            await asyncio.gather(*tasks)

    asyncio.run(ask())
    assert "w1" in ended[:10]


def test_an_expert_that_writes_nothing_streams_nothing(runs: Path) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            with pytest.raises(BadInput, match="writes no text"):
                async for _ in engine.stream("topic", "x"):
                    pass

    asyncio.run(ask())


@pytest.mark.parametrize("method", ["xlora", "meteora"])
def test_a_mixture_writes_as_offline(base: Base, tmp_path: Path, method: str) -> None:
    """X-LoRA reads a pass of its own, so its texts are written in one go; MeteoRA's in company."""
    write_mixture(tmp_path / "mixed", base, ["causal_lm", "sequence_classification"], method)
    write_run(tmp_path / "plain", base, "causal_lm", 3)
    options = Options(generation=HOW["greedy"])
    loaded = load_mixture_model(tmp_path / "mixed", device="cpu").runs["causal_lm"]
    expected = predict(loaded, PROMPTS, generation=HOW["greedy"])
    plain = predict(tmp_path / "plain", PROMPTS, generation=HOW["greedy"], device="cpu")

    async def ask() -> None:
        async with Engine(Shelf(folders=[tmp_path], device="cpu")) as engine:
            both = await asyncio.gather(
                engine.predict("mixed/causal_lm", PROMPTS, options=options),
                engine.predict("plain", PROMPTS, options=options),
            )
            assert [one.predictions for one in both] == [expected, plain]

    asyncio.run(ask())


def test_weighed_writers_write_with_their_weighed_changes(
    runs: Path, offline: dict[tuple[str, str], list[Any]]
) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            options = Options(generation=HOW["greedy"])
            one, other = await asyncio.gather(
                engine.predict({"w0": 1.0, "w1": 0.0}, PROMPTS, options=options),
                engine.predict({"w0": 0.3, "w1": 0.9}, PROMPTS, options=options),
            )
            assert one.predictions == offline["w0", "greedy"]
            assert other.predictions not in (offline["w0", "greedy"], offline["w1", "greedy"])

    asyncio.run(ask())


def test_messages_become_a_prompt_by_the_template_or_line_by_line(base: Base) -> None:
    tokenizer = base.tokenizer
    messages = [{"role": "system", "content": "be good"}, {"role": "user", "content": "hi"}]
    assert input_of(tokenizer, messages) == "system: be good\nuser: hi\nassistant:"
    with pytest.raises(BadInput, match="message 0"):
        input_of(tokenizer, [{"role": "user"}])
    with pytest.raises(BadInput, match="no message"):
        input_of(tokenizer, [])


def test_a_failed_step_refuses_its_texts_and_the_engine_goes_on(runs: Path) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            options = Options(generation=Generation(max_new_tokens=60))
            stream = engine.stream("w0", PROMPTS[2], options=options)
            await anext(stream)
            writer = engine._scheduler.writer(engine.shelf.ground)
            # What a machine without memory leaves behind: a cache that no forward can go on with.
            # In the thread that steps, between two steps: one under way would write its own mask over it.
            empty = torch.zeros(0, 0, dtype=torch.long)
            thread = engine._scheduler._forward
            await asyncio.get_running_loop().run_in_executor(
                thread, setattr, writer, "_mask", empty
            )
            with pytest.raises(Failed, match="the forward pass failed"):
                async for _ in stream:
                    pass
            found = await engine.predict("w1", PROMPTS[:1], options=options)
            assert found.predictions

    asyncio.run(ask())


def test_who_has_written_holds_no_expert(base: Base, runs: Path) -> None:
    ground = ground_of(runs / "w0", device="cpu")
    names = [load_onto(runs / name, ground, name=name).name for name in WRITERS]
    writer, held = Writer(ground), ground.model.snapshot
    how = Generation(max_new_tokens=3)
    lines = [Line(name, (name,), [5, 6, 7], how) for name in names]
    with torch.inference_mode():
        writer.join(held, [Chunk([line]) for line in lines], ground)
        term = weakref.ref(next(iter(held.resident("w0").woven.terms.values())))
        while writer.count:
            writer.step(held)
        writer.step(held)
    ground.model.change(remove=names)
    del held
    gc.collect()
    assert term() is None
