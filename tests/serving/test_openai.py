"""OpenAI's own client talks to the server as it is."""

import base64
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from tests.serving.runs import write_run
from tests.serving.served import KEYS, PREDICT, app_of, listening
from weft.answering.generation import Generation
from weft.answering.prediction import predict
from weft.base.loading import load_base
from weft.serving.http.settings import ServerSettings

TOPIC = "sequence_classification"
CHAT = [
    {"role": "system", "content": "be good"},
    {"role": "user", "content": [{"type": "text", "text": "the dog"}]},
]
RENDERED = "system: be good user: the dog assistant: "
SIX = {"max_tokens": 6}


@pytest.fixture(scope="module")
def reading(server: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def writing(writing_server: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{writing_server}/v1", api_key="none", max_retries=0) as client:
        yield client


def offline(folder: Path, text: str, **settings: object) -> str:
    settings = {"max_new_tokens": 6} | settings
    (found,) = predict(folder / "writer", [text], generation=Generation(**settings), device="cpu")
    return found["continuation"]


@pytest.mark.parametrize("model", ["base", TOPIC])
def test_embeddings_are_alike_in_both_forms(model: str, reading: OpenAI, server: str) -> None:
    texts = ["the good dog", "a bad film said the old man"]
    packed = reading.embeddings.create(model=model, input=texts)
    plain = reading.embeddings.create(model=model, input=texts, encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == 32
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 5
    body = {"model": model, "input": texts[0], "encoding_format": "base64"}
    raw = httpx.post(f"{server}/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert struct.unpack("<32f", base64.b64decode(raw)) == pytest.approx(
        plain.data[0].embedding, rel=1e-5
    )


def test_an_expert_has_other_vectors_than_the_base(reading: OpenAI) -> None:
    one, other = (
        reading.embeddings.create(model=name, input="the dog").data[0].embedding
        for name in ("base", TOPIC)
    )
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-3


def test_what_embeddings_cannot_do_is_refused(reading: OpenAI) -> None:
    with pytest.raises(
        openai.UnprocessableEntityError, match="dimensions 8: vectors of this base have 32"
    ):
        reading.embeddings.create(model="base", input="a", dimensions=8)
    assert reading.embeddings.create(model="base", input="a", dimensions=32).data
    with pytest.raises(openai.NotFoundError, match="no expert named 'ada'"):
        reading.embeddings.create(model="ada", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match=r"body\.input"):
        reading.embeddings.create(model="base", input=[[1, 2]])


def test_models_are_experts(reading: OpenAI) -> None:
    names = [model.id for model in reading.models.list()]
    assert names[0] == "base"
    assert TOPIC in names


def test_a_text_is_continued_as_offline(writing: OpenAI, writers_folder: Path) -> None:
    found = writing.completions.create(model="writer", prompt="the good dog", **SIX)
    assert found.choices[0].text == offline(writers_folder, "the good dog")
    assert found.choices[0].finish_reason == "length"
    assert found.object == "text_completion"
    assert found.usage is not None
    assert found.usage.completion_tokens == 6
    several = writing.completions.create(model="writer", prompt=["the good dog", "a film"], **SIX)
    texts = [choice.text for choice in several.choices]
    assert texts == [offline(writers_folder, text) for text in ("the good dog", "a film")]
    other = writing.completions.create(model="other", prompt="the good dog", **SIX)
    assert other.choices[0].text != found.choices[0].text


def test_settings_mean_what_they_mean_offline(writing: OpenAI, writers_folder: Path) -> None:
    drawn = writing.completions.create(
        model="writer", prompt="the good dog", temperature=1.5, top_p=0.9, seed=4, **SIX
    )
    settings = {"sample": True, "temperature": 1.5, "top_p": 0.9, "top_k": 0, "seed": 4}
    assert drawn.choices[0].text == offline(writers_folder, "the good dog", **settings)
    whole = offline(writers_folder, "the good dog")
    stop = whole[2:4]
    cut = writing.completions.create(model="writer", prompt="the good dog", stop=stop, **SIX)
    assert cut.choices[0].text == whole.partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"


def test_a_text_is_streamed_in_pieces(writing: OpenAI, writers_folder: Path) -> None:
    stream = writing.completions.create(
        model="writer",
        prompt=["the good dog", "a film"],
        stream=True,
        stream_options={"include_usage": True},
        **SIX,
    )
    *pieces, last = list(stream)
    texts = ["", ""]
    for piece in pieces:
        (choice,) = piece.choices
        texts[choice.index] += choice.text
    assert texts == [offline(writers_folder, text) for text in ("the good dog", "a film")]
    assert len(pieces) > 2
    assert len({piece.id for piece in pieces}) == 1
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 12


def test_a_chat_is_continued_as_its_template_writes_it(
    writing: OpenAI, writers_folder: Path
) -> None:
    found = writing.chat.completions.create(model="writer", messages=CHAT, max_completion_tokens=6)
    expected = offline(writers_folder, RENDERED)
    assert found.choices[0].message.content == expected
    assert found.choices[0].message.role == "assistant"
    stream = writing.chat.completions.create(model="writer", messages=CHAT, stream=True, **SIX)
    pieces = [piece.choices[0] for piece in stream]
    assert "".join(piece.delta.content or "" for piece in pieces) == expected
    assert [piece.delta.role for piece in pieces] == ["assistant", *([None] * (len(pieces) - 1))]
    assert [piece.finish_reason for piece in pieces][-1] == "length"


def test_a_chat_without_a_template_is_written_line_by_line(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("gpt2")))
    write_run(tmp_path / "writer", base, "causal_lm", 1, targets=["all-linear"])
    body = {"model": "writer", "messages": CHAT, **SIX}
    with listening(app_of(tmp_path)) as url:
        said = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    plain = "system: be good\nuser: the dog\nassistant:"
    assert said["choices"][0]["message"]["content"] == offline(tmp_path, plain)


def test_what_cannot_be_done_is_refused_with_the_reason(writing: OpenAI, reading: OpenAI) -> None:
    def refused(**settings: object) -> str:
        with pytest.raises(openai.UnprocessableEntityError) as error:
            writing.completions.create(**{"model": "writer", "prompt": "the dog", **settings})  # type: ignore[call-overload]
        assert error.value.code
        return error.value.message

    assert "body.n" in refused(n=2)
    assert "body.logprobs" in refused(logprobs=3)
    assert "no field named 'best'" in refused(extra_body={"best": 3})
    assert "1000000 tokens to be written" in refused(max_tokens=1_000_000)
    with pytest.raises(openai.NotFoundError) as missing:
        writing.completions.create(model="nobody", prompt="a", stream=True)
    assert missing.value.code == "unknown_expert"
    with pytest.raises(openai.UnprocessableEntityError, match="causal"):
        reading.completions.create(model=TOPIC, prompt="a")


def test_keys_are_those_of_the_client(shelf_folder: Path) -> None:
    guarded = app_of(shelf_folder, keys=KEYS, settings=ServerSettings(hosts=()))
    with listening(guarded) as url:
        with OpenAI(base_url=f"{url}/v1", api_key=PREDICT) as client:
            assert client.models.list().data
        with (
            OpenAI(base_url=f"{url}/v1", api_key="wrong") as stranger,
            pytest.raises(openai.AuthenticationError, match="nobody has this key"),
        ):
            stranger.models.list()
