"""What the papers of seven variants claim, tried in small: WNUT17, rank 8 on query and value, three seeds, own rates.

    python benchmarks/variant_claims.py --data ../shared/data [--only dylora layra] [--seeds 0 1 2]
    python benchmarks/variant_claims.py --forecast

A claim is a function: it trains what is missing and says which ways of training are held against each other. Each is a
family of its own: intervals and p values are corrected for how many contrasts it has (`claim_runs.compared`). A
finished run is never repeated: interrupt it as you like. The result, written after every row, is
results/variant-claims.json.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claim_runs import QV, TRAINING, Contrast, Sizes, Study, by_epoch, compared, held, row, said
from machine import machine
from weft.answering.evaluation import evaluate
from weft.atomic import write_text
from weft.comparison.comparing import examples_of
from weft.merging.merge import merge
from weft.model.expert import factors_of
from weft.runs import RunFolder
from weft.storage.loading import load_run_model
from weft.tasks.contract import Prediction

FILE = Path("results") / "variant-claims.json"
LORA: dict[str, Any] = {"name": "lora", "rank": 8, "alpha": 16}
NESTED_RANKS = (1, 2, 4, 8)
FINAL_RANK = 4
"""Ranks a map that the allocating methods end with, as the uniform LoRA has."""
GGPO_RANKS = (1, 4, 16, 64)
GGPO_EPOCHS = 10
SHORT = 320
"""Rows of the claim about rank and epochs."""
LAYERS = 6
"""Of the embedded base."""

Told = Callable[[dict[str, Any]], None]
Found = list[Contrast]


def lora(rank: int = 8, **settings: Any) -> dict[str, Any]:
    """Plain LoRA of a rank; alpha is twice the rank, so that its scale is the same."""
    return {**LORA, "rank": rank, "alpha": 2 * rank, **settings}


def shown(told: Told, what: str, runs: list[RunFolder], **more: Any) -> list[RunFolder]:
    """Runs whose rows were told."""
    for run in runs:
        told(row(what, run, **more))
    return runs


def answers(run: RunFolder, rank: int | None = None) -> list[Prediction]:
    """What an expert answers, at a rank."""
    found = evaluate(run.path, rank=rank, save=False, device="cpu")
    assert not isinstance(found, list)
    own = {prediction["id"]: prediction for prediction in found.predictions}
    return [own[example["id"]] for example in examples_of(run).splits["validation"]]


def dylora(study: Study, told: Told) -> Found:
    """One training for every rank, against a LoRA trained at each, and the largest cut down to it."""
    settings = {"name": "dylora", "rank": max(NESTED_RANKS), "alpha": 16}
    nested = shown(told, "dylora", study.each("dylora/nested", settings, rate=study.rate(settings)))
    rate = study.rate(lora())
    plain = {
        rank: shown(told, f"lora {rank}", study.each(f"lora/{rank}", lora(rank), rate=rate))
        for rank in NESTED_RANKS
    }
    found = []
    for rank in NESTED_RANKS:
        at = [answers(run, rank) for run in nested]
        found.append(
            Contrast(f"dylora at {rank} - lora trained at {rank}", at, said(plain[rank]), nested[0])
        )
        if rank < max(NESTED_RANKS):
            cut = [answers(_cut(study, run, rank)) for run in plain[max(NESTED_RANKS)]]
            found.append(
                Contrast(f"dylora at {rank} - lora cut to {rank} by SVD", at, cut, nested[0])
            )
    return found


def _cut(study: Study, run: RunFolder, rank: int) -> RunFolder:
    folder = RunFolder(study.runs / "cut" / f"{run.path.name}-{rank}")
    if not folder.path.is_dir():
        merge([run.path], "svd", weights=[1.0], rank=rank, out=folder.path, device="cpu")
    return folder


def ranks(study: Study, told: Told) -> Found:
    """Ranks that training gives to maps, against as many everywhere."""
    rate = study.rate(lora())
    settings = {
        "sora": {"name": "sora", "rank": 8, "alpha": 16},
        "increlora": {"name": "increlora", "target_rank": FINAL_RANK},
        "adalora": {"name": "adalora", "rank": 6, "target_rank": FINAL_RANK},
    }
    found = []
    for name, own in settings.items():
        runs = shown(told, name, study.each(f"ranks/{name}", own, rate=study.rate(own)))
        # SoRA's sum is what its gates left: the uniform rank next to it, seed by seed.
        wanted = [max(1, round(used(run) / (2 * LAYERS))) for run in runs]
        uniform = [
            study.run(f"lora/{rank}", lora(rank), run.run.seed, rate=rate)
            for rank, run in zip(wanted, runs, strict=True)
        ]
        for run, rank in zip(uniform, wanted, strict=True):
            told(row(f"lora {rank} beside {name}", run, ranks=rank * 2 * LAYERS))
        found.append(held(f"{name} - lora of equal ranks", runs, uniform))
    return found


def used(run: RunFolder) -> int:
    """The sum of the ranks that an expert is exported with."""
    loaded = load_run_model(run.path, device="cpu")
    [expert] = loaded.model.experts.values()
    return sum(len(A) for A, _ in factors_of(expert, loaded.model.trunk).values())


def optimizers(study: Study, told: Told) -> Found:
    """Other steps for the same factors, against LoRA's for as many steps, and for as many seconds."""
    rate, found = study.rate(lora()), []
    plain = shown(told, "lora", study.each("lora/8", lora(), rate=rate))
    for name in ("lora_pro", "altlora", "allora"):
        own = {"name": name, "rank": 8}
        runs = shown(told, name, study.each(f"optimizers/{name}", own, rate=study.rate(own)))
        found.append(held(f"{name} - lora, equal steps", runs, plain))
        # The fastest of each: others may have had to share the machine.
        ratio = _seconds(runs) / _seconds(plain)
        steps = round(max(1.0, ratio) * (plain[0].training or {})["steps"])
        longer = study.each(
            f"optimizers/lora-as-long-as-{name}",
            lora(),
            rate=study.rate(lora(), max_steps=steps),
            max_steps=steps,
        )
        shown(told, f"lora as long as {name}", longer, ratio=round(ratio, 3))
        found.append(held(f"{name} - lora, equal seconds", runs, longer))
    return found


def _seconds(runs: list[RunFolder]) -> float:
    return min((run.training or {})["seconds"] for run in runs)


def ggpo(study: Study, told: Told) -> Found:
    """Noise against double descent: LoRA's score over rank and epochs, with it and without, from within trainings."""
    settings = {"ggpo": {"name": "lora_ggpo", "rank": 8}, "lora": lora()}
    short = Study(study.data, study.runs, study.seeds, _short(study.sizes))
    epoch = -(-short.sizes.rows // TRAINING["batch_size"])
    found = []
    for rank in GGPO_RANKS:
        runs = {}
        for name, own in settings.items():
            runs[name] = short.each(
                f"ggpo/{name}-{rank}",
                {**own, "rank": rank, "alpha": 2 * rank},
                rate=study.rate(own),
                epochs=GGPO_EPOCHS,
                schedule="constant",
                eval_every=epoch,
                select_on="validation",
            )
            for run in runs[name]:
                told(row(f"{name} {rank}", run, by_epoch=by_epoch(run)))
        what = f"ggpo - lora, rank {rank}, {GGPO_EPOCHS} epochs"
        found.append(held(what, runs["ggpo"], runs["lora"]))
    return found


def _short(sizes: Sizes) -> Sizes:
    return Sizes(
        min(SHORT, sizes.rows), sizes.few, min(300, sizes.scored), sizes.epochs, sizes.spread
    )


def flexora(study: Study, told: Told) -> Found:
    """The layers that Flexora chooses, against as many first, last and random ones."""
    rate = study.rate(lora())
    runs = study.each("flexora/chosen", {"name": "flexora", "rank": 8, "alpha": 16}, rate=rate)
    chosen = [_layers(run) for run in runs]
    for run, own in zip(runs, chosen, strict=True):
        told(row("flexora", run, layers=own))
    others: dict[str, list[RunFolder]] = {"first": [], "last": [], "random": []}
    for run, own in zip(runs, chosen, strict=True):
        seed, count = run.run.seed, len(own)
        picked = {
            "first": list(range(count)),
            "last": list(range(LAYERS - count, LAYERS)),
            "random": sorted(random.Random(seed).sample(range(LAYERS), count)),
        }
        for name, layers in picked.items():
            other = study.run(f"flexora/{name}", lora(layers=layers), seed, rate=rate)
            told(row(f"{name} layers", other, layers=layers))
            others[name].append(other)
    return [held(f"flexora - {name} layers", runs, own) for name, own in others.items()]


def _layers(run: RunFolder) -> list[int]:
    modules = run.run.recipe.modules or []
    return sorted({int(name.split(".layer.")[1].split(".")[0]) for name in modules})


def layra(study: Study, told: Told) -> Found:
    """The first and last layers, against all."""
    settings = {"name": "layra", "rank": 8, "alpha": 16}
    runs = shown(told, "layra", study.each("layra", settings, rate=study.rate(settings)))
    plain = shown(told, "lora", study.each("lora/8", lora(), rate=study.rate(lora())))
    return [held("layra - lora on all layers", runs, plain)]


def ba_lora(study: Study, told: Told) -> Found:
    """BA-LoRA where labels are wrong and where rows are few, against its start without penalties and against LoRA."""
    settings = {
        "ba_lora": {"name": "ba_lora", "rank": 8},
        "pissa": {"name": "pissa", "rank": 8},
        "lora": lora(),
    }
    found = []
    for rows in ("noisy", "few"):
        runs = {}
        for name, own in settings.items():
            # Few rows are few steps, which want a rate of their own; wrong labels do not change how many there are.
            rate = study.rate(own, rows="few") if rows == "few" else study.rate(own)
            runs[name] = study.each(f"ba_lora/{name}-{rows}", own, rate=rate, rows=rows)
            shown(told, f"{name}, {rows}", runs[name])
        found += [
            held(f"ba_lora - {name}, {rows}", runs["ba_lora"], runs[name])
            for name in ("pissa", "lora")
        ]
    return found


CLAIMS: dict[str, Callable[[Study, Told], Found]] = {
    "layra": layra,
    "dylora": dylora,
    "optimizers": optimizers,
    "ranks": ranks,
    "flexora": flexora,
    "ba_lora": ba_lora,
    "ggpo": ggpo,
}
MINUTES = {
    "layra": 10,
    "dylora": 10,
    "optimizers": 35,
    "ranks": 17,
    "flexora": 7,
    "ba_lora": 15,
    "ggpo": 24,
}
"""What each takes on one core at three seeds, in this order: later ones find runs of earlier ones. By 25 s for a run of
plain LoRA with its reading and scoring, and the methods' own costs."""


def written(study: Study, claims: dict[str, Any]) -> None:
    """Put everything that there is into the result file."""
    result = {
        "script": "benchmarks/variant_claims.py",
        "settings": {
            "base": "minilm",
            "targets": QV,
            "set": "wnut17",
            "seeds": list(study.seeds),
            "training": TRAINING,
            **asdict(study.sizes),
        },
        "claims": {name: claims[name] for name in CLAIMS if name in claims},
        "machine": machine("cpu"),
    }
    write_text(FILE, json.dumps(result, indent=1) + "\n")


def claim(rows: list[dict[str, Any]], contrasts: list[dict[str, Any]] | None) -> dict[str, Any]:
    """What the result file says of one, with what it was measured on and in: claims may be done one by one."""
    return {
        "rows": rows,
        "contrasts": contrasts,
        "precision": TRAINING["precision"],
        "machine": machine("cpu"),
    }


def kept(study: Study) -> Iterator[tuple[str, Any]]:
    """What the result file has of claims under the same settings."""
    if FILE.is_file():
        found = json.loads(FILE.read_text(encoding="utf-8"))
        same = found["settings"]["seeds"] == list(study.seeds)
        if same and found["settings"]["rows"] == study.sizes.rows:
            before = {
                "precision": found["settings"]["training"]["precision"],
                "machine": found["machine"],
            }
            yield from ((name, {**before, **own}) for name, own in found["claims"].items())


def main() -> None:
    """Do what is missing, a claim after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/claims")
    parser.add_argument("--only", nargs="*", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--forecast", action="store_true", help="Say how long each takes.")
    parser.add_argument(
        "--tiny", action="store_true", help="A trial of everything; writes no result."
    )
    arguments = parser.parse_args()
    if arguments.forecast:
        for name in arguments.only:
            print(f"{name}: {MINUTES[name]} min, {(CLAIMS[name].__doc__ or '').splitlines()[0]}")
        print(f"in all: {sum(MINUTES[name] for name in arguments.only)} min")
        return
    sizes = Sizes(48, 32, 24, 1, (3.0,)) if arguments.tiny else Sizes()
    folder = Path(arguments.runs).resolve() / ("tiny" if arguments.tiny else "")
    study = Study(Path(arguments.data).resolve(), folder, tuple(arguments.seeds), sizes)
    for number, name in enumerate(arguments.only):
        print(f"[{number + 1}/{len(arguments.only)}] {name}", flush=True)
        rows: list[dict[str, Any]] = []

        def told(found: dict[str, Any], name: str = name, rows: list[Any] = rows) -> None:
            print(
                f"{name}: {found['what']} seed {found['seed']} {found['score']['value']:.4f}",
                flush=True,
            )
            rows.append(found)
            if not arguments.tiny:
                written(study, {**dict(kept(study)), name: claim(rows, None)})

        contrasts = CLAIMS[name](study, told)
        found = compared(contrasts)
        for own in found:
            print(
                f"{own['what']}: {own['value']:+.4f} [{own['low']:+.4f}, {own['high']:+.4f}] p {own['p_corrected']:.3f}"
            )
        if not arguments.tiny:
            written(study, {**dict(kept(study)), name: claim(rows, found)})
    print(FILE)


if __name__ == "__main__":
    main()
