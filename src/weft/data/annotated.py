"""Rows that annotation tools export, as text with spans or classes.

    label_studio  JSON ({data, annotations: [{result}]}) and JSON-MIN ({text, label: [{start, end, labels}]})
    doccano       {text, label: [[start, end, name]]}, {text, entities: [{start_offset, ...}]}, {text, label: [name]}
    prodigy       {text, spans, answer}, {text, label, answer}, {text, options, accept, answer}

Each becomes `{id, text, spans: [{start, end, label}], label}` beside its own columns: a tagging task takes the spans,
a classification the label. What annotators skipped, rejected or ignored is left out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from weft.data.layout import Placed, Row

Reader = Callable[[Row, str], list[Row] | None]
"""The rows that one exported row stands for; None if the tool has not written it."""


def from_tools(rows: Iterable[Placed], tool: str | None = None) -> Iterator[Placed]:
    """`rows`, those of annotation tools turned into text with spans and classes; others as they are.

    Args:
        rows: Objects as they stand in a file.
        tool: The one tool that wrote all of them; None recognises each by its form.

    Raises:
        ValueError: If a row is not of the tool that is said, or of one that is malformed; while iterating.
    """
    for row, where in rows:
        readers = [TOOLS[tool]] if tool else TOOLS.values()
        found = next((own for read in readers if (own := read(row, where)) is not None), None)
        if found is None and tool:
            raise ValueError(
                f"{where}: no row that {tool} writes: it has {sorted(row)!r:.120}; leave `format:` away to "
                "read it as it is"
            )
        yield from ((own, where) for own in ([row] if found is None else found))


def _label_studio(row: Row, where: str) -> list[Row] | None:
    data, made = row.get("data"), row.get("annotations", row.get("completions"))
    if isinstance(data, Mapping) and isinstance(made, list):
        return [_task(row, data, own, where) for own in _one_of(made, where)]
    spans = [key for key, value in row.items() if _are_regions(value)]
    choices = {key: value["choices"] for key, value in row.items() if _is_choice(value)}
    if not spans and not choices and "annotation_id" not in row:
        return None
    regions = [region for key in spans for region in row[key]]
    return [{**row, **choices, "spans": [_region(region, where) for region in regions]}]


def _one_of(made: list[Any], where: str) -> list[Mapping[str, Any]]:
    """The annotation of a task that counts: the ground truth, else the one that is there; none if it was skipped."""
    kept = [own for own in made if isinstance(own, Mapping) and not own.get("was_cancelled")]
    kept = [own for own in kept if own.get("ground_truth")] or kept
    said = [[item.get("value") for item in _results(own, where)] for own in kept]
    if any(other != said[0] for other in said[1:]):
        raise ValueError(
            f"{where}: {len(kept)} annotations that differ; keep one, or mark one as the ground truth"
        )
    return kept[:1]


def _results(annotation: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    result = annotation.get("result")
    if not isinstance(result, list) or not all(isinstance(item, Mapping) for item in result):
        raise ValueError(
            f"{where}: expected Label Studio's form, an annotation with a list 'result'"
        )
    return result


def _task(row: Row, data: Mapping[str, Any], annotation: Mapping[str, Any], where: str) -> Row:
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    if "text" not in texts and len(texts) != 1:
        raise ValueError(
            f"{where}: which of {sorted(data)!r:.120} is the text? Name it `text` in the tool, or export JSON-MIN and "
            "say `columns: {text: ...}`"
        )
    found: Row = {
        "id": row.get("id"),
        **data,
        "text": texts.get("text") or next(iter(texts.values())),
    }
    values: list[Any] = [item.get("value") for item in _results(annotation, where)]
    for value in values:
        if isinstance(value, Mapping) and "start" in value and "labels" not in value:
            raise ValueError(
                f"{where}: only regions of plain text are read, got {sorted(value)!r:.120}"
            )
    found["spans"] = [_region(value, where) for value in values if _are_regions([value])]
    chosen = [name for value in values if _is_choice(value) for name in value["choices"]]
    return {**found, "label": chosen} if any(map(_is_choice, values)) else found


def _are_regions(value: object) -> bool:
    keys = {"start", "end", "labels"}
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and keys <= set(item) for item in value)
    )


def _is_choice(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("choices"), list)


def _region(value: Mapping[str, Any], where: str) -> Row:
    labels = value["labels"]
    if not isinstance(labels, list) or len(labels) != 1:
        raise ValueError(f"{where}: a region must have one label, got {labels!r:.80}")
    return {"start": value["start"], "end": value["end"], "label": labels[0]}


def _doccano(row: Row, where: str) -> list[Row] | None:
    text = row.get("text", row.get("data"))
    columns = [
        key
        for key in ("label", "labels", "entities", "annotations")
        if isinstance(row.get(key), list)
    ]
    if not isinstance(text, str) or not columns:
        return None
    found: Row = {**row, "text": text}
    for key in columns:
        spans = [_offsets(item) for item in row[key]]
        if row[key] and all(spans):
            found["spans"] = spans
        elif key == "annotations" and all(
            isinstance(item, Mapping) and "label" in item for item in row[key]
        ):
            found["label"] = [item["label"] for item in row[key]]
        elif all(isinstance(item, str) for item in row[key]):
            found.setdefault("label", row[key])
        else:
            return None
    found.setdefault("spans", [])
    return [found]


def _offsets(item: object) -> Row | None:
    if isinstance(item, list) and len(item) == 3 and isinstance(item[2], str):
        return {"start": item[0], "end": item[1], "label": item[2]}
    keys = ("start_offset", "end_offset", "label")
    if isinstance(item, Mapping) and all(key in item for key in keys):
        return dict(zip(("start", "end", "label"), (item[key] for key in keys), strict=True))
    return None


def _prodigy(row: Row, where: str) -> list[Row] | None:
    hashed = "_task_hash" in row or "_input_hash" in row
    if not hashed or row.get("answer") not in ("accept", "reject", "ignore"):
        return None
    if row["answer"] != "accept":
        return []
    found: Row = {key: value for key, value in row.items() if key != "tokens"}
    if isinstance(row.get("accept"), list):
        found["label"] = row["accept"]
    found["spans"] = row.get("spans") or []
    return [found]


TOOLS: dict[str, Reader] = {
    "label_studio": _label_studio,
    "prodigy": _prodigy,
    "doccano": _doccano,
}
"""What each tool's rows stand for."""
