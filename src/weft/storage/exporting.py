"""Experts and mixtures for other tools; what they can be written as is in `forms/`."""

from pathlib import Path

from weft.runs import RunFolder
from weft.storage.forms import form_of
from weft.storage.forms.contract import Wanted


def export(
    run_folder: str | Path,
    folder: str | Path,
    to: str = "peft",
    rank: int | None = None,
    quantise: str | None = None,
    *,
    mitigate_intruders: float | None = None,
    user: str | None = None,
) -> Path:
    """Write a run's expert for other tools.

    Args:
        run_folder: The run folder of one task, or of a mixture.
        folder: Where to write; must not exist.
        to: `peft` is the expert's own folder, which PEFT opens, or the X-LoRA folder of a mixture
            (`storage/xlora.py`); `merged` is a transformers checkpoint of the task's class whose
            weights are the base's plus the expert's; `sentence-transformers` is the merged checkpoint of an embedding
            with its pooling, which `SentenceTransformer` opens; `onnx` is the merged expert as a graph that ONNX
            Runtime answers (`storage/forms/onnx.py`).
        rank: For `peft`: write the nearest plain LoRA of this rank instead, for variants that have
            no exact one (DoRA) or a larger one; `weft.json` says under `metrics` how far it is
            (`approximation_error`, the share of the change that is lost). Of an expert that was
            trained for every rank (recipe `dylora`) it is the plain LoRA that it is at this one.
        quantise: For `onnx`: `int8` writes the weights of products in 8 bits; answers change
            (`weft.answering.exported.compared` says by how much).
        mitigate_intruders: Shrink the intruder dimensions of every changed weight (`weft/lowrank/intruders.py`) to this
            share of themselves, 0 to 1: the base forgets less, the task may lose. PEFT calls it `mitigation_lambda`,
            0.75 there. Each intruder takes a rank of its own; with `rank` the change is cut to that, as PEFT does.
        user: Of a personal run, whose expert: the population's factors and the user's, one under the other, which is
            their exact sum.

    Returns:
        `folder`.

    Raises:
        KeyError: If there is no expert of the user.
        ValueError: If `folder` exists, the expert has no such form, or a package that writes it is not installed.
    """
    wanted, folder = (
        Wanted(RunFolder.open(run_folder), rank, quantise, mitigate_intruders, user),
        Path(folder),
    )
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another folder, or remove it")
    form = form_of(to)
    form.check(wanted)
    form.write(wanted, folder)
    return folder
