"""Chats: what the assistant says is learnt, to the token, whatever the template looks like."""

from collections.abc import Callable

import pytest
from transformers import AddedToken, PreTrainedTokenizerFast

from weft.tasks.chat import prompt_encoding, prompt_of
from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As of Llama 2: the system's words inside the first user's, an answer between its spaces, turns begun and ended.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
    "{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
HEADINGS = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\n' + message['content'] | trim + '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
# As of Qwen 3: an empty thought before the last answer, which the model has to write itself; none before others.
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CHAT = [
    {"role": "system", "content": "be good"},
    {"role": "user", "content": "who has the small city?"},
    {"role": "assistant", "content": "he has"},
    {"role": "user", "content": "he has"},
    {"role": "assistant", "content": " the\n\u00e9 city "},
]


def chatml(before_last: str = "") -> list[tuple[str, bool]]:
    """The pieces of the chat by hand, and whether each is the assistant's."""
    return [
        ("<|im_start|>system\nbe good<|im_end|>\n", False),
        ("<|im_start|>user\nwho has the small city?<|im_end|>\n<|im_start|>assistant\n", False),
        ("he has<|im_end|>", True),
        ("\n<|im_start|>user\nhe has<|im_end|>\n<|im_start|>assistant\n", False),
        (before_last + " the\n\u00e9 city <|im_end|>", True),
        ("\n", False),
    ]


BY_HAND = {
    "chatml": (CHATML, chatml()),
    "marked": (MARKED, chatml()),
    "thinking": (THINKING, chatml("<think>\n\n</think>\n\n")),
    "llama2": (
        LLAMA2,
        [
            ("<s>[INST] <<SYS>>\nbe good\n<</SYS>>\n\nwho has the small city? [/INST] ", False),
            ("he has </s>", True),
            ("<s>[INST] he has [/INST] ", False),
            ("the\n\u00e9 city </s>", True),
        ],
    ),
    "headings": (
        HEADINGS,
        [
            (
                "### system:\nbe good\n\n### user:\nwho has the small city?\n\n### assistant:\n",
                False,
            ),
            ("he has", True),
            ("\n\n### user:\nhe has\n\n### assistant:\n", False),
            ("the\n\u00e9 city", True),
            ("\n\n", False),
        ],
    ),
}


@pytest.fixture
def chatty(
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
) -> Callable[[str], PreTrainedTokenizerFast]:
    """A tokenizer with a template; it puts <s> before texts, which templates write themselves."""

    def made(template: str) -> PreTrainedTokenizerFast:
        tokenizer = tokenizer_of("llama")
        marks = [AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")]
        tokenizer.add_tokens(marks, special_tokens=True)
        tokenizer.chat_template = template
        return tokenizer

    return made


def task_of(**spec: object) -> Task:
    full = TaskSpec.model_validate({"name": "tried", "kind": "causal_lm", **spec})
    return kinds.load("causal_lm")(full)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_assistants_tokens_alone_are_learnt(
    name: str, chatty: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    template, pieces = BY_HAND[name]
    tokenizer, task = chatty(template), task_of(max_length=256)
    text = "".join(piece for piece, _ in pieces)
    own = [is_own for piece, is_own in pieces for _ in piece]
    plain = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    expected = [
        token if any(own[start:stop]) else -100
        for token, (start, stop) in zip(plain["input_ids"], plain["offset_mapping"], strict=True)
    ]
    example = task.check({"id": "a", "messages": CHAT}, "r")
    record = task.encode(example, tokenizer)
    assert record["input_ids"] == [plain["input_ids"]]
    assert record["labels"] == [expected]
    special = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    said = {
        at
        for label, (start, stop) in zip(expected, plain["offset_mapping"], strict=True)
        if label not in (-100, *special)
        for at in range(start, stop)
    }
    assert record["num_bytes"] == [len("".join(text[at] for at in sorted(said)).encode())]


@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_learnt_follows_on_what_asks_for_it(
    name: str, chatty: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    tokenizer, task = chatty(BY_HAND[name][0]), task_of(max_length=256)
    example = task.check({"id": "a", "messages": CHAT}, "r")
    record = task.encode(example, tokenizer)
    asked = prompt_encoding(tokenizer, prompt_of(example), "r").ids
    assert record["input_ids"][0][: len(asked)] == asked
    learnt = [at for at, label in enumerate(record["labels"][0]) if label != -100]
    assert len(asked) in learnt
    assert len(asked) - 1 not in learnt


def test_a_prompt_is_given_and_its_completion_learnt_to_the_end(
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    tokenizer, task = tokenizer_of("llama"), task_of()
    example = task.check({"id": "a", "prompt": "the good", "completion": " city has"}, "r")
    record = task.encode(example, tokenizer)
    ids = tokenizer("the good city has</s>")["input_ids"]
    first = len(tokenizer("the good")["input_ids"])
    assert record["input_ids"] == [ids]
    assert record["labels"] == [[-100] * first + ids[first:]]
    assert record["labels"][0][-1] == tokenizer.eos_token_id
    assert record["num_bytes"] == [len(" city has")]
    assert prompt_of(example) == "the good"


@pytest.mark.parametrize(
    ("row", "template", "said"),
    [
        ({"messages": CHAT[:2]}, CHATML, "no assistant's turn"),
        ({"messages": [*CHAT[:2], {"role": "assistant", "content": ""}]}, CHATML, "no assistant's"),
        ({"messages": CHAT}, None, "no chat template"),
        ({"messages": [CHAT[0], CHAT[2]]}, LLAMA2, "roles must alternate"),
        ({"prompt": "the"}, None, "no completion"),
    ],
)
def test_rows_with_nothing_to_learn_are_refused(
    row: dict, template: str | None, said: str, chatty: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    task = task_of(max_length=256)
    with pytest.raises(ValueError, match=f"row 'a'.*{said}"):
        task.encode(task.check({"id": "a", **row}, "r"), chatty(template))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("hi", "must be a list"),
        ([], "no message"),
        (["hi"], "message 0: expected an object"),
        ([{"role": "user"}], "message 0: 'content' must be text"),
        ([{"from": "user", "value": "hi"}], "holds 'from'"),
        ([{**CHAT[1], "tool_calls": [{}]}], "holds 'tool_calls'"),
    ],
)
def test_messages_of_another_form_are_refused(messages: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^file:3.*{said}"):
        task_of().check({"id": "a", "messages": messages}, "file:3")


def test_a_long_chat_is_refused_or_cut_and_never_to_nothing(
    chatty: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    tokenizer = chatty(CHATML)
    full = task_of(max_length=256)
    example = full.check({"id": "a", "messages": CHAT}, "r")
    whole = full.encode(example, tokenizer)
    size = len(whole["input_ids"][0])
    with pytest.raises(ValueError, match="raise max_length"):
        task_of(max_length=size - 1).encode(example, tokenizer)
    cut = task_of(max_length=size - 4, truncate=True).encode(example, tokenizer)
    assert cut["input_ids"][0] == whole["input_ids"][0][: size - 4]
    assert cut["labels"][0] == whole["labels"][0][: size - 4]
    with pytest.raises(ValueError, match="cuts off all"):
        task_of(max_length=8, truncate=True).encode(example, tokenizer)
