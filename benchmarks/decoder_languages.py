"""A decoder and languages that it hardly knows: continued pre-training, a new tokenizer, replay, translation, LayRA.

    python benchmarks/decoder_languages.py --data ../shared/data

Three parts, each cell in a file of its own; interrupt it as you like, the same call goes on.

`pretraining`: Galician, LoRA with trained embeddings and head, with and without replay of English (17 % of the tokens),
with the base's tokenizer and with one of 4,096 tokens trained on the same corpus. `translation`: English to Galician on
the Galician checkpoint with replay, LLiMba's five configurations and rank 16. `layra`: Galician, Dutch, Urdu, one
after the other on the merged result of the one before, adapters in the first and last layers alone; after each, every
language is scored. Last, the Galician change and that of a translation expert are added up (model arithmetic).

The corpora are tiny, so that a few epochs learn their rows by heart: a tenth of the training rows is held out and
decides when to stop, and what is reported is the last tenth of the corpus, which nothing else sees. Scores are bits
per byte, comparable across tokenizers. Intervals are bootstrap over rows of the mean over seeds, 95 %; the difference
to the base is paired by row. The result is results/decoders/languages.json. `--tiny` tries all of it on a few rows.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import Any

from decoder_languages_runs import (
    ALSO,
    CONFIGURATIONS,
    CORPORA,
    FULL_RATE,
    LAYRA,
    PRETRAINING,
    PRETRAINING_RATE,
    RATE,
    SEQUENCE,
    SHARE,
    TINY,
    WHOLE,
    Study,
    task,
)
from machine import machine
from weft.answering.texts.written import written_scores
from weft.atomic import write_text
from weft.tasks.contract import Prediction
from weft.tasks.language.scripts import script_leakage
from weft.tasks.scoring import mean_difference, mean_score
from weft.vocabulary.record import read_record

RESULT = Path("results") / "decoders" / "languages.json"


def cells(study: Study) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every cell by name, in the order in which they are measured."""
    found: dict[str, Callable[[], dict[str, Any]]] = {"bare": lambda: study.bare(study.base)}
    found["bare-new"] = lambda: study.bare(str(study.retokenised()))
    for seed in study.sizes.seeds:
        for replay in (False, True):
            for new in (False, True):
                name = f"pretraining-{'replay' if replay else 'alone'}-{'new' if new else 'old'}"
                found[f"{name}-{seed}"] = lambda r=replay, n=new, s=seed: study.pretrained(r, n, s)
    for seed in study.sizes.seeds:
        for name in CONFIGURATIONS:
            found[f"translation-{name}-{seed}"] = lambda n=name, s=seed: study.translated(n, s)
    for seed in study.sizes.seeds:
        found[f"layra-{seed}"] = lambda s=seed: study.layered(s)
    return found


def measured(study: Study) -> dict[str, dict[str, Any]]:
    """Every cell, from its file or from work now."""
    wanted, found = cells(study), {}
    began, worked = time.monotonic(), 0
    missing = sum(not (study.folder / "cells" / f"{name}.json").is_file() for name in wanted)
    for name, work in wanted.items():
        path = study.folder / "cells" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(work()) + "\n")
            worked += 1
            each = (time.monotonic() - began) / worked
            left = (missing - worked) * each / 60
            print(f"{name}: {worked} of {missing}, about {left:.0f} min left", flush=True)
        found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def summed_up(study: Study, found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The scores of every cell over its seeds."""
    own, seeds = task(), study.sizes.seeds

    def over(
        said: list[list[Prediction]], before: list[Prediction] | None = None
    ) -> dict[str, Any]:
        rows = [{"id": one["id"]} for one in said[0]]
        scores = {name: asdict(value) for name, value in mean_score(own, said, rows).items()}
        values = [
            float(mean_score(own, [one], rows, resamples=0)["bits_per_byte"].value) for one in said
        ]
        result = {"scores": scores, "n": len(rows), "by_seed": values}
        result["deviation"] = stdev(values) if len(values) > 1 else None
        if before is not None:
            apart = mean_difference(own, said, [before] * len(said), rows)["bits_per_byte"]
            result["from_base"] = asdict(apart)
        return result

    def by(name: str) -> list[dict[str, Any]]:
        return [found[f"{name}-{seed}"] for seed in seeds]

    bare = {
        name: {language: over([said]) for language, said in found[name]["said"].items()}
        for name in ("bare", "bare-new")
    }
    before = found["bare"]["said"]
    pretraining = {
        f"{mix}-{tokens}": {
            language: over(
                [one["said"][language] for one in by(f"pretraining-{mix}-{tokens}")],
                before[language],
            )
            for language in ("galician", "english")
        }
        for mix in ("alone", "replay")
        for tokens in ("old", "new")
    }
    right = [row["completion"].strip() for row in study.pairs()["validation"]]

    def translations(own_cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        # All seeds are one system of as many translations: its interval is over sentences and seeds.
        said = [text for one in own_cells for text in one["written"]]
        scores = written_scores(said, right * len(own_cells), ["bleu", "chrf"])
        likely = {
            split: over([one["said"][split] for one in own_cells])
            for split in ("train", "validation")
        }
        leaked = script_leakage(said, ["Latin"])
        return {
            "likelihood": likely,
            "leakage": {"letters": leaked.letters, "texts": asdict(leaked.texts)},
            **{name: asdict(one) for name, one in scores.items()},
        }

    layra = by("layra")
    return {
        "bare": bare,
        "pretraining": pretraining,
        "translation": {name: translations(by(f"translation-{name}")) for name in CONFIGURATIONS},
        "layra": {
            after: {
                language: over([one["said"][after][language] for one in layra], before[language])
                for language in CORPORA
            }
            for after in SEQUENCE
        },
        "arithmetic": {
            count: translations([one["sums"][count] for one in layra]) for count in layra[0]["sums"]
        },
    }


def main() -> None:
    """Measure what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/decoder-languages")
    parser.add_argument("--tiny", action="store_true", help="a few rows, to try it; print only")
    arguments = parser.parse_args()
    sizes = TINY if arguments.tiny else WHOLE
    study = Study(
        arguments.base, Path(arguments.data).resolve(), Path(arguments.runs).resolve(), sizes
    )
    study.folder.mkdir(parents=True, exist_ok=True)
    result = {
        "script": "benchmarks/decoder_languages.py",
        "base": arguments.base,
        "sizes": asdict(sizes),
        "pretraining_recipe": {
            **PRETRAINING,
            "train_also": ALSO,
            "learning_rate": PRETRAINING_RATE,
        },
        "share": SHARE,
        "configurations": CONFIGURATIONS,
        "layra_recipe": {**LAYRA, "learning_rate": PRETRAINING_RATE},
        "rates": {"adapters": RATE, "full": FULL_RATE},
        **summed_up(study, measured(study)),
        "tokenizer": read_record(study.retokenised()).model_dump(mode="json"),
        "machine": machine("cpu"),
    }
    result["tokenizer"].pop("source")
    if arguments.tiny:
        print(json.dumps(result, indent=1))
        return
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()
