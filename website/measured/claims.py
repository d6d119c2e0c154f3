"""What papers claim of variants, tried in small: each claim's contrasts, corrected for how many it has."""

from statistics import fmean, stdev
from typing import Any

from website.measured.files import in_single, measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

NOISE = 0.05
"""Corrected p below which a difference is called one."""
CLAIMS = {
    "layra": "The first and last layers are enough (LayRA)",
    "dylora": "One training serves every rank (DyLoRA)",
    "optimizers": "Better steps for the factors (LoRA-Pro, AltLoRA, ALLoRA)",
    "ranks": "Ranks that training gives to maps (SoRA, IncreLoRA, AdaLoRA)",
    "flexora": "Layers that are chosen (Flexora)",
    "ba_lora": "Wrong labels and few rows (BA-LoRA)",
    "ggpo": "No double descent (LoRA-GGPO)",
}
"""In the order of the benchmark."""


def document() -> Document | None:
    """A section for each claim that was tried to its end; None where none was."""
    result = read("variant-claims")
    if result is None:
        return None
    done = {name: result["claims"][name] for name in CLAIMS if _is_done(result["claims"], name)}
    own = result["settings"]
    how = (
        f"WNUT17, {own['rows']:,} training rows, {own['scored']:,} scored, LoRA on query and value, "
        f"{len(own['seeds'])} seeds. Rates were looked for on rows held out of train, with one seed, and the two best "
        "of them with all; a difference is paired by row and seed, with intervals and p values corrected for how many "
        "a claim has. Trainings that were one and the same, as where the chosen layers are the last, differ by 0.",
        measured_on(result),
        *in_single(
            {CLAIMS[name]: claim["precision"] for name, claim in done.items()},
            "Both sides of a claim were trained in the same precision.",
        ),
    )
    words = tuple(f"{CLAIMS[name]}: {_said(claim['contrasts'])}" for name, claim in done.items())
    left = [CLAIMS[name] for name in CLAIMS if name not in done]
    if left:
        words += (f"Not tried yet: {'; '.join(left)}.",)
    sections = [Section("short", "In short", notes=words), Section("how", "How", how)]
    sections += [
        Section(name, CLAIMS[name], parts=_tables(claim["contrasts"], claim["rows"]))
        for name, claim in done.items()
    ]
    return Document("Claims of papers on variants", tuple(sections)) if done else None


def _is_done(claims: dict[str, Any], name: str) -> bool:
    return bool(claims.get(name, {}).get("contrasts"))


def _said(contrasts: list[dict[str, Any]]) -> str:
    """What differs beyond noise, in a sentence."""
    apart = [own for own in contrasts if own["p_corrected"] < NOISE]
    if not apart:
        return f"none of {len(contrasts)} contrasts is beyond noise."
    named = "; ".join(f"{own['what']} {100 * own['value']:+.1f} points" for own in apart)
    return f"{named}; {len(apart)} of {len(contrasts)} contrasts beyond noise."


def _tables(contrasts: list[dict[str, Any]], rows: list[dict[str, Any]]) -> tuple[Table, Table]:
    differences = tuple(
        (
            own["what"],
            f"{100 * own['value']:+.1f} ({100 * own['low']:+.1f} to {100 * own['high']:+.1f})",
            f"{own['p_corrected']:.3f}",
        )
        for own in contrasts
    )
    trained: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        trained.setdefault(row["what"], []).append(row)
    scores = tuple(
        (
            what,
            ", ".join(dict.fromkeys(f"{row['learning_rate']:g}" for row in own)),
            ", ".join(percent(row["score"]["value"]) for row in own),
            percent(fmean(values := [row["score"]["value"] for row in own])),
            percent(stdev(values)) if len(values) > 1 else "",
        )
        for what, own in trained.items()
    )
    return (
        Table("Differences in points of F1.", ("contrast", "points (interval)", "p"), differences),
        Table("What was trained.", ("what", "rate", "F1 % by seed", "mean %", "± seeds"), scores),
    )
