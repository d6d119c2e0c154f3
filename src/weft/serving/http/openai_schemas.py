"""OpenAI's shapes, as far as experts on one base can fill them. What cannot be done is refused, not passed over."""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from weft.answering.generation import Generation
from weft.serving.errors import BadInput
from weft.serving.http.schemas import Body, Name, Whole, integral
from weft.serving.settings import Options

Text = Annotated[str, Field(min_length=1)]
One = Annotated[Literal[1], BeforeValidator(integral)]
Zero = Annotated[Literal[0], BeforeValidator(integral)]


class EmbeddingRequest(Body):
    """Texts to be turned into vectors."""

    model: Name
    """An expert, or `base`: the bare base."""
    input: Text | Annotated[list[Text], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    """base64: 32-bit little-endian floats."""
    dimensions: Whole | None = Field(default=None, ge=1)
    """Has to be the base's own; vectors are not cut."""
    user: str | None = None
    """Of no effect."""


class Vector(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Vector]
    model: str
    usage: EmbeddingUsage


class StreamOptions(Body):
    include_usage: bool = False
    """One more piece at the end, with the numbers of tokens."""
    include_obfuscation: Literal[False] = False


class Writing(Body):
    """What completions and chats have in common."""

    model: Name
    """An expert whose kind is causal_lm."""
    max_tokens: Whole | None = Field(default=None, ge=1)
    """64 if it is not said."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0, or null: the most probable token each time; above it tokens are drawn."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Whole | None = Field(default=None, ge=0)
    """Not OpenAI's: draw from so many; 0 is all."""
    seed: Whole | None = Field(default=None, ge=0, lt=2**63)
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: One | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    user: str | None = None
    """Of no effect."""

    @property
    def most(self) -> int | None:
        """Longest continuation that is asked for."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def of_engine(self) -> Options:
        """The same as the engine takes it."""
        heat = self.temperature or 0.0
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        given: dict[str, Any] = {"max_new_tokens": self.most, "seed": self.seed}
        if heat > 0:
            given |= {"sample": True, "temperature": heat, "top_p": self.top_p}
            # OpenAI's draw from all tokens.
            given["top_k"] = 0 if self.top_k is None else self.top_k
        given = {name: value for name, value in given.items() if value is not None}
        return Options(generation=Generation(**given, stop=stop))


class CompletionRequest(Writing):
    """A text to be continued."""

    prompt: Text | Annotated[list[Text], Field(min_length=1)]
    echo: Literal[False] | None = None
    best_of: One | None = None
    logprobs: None = None
    suffix: None = None


class TextPart(Body):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        return {"role": self.role, "content": "".join(parts)}


class ChatRequest(Writing):
    """A conversation to be continued."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Whole | None = Field(default=None, ge=1)
    logprobs: Literal[False] | None = None

    @property
    def most(self) -> int | None:
        """Longest continuation that is asked for, in the new name of it or the old."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


Ended = Literal["stop", "length"]


class CompletionChoice(BaseModel):
    index: int
    text: str
    finish_reason: Ended | None
    logprobs: None = None


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ChatAnswer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    index: int
    message: ChatAnswer
    finish_reason: Ended | None
    logprobs: None = None


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["weft"] = "weft"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


def packed(vector: Sequence[float]) -> str:
    """A vector in base64, as OpenAI's clients unpack it: 32-bit little-endian floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def check_dimensions(asked: int | None, has: int) -> None:
    """Refuse vectors of another length.

    Raises:
        BadInput: If another is asked for.
    """
    if asked is not None and asked != has:
        raise BadInput(f"dimensions {asked}: vectors of this base have {has}; leave it away")
