"""Chats: messages as the tokenizer's own template writes them, and which of that text the assistant says.

Templates are programs of a checkpoint's tokenizer; transformers renders them in a sandbox. A template that marks the
assistant's words (`{% generation %}`) is asked. Of any other, a turn's place is found by what changes in the text when
only that turn's words do: the template is written to twice, with two texts that differ in their first and their last
letter, and lies around what both have in common. So nothing is assumed of how a template looks.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft.tasks.text import encoding_of, valid_text

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, str]
"""`role` and `content`."""
Prompt = str | Sequence[Message]
"""What is answered: a text that is gone on from, or messages."""

ASSISTANT = "assistant"
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBES = ("a0y", "b1z")
"""Words that a turn is given to find its place; no template cuts letters off."""


def checked_messages(value: Any, where: str) -> list[dict[str, str]]:
    """Messages as texts `role` and `content`, in order; keys that hold nothing are let be.

    Raises:
        ValueError: If they are no list of such, or hold more than text; starts with `where`.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: 'messages' must be a list of messages, got {value!r:.80}")
    if not value:
        raise ValueError(f"{where}: no message; give one at least")
    found = []
    for at, message in enumerate(value):
        name = f"{where}: message {at}"
        if not isinstance(message, Mapping):
            raise ValueError(
                f"{name}: expected an object with 'role' and 'content', got {message!r:.80}"
            )
        more = [key for key in message if key not in ("role", "content") and message[key]]
        if more:
            raise ValueError(
                f"{name} holds {more[0]!r:.80} beside 'role' and 'content'; only texts are read"
            )
        role = valid_text(message.get("role"), "'role'", name)
        content = message.get("content")
        if content != "":
            content = valid_text(content, "'content'", name)
        found.append({"role": role, "content": content})
    return found


def prompt_of(example: Mapping[str, Any]) -> Prompt:
    """What of a checked row is answered; an answer that it has at its end is left out."""
    if "messages" in example:
        messages = example["messages"]
        ends = messages[-1]["role"] == ASSISTANT and len(messages) > 1
        return messages[:-1] if ends else messages
    return example["prompt"] if "prompt" in example else example["text"]


def prompt_encoding(tokenizer: "PreTrainedTokenizerFast", prompt: Prompt, row: str) -> "Encoding":
    """All tokens of a prompt, those of messages as the template makes them, with what asks for an answer.

    Raises:
        ValueError: If the tokenizer has no template, or it refuses the messages.
    """
    if isinstance(prompt, str):
        return encoding_of(tokenizer, prompt)
    # The template writes the special tokens itself, the first one too.
    return encoding_of(tokenizer, rendered(tokenizer, prompt, row, answer=True), special=False)


def rendered(
    tokenizer: "PreTrainedTokenizerFast",
    messages: Sequence[Message],
    row: str,
    *,
    answer: bool = False,
) -> str:
    """Messages as the tokenizer's chat template writes them.

    Args:
        tokenizer: Has the template.
        messages: In order.
        row: What errors call them.
        answer: Whether the text ends with what an answer follows on (`add_generation_prompt`).

    Raises:
        ValueError: If it has none, or refuses them.
    """
    from jinja2 import TemplateError  # with transformers' rendering; only chats need it

    if not tokenizer.chat_template:
        raise ValueError(
            f"{row} holds messages, but the base's tokenizer has no chat template; take a base that was made to chat "
            "(`weft list bases`), or save its tokenizer with a `chat_template`"
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=answer,
            )
        )
    except (TemplateError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"{row}: the tokenizer's chat template refuses messages of {roles:.80}: {error}"
        ) from error


def chat_encoding(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], row: str
) -> tuple["Encoding", list[bool], str]:
    """All tokens of a chat, whether each is the assistant's, and the text that they are of.

    The assistant's are what it writes when asked: from behind what the template ends with when it waits for an answer
    (`add_generation_prompt`, where it heeds that), its words, and the token that ends its turn, without white space
    behind that. A token that begins before the words and reaches into them is counted as theirs.

    Raises:
        ValueError: If the assistant says nothing, the tokenizer has no template, or it cannot be told what of its
            text is whose.
    """
    if not any(message["role"] == ASSISTANT and message["content"] for message in messages):
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"{row}: the chat has no assistant's turn to learn from, its roles are {roles:.80}; give one, or leave the "
            "row out"
        )
    text = rendered(tokenizer, messages, row)
    if _marks(tokenizer):
        spans = _marked(tokenizer, messages)
    else:
        turns = [
            at
            for at, one in enumerate(messages)
            if one["role"] == ASSISTANT and one["content"].strip()
        ]
        spans = [_span(tokenizer, messages, at, text, row) for at in turns]
    encoding = encoding_of(tokenizer, text, special=False)
    own = [
        any(start < stop and start < end and first < stop for first, end in spans)
        for start, stop in encoding.offsets
    ]
    if not any(own):
        raise ValueError(f"{row}: no token of the chat is the assistant's; its turns are empty")
    return encoding, own, text


def _marks(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether the template says itself which words are the assistant's."""
    return _MARK.search(tokenizer.get_chat_template()) is not None


def _marked(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message]
) -> list[tuple[int, int]]:
    """Where the template's own marks are, in characters."""
    from transformers.utils.chat_template_utils import render_jinja_template

    special: dict[str, Any] = dict(tokenizer.special_tokens_map)
    rendering: Any = render_jinja_template(
        conversations=[[dict(message) for message in messages]],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **special,
    )
    _, marks = rendering
    return [(start, end) for start, end in marks[0]]


def _span(
    tokenizer: "PreTrainedTokenizerFast",
    messages: Sequence[Message],
    at: int,
    text: str,
    row: str,
) -> tuple[int, int]:
    """From where to where, in characters of `text`, one of the assistant's turns is said."""
    one, two = (
        rendered(
            tokenizer,
            [*messages[:at], {**messages[at], "content": probe}, *messages[at + 1 :]],
            row,
        )
        for probe in _PROBES
    )
    start = _common(one, two)
    behind = _common(one[::-1], two[::-1])
    end = len(text) - behind
    # Both hold the template's text around the turn; so must the chat itself.
    if start > end or text[:start] != one[:start] or text[end:] != one[len(one) - behind :]:
        raise ValueError(
            f"{row}: the tokenizer's chat template writes what is around message {at} otherwise once its words change, "
            "so it cannot be told which tokens are the assistant's; mark them in the template with "
            "{% generation %} ... {% endgeneration %}"
        )
    before = messages[:at]
    if before:
        waiting = rendered(tokenizer, before, row, answer=True)
        if (
            text.startswith(waiting)
            and len(waiting) <= start
            and waiting != rendered(tokenizer, before, row)
        ):
            start = len(waiting)
    return start, _turn_end(tokenizer, text, end)


def _turn_end(tokenizer: "PreTrainedTokenizerFast", text: str, end: int) -> int:
    """Behind the special token that ends a turn whose words end at `end`; there, where none follows."""
    rest = text[end:]
    space = len(rest) - len(rest.lstrip())
    ends = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if rest[space:].startswith(token.content)
    ]
    return end + space + len(max(ends, key=len)) if ends else end


def _common(one: str, two: str) -> int:
    """Characters that two texts begin with alike."""
    for at, (left, right) in enumerate(zip(one, two, strict=False)):
        if left != right:
            return at
    return min(len(one), len(two))
