"""`weft.arithmetic`: sums and differences of experts and whole checkpoints.

    theta = sum_k c_k theta_k + sum_i l_i dW_i,    sum_k c_k = 1

where the theta_k are the base and other checkpoints of its architecture, and the dW_i experts' changes; a difference of
two models (`chat - base`) is what a training made of one. Model arithmetic for another language, of which this is the
general form: add an expert of the language and the difference that instruction tuning made (LayRA, `base + LANG +
(INSTRUCT - base)`); task arithmetic: Ilharco et al. 2023, Editing Models with Task Arithmetic, arXiv:2212.04089.

Where only experts stand beside the base the result is an expert, in a run folder; otherwise a checkpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft import guard
from weft.atomic import atomic_folder, write_text
from weft.base.locate import locate
from weft.lowrank.peft.reading import read_peft
from weft.merging.expression import parse
from weft.merging.merge import merge
from weft.merging.sources import Found, find
from weft.merging.whole import Change, Total, Whole
from weft.methods.recipes import recipe_file
from weft.runs import CONFIG, RunFolder
from weft.scoped import tell
from weft.storage.card import read_card

BASE = "base"
"""What the experts' own base is called."""
FILE = "arithmetic.json"
"""In a checkpoint that was computed: from what."""
_NEAR = 1e-9
"""How far from 1 the models' counts may be together: decimal fractions are no binary ones."""


def arithmetic(
    expression: str,
    out: str | Path,
    *,
    base: str | None = None,
    **values: Any,
) -> Path:
    """Add models up and leave an expert's run folder or a checkpoint.

    Args:
        expression: As of `weft.merging.expression.parse`; `base` is the base of the experts.
        out: The folder to write; must not exist.
        base: An alias, hub id or folder: what `base` means where no expert says it.
        values: Of an expert that comes out: as of `weft.merge` (`rank`, `head`, `scores`, `data`, `device`).

    Raises:
        KeyError: If a name is neither a run nor a checkpoint.
        ValueError: If models do not belong together, or do not count 1 together; nothing has been written then.
    """
    counts = {name: count for name, count in parse(expression).items() if count}
    RunFolder(Path(out)).refuse_existing()
    runs = {name: count for name, count in counts.items() if _is_expert(name)}
    wholes = {name: count for name, count in counts.items() if name not in runs}
    _check_counts(expression, runs, wholes)
    if set(wholes) <= {BASE}:
        if base is not None:
            raise ValueError(
                f"--base {base}: the result is an expert of its experts' own base; leave it away"
            )
        for name in runs:
            _expert(name)
        return merge(list(runs), "cat", weights=list(runs.values()), out=out, **values).path
    odd = [name for name in ("rank", "head", "data") if values.get(name) is not None]
    if odd:
        raise ValueError(
            f"{odd[0]}: {expression!r} comes to a checkpoint, which has none; leave it away"
        )
    total = _total(runs, wholes, base)
    total.refuse_others()
    with atomic_folder(Path(out)) as draft:
        total.write(draft)
        text = json.dumps(_record(expression, counts, total), indent=1, ensure_ascii=False)
        write_text(draft / FILE, text + "\n")
    return Path(out)


def _check_counts(expression: str, runs: Mapping[str, float], wholes: Mapping[str, float]) -> None:
    if not runs and set(wholes) <= {BASE}:
        raise ValueError(
            f"{expression!r} comes to the base, or to nothing; add an expert or a model"
        )
    together = sum(wholes.values())
    if wholes and abs(together - 1) > _NEAR:
        said = ", ".join(f"{name} {count:g}" for name, count in wholes.items())
        raise ValueError(
            f"{expression!r}: whole models count {together:g} together ({said}), which is no model; they must count 1, "
            "as in base + 0.5*(OTHER - base)"
        )


def _total(runs: Mapping[str, float], wholes: Mapping[str, float], base: str | None) -> Total:
    tell("reading headers")
    own = _base_name(runs, base) if BASE in wholes else None
    models = {
        name: Whole(name, _folder(*(own if name == BASE and own else (name, None))))
        for name in wholes
    }
    frame = next((models[name] for name in wholes if name != BASE), None) or models[BASE]
    changes = [_change(name, count, frame) for name, count in runs.items()]
    if BASE in models:
        for name in runs:
            card = read_card(RunFolder.open(name).expert)
            if card.digest != models[BASE].digest:
                raise ValueError(
                    f"{name} was trained on {card.base} (digest {card.digest[:12]}), but base is {models[BASE].folder} "
                    f"(digest {models[BASE].digest[:12]}); give the base it was trained on"
                )
    return Total(frame, [(models[name], count) for name, count in wholes.items()], changes)


def _base_name(runs: Mapping[str, float], base: str | None) -> tuple[str, str | None]:
    if base is not None:
        return base, None
    if not runs:
        raise ValueError("which base? No expert says it; give --base")
    run = RunFolder.open(next(iter(runs))).run
    return run.base, run.revision


def _is_expert(name: str) -> bool:
    """Whether a name is a run folder with adapters; one that trained every weight is a checkpoint."""
    if name == BASE or not (Path(name).expanduser() / CONFIG).is_file():
        return False
    folder = RunFolder.open(Path(name).expanduser())
    if folder.run.mixture is not None or not folder.expert.is_dir():
        return True  # which `find` refuses, or takes apart
    return recipe_file(read_card(folder.expert).recipe["name"]).trains != "base"


def _folder(name: str, revision: str | None) -> Path:
    path = Path(name).expanduser()
    if (path / CONFIG).is_file():
        return RunFolder.open(path).expert
    return locate(name, revision)[0]


def _change(name: str, count: float, frame: Whole) -> Change:
    peft = read_peft(_expert(name).parts[0].folder.expert, frame.maps)
    factors = {
        module: (A, peft.alphas[module] / len(A) * B) for module, (A, B) in peft.factors.items()
    }
    return Change(name, factors, count)


def _expert(name: str) -> Found:
    """The one expert of a run.

    Raises:
        ValueError: If it has several.
    """
    found = find([name], None)
    if len(found) > 1:
        parts = ", ".join(str(own.path) for own in found)
        raise ValueError(f"{name} has an expert for each of its tasks; name one: {parts}")
    return found[0]


def _record(expression: str, counts: Mapping[str, float], total: Total) -> dict[str, Any]:
    return {
        "expression": expression,
        "counts": dict(counts),
        "digests": {whole.name: whole.digest for whole, _ in total.wholes},
        "layout": total.frame.name,
        "notes": total.notes,
    }


def notes_of(folder: Path) -> list[str]:
    """What must be said of a checkpoint that was computed."""
    return list(guard.read_json(folder / FILE)["notes"])
