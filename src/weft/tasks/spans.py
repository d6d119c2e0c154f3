"""Entities as spans of characters, as annotation tools keep them, turned into words with tags."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from weft.tasks.words import Way, words_of


def tagged(text: str, spans: object, way: Way, where: str) -> dict[str, Any]:
    """`{tokens, tags, offsets}`, tags in IOB2; a word that a span begins or ends inside is cut there.

    Args:
        text: The running text.
        spans: `{start, end, label}` each, in characters; white space at their ends is let be.
        way: What a word is.
        where: What errors call the row.

    Raises:
        ValueError: If a span is malformed, lies outside of the text, holds nothing or touches another.
    """
    found = sorted(_checked(text, spans, where))
    for (_, end, _), (start, last, label) in pairwise(found):
        if start < end:
            raise ValueError(
                f"{where}: the span {label!r} ({start} to {last}) overlaps the one before it; tags hold one entity a "
                "word: keep one of them"
            )
    cuts = sorted({edge for start, end, _ in found for edge in (start, end)})
    tokens: list[str] = []
    tags: list[str] = []
    offsets: list[list[int]] = []
    for _, first, last in words_of(text, way):
        edges = [first, *(cut for cut in cuts if first < cut < last), last]
        for start, end in pairwise(edges):
            inside = next((span for span in found if span[0] <= start and end <= span[1]), None)
            begins = inside is not None and not any(at[0] >= inside[0] for at in offsets[-1:])
            tokens.append(text[start:end])
            tags.append("O" if inside is None else f"{'B' if begins else 'I'}-{inside[2]}")
            offsets.append([start, end])
    return {"tokens": tokens, "tags": tags, "offsets": offsets}


def _checked(text: str, spans: object, where: str) -> Sequence[tuple[int, int, str]]:
    if not isinstance(spans, list | tuple):
        raise ValueError(
            f"{where}: 'spans' must be a list of {{start, end, label}}, got {spans!r:.80}"
        )
    found = []
    for span in spans:
        keys = ("start", "end", "label")
        if not isinstance(span, Mapping) or not all(key in span for key in keys):
            raise ValueError(f"{where}: a span must have start, end and label, got {span!r:.80}")
        start, end, label = (span[key] for key in keys)
        whole = all(isinstance(edge, int) and not isinstance(edge, bool) for edge in (start, end))
        if not whole or not 0 <= start < end <= len(text) or not text[start:end].strip():
            raise ValueError(
                f"{where}: the span {start!r:.20} to {end!r:.20} is none of this text of {len(text)} characters"
            )
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"{where}: a span's label must be text, got {label!r:.60}")
        inner = text[start:end]
        start += len(inner) - len(inner.lstrip())
        found.append((start, start + len(inner.strip()), label))
    return found
