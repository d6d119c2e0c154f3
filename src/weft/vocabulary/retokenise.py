"""`weft.retokenise`: a copy of a decoder with another tokenizer, its embeddings translated token by token.

The copy is an ordinary base folder: `base: DIR`, and transformers opens it. Everything but input and output embeddings
is the base's, bit for bit. It is where training for another language starts, not a better model: until it has been
trained, its new tokens are means of old ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from weft.atomic import atomic_folder
from weft.base.digest import checkpoint_digest
from weft.base.forms import brief, check_form, quiet_transformers, read_config
from weft.base.loading import load_base, load_tokenizer
from weft.base.locate import checkpoint_files, config_file, locate
from weft.model.heads import kind_of
from weft.scoped import tell
from weft.tasks.language.pieces import pieces_of
from weft.vocabulary.record import CorpusFile, Retokenised, write_record
from weft.vocabulary.training import check_size, read_corpus, trained
from weft.vocabulary.translation import Translation, special_tokens, translation


def retokenise(
    base: str,
    out: str | Path,
    *,
    corpus: Sequence[str | Path] = (),
    size: int | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
) -> Path:
    """Write a copy of a decoder that has another tokenizer, with `retokenised.json`.

    Args:
        base: An alias, a hub id, a folder or a GGUF file.
        out: The folder to write; must not exist. A run trains on it by `base: OUT`.
        corpus: Plain-text files, a sentence or a paragraph a line, that a tokenizer of the base's make is trained on.
        size: Its tokens, special ones and the alphabet included; a small corpus has fewer.
        tokenizer: A folder with a `tokenizer.json` to take instead.
        revision: Branch, tag or commit; for bases on the hub only.

    Returns:
        `out`.

    Raises:
        KeyError: If `base` is no alias and looks like neither a folder nor a hub id.
        ValueError: If `out` exists; settings do not go together; the corpus is empty; `size` is smaller than the
            alphabet; the base is no decoder, or its embeddings do not fit its own tokenizer.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another folder, or remove it")
    if (tokenizer is None) == (size is None) or bool(corpus) != (tokenizer is None):
        raise ValueError(
            "say which tokenizer: a corpus and a size to train one, or a tokenizer's folder; not both"
        )
    lines, files = read_corpus(corpus) if tokenizer is None else ([], [])
    folder, source, revision = locate(base, revision)
    config = read_config(config_file(folder))
    check_form(config, base)
    if not kind_of("causal_lm").fits(config):
        raise ValueError(
            f"{base} ({config.model_type}) is no decoder, and embeddings are translated for causal language models "
            "alone; take a decoder"
        )
    weights, old = checkpoint_files(folder), load_tokenizer(folder)
    if size is not None:
        check_size(old, size)
    new = (
        load_tokenizer(Path(tokenizer)) if tokenizer is not None else trained(old, lines, size or 0)
    )
    made = translation(new, old)
    model = _loaded(folder, weights)
    tied = replace_embeddings(model, made, base)
    _renumber(model, new, old)
    record = Retokenised(
        base=base,
        source=source,
        revision=revision,
        base_digest=checkpoint_digest(weights),
        tokenizer=None if tokenizer is None else str(tokenizer),
        size=size,
        corpus=files,
        tokens_before=len(old),
        tokens=len(new),
        tied=tied,
        copied=made.copied,
        averaged=made.averaged,
        unknown=made.missing,
        tokens_per_byte_before=_per_byte(old, lines),
        tokens_per_byte=_per_byte(new, lines),
        notes=_notes(new, old, size, files),
    )
    with atomic_folder(out) as draft:
        tell("writing the checkpoint")
        with quiet_transformers():
            model.save_pretrained(draft)
        new.save_pretrained(draft)
        write_record(record, draft)
        # What is no base is not left behind.
        load_base(str(draft), dtype=torch.bfloat16)
    return out


def replace_embeddings(model: PreTrainedModel, made: Translation, name: str) -> bool:
    """Give a model the translated rows in place of its own; whether input and output embeddings are one.

    Args:
        model: With a head of its own.
        made: Of as many tokens as it is to have.
        name: What errors call it.

    Raises:
        ValueError: If the tokenizer that was translated from numbers tokens that the model has no row of.
    """
    inputs, outputs = _embeddings(model)
    old_in = inputs.weight.detach().clone()
    highest = max((max(own) for own in made.weights if own), default=0)
    if highest >= len(old_in):
        raise ValueError(
            f"{name}: its tokenizer numbers a token {highest}, but its embedding has {len(old_in)} rows: they do not "
            "belong together; enlarge the base with transformers (model.resize_token_embeddings, then "
            "save_pretrained), or take the tokenizer that it was trained with"
        )
    tied = outputs is None or outputs.weight is inputs.weight
    old_out = None if tied or outputs is None else outputs.weight.detach().clone()
    bias = getattr(outputs, "bias", None)
    old_bias: Tensor | None = None if bias is None else bias.detach().clone()
    with quiet_transformers():
        model.resize_token_embeddings(len(made.weights), mean_resizing=False)
    inputs, outputs = _embeddings(model)
    with torch.no_grad():
        inputs.weight.copy_(made.rows(old_in))
        if outputs is not None and old_out is not None:
            outputs.weight.copy_(made.rows(old_out))
        if outputs is not None and old_bias is not None:
            outputs.bias.copy_(made.rows(old_bias))
    return tied


def _loaded(folder: Path, files: Sequence[Path]) -> Any:
    tell("loading the base")
    try:
        with quiet_transformers():
            return AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="auto",
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be loaded with its head: {brief(error)}") from error


def _renumber(
    model: PreTrainedModel, new: PreTrainedTokenizerFast, old: PreTrainedTokenizerFast
) -> None:
    """Give the special tokens that config and generation config name their new numbers; those that are gone go."""
    numbers = {
        there: here for here, there in sorted(special_tokens(new, old).items(), reverse=True)
    }

    def renumbered(name: str, number: int) -> int | None:
        # Of a role first: one old token may have had several, which are several tokens now.
        own = getattr(new, name, None) if getattr(old, name, None) == number else None
        return numbers.get(number) if own is None else own

    for settings in (model.config, model.generation_config):
        for name, value in list(vars(settings).items()) if settings is not None else ():
            if not name.endswith("_token_id") or value is None:
                continue
            if isinstance(value, list):
                found = [renumbered(name, own) for own in value]
                setattr(settings, name, [own for own in found if own is not None] or None)
            else:
                setattr(settings, name, renumbered(name, value))


def _per_byte(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str]) -> float | None:
    if not lines:
        return None
    size = sum(len(line.encode()) for line in lines)
    encodings = tokenizer.backend_tokenizer.encode_batch(list(lines), add_special_tokens=False)
    return sum(map(len, encodings)) / size


def _notes(
    new: PreTrainedTokenizerFast,
    old: PreTrainedTokenizerFast,
    size: int | None,
    files: Sequence[CorpusFile],
) -> list[str]:
    found = []
    if size is not None and len(new) < size:
        lines = sum(file.lines for file in files)
        found.append(
            f"the corpus ({lines:,} lines) has {len(new):,} tokens, not the {size:,} asked for"
        )
    if old.eos_token is not None and new.eos_token is None:
        found.append("the tokenizer has no token that ends a text, so completions will not end")
    if old.chat_template and not new.chat_template:
        found.append("the tokenizer has no chat template, so chats cannot be trained or answered")
    if pieces_of(new).form != "bytes" and new.unk_token is None and not pieces_of(new).raw:
        found.append(
            "the tokenizer has neither bytes nor an unknown token, so it drops what it does not know"
        )
    return found


def _embeddings(model: PreTrainedModel) -> tuple[Any, Any]:
    """What turns tokens into states, and states into tokens; None where a model has no such part."""
    own: Any = model
    return own.get_input_embeddings(), own.get_output_embeddings()
