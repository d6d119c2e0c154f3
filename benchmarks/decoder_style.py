"""Style by n-grams at decoding time, over its strength, against asking for the style and training an expert for it.

    python benchmarks/decoder_style.py --data ../shared/data     within an hour on two cores

The claim that is tested: a prior of 1- to 3-grams is useful only at a small strength, collapses at larger ones, and
stays below prompting and LoRA (the prior: docs/how-to/style.md). Don Quixote in English is the corpus; its last tenth
is held out. smollm2 goes on from openings that are not of the book, 48 tokens each, drawn at temperature 1 from the 50
most probable, three seeds. Ways: the base alone; the prior at six strengths; a line before the opening that asks for
the style; LoRA on all linear maps, trained on paragraphs of the book, one expert a seed. Nearness to the style is the
perplexity under n-grams of the held-out tenth and of the rest, and overlap; what it costs is the perplexity under the
base, read beside distinct-n and repetition. Intervals are of the mean over seeds, by Student's t. Interrupt it as you
like: the same call goes on. The result is results/decoders/style.json.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import weft
from machine import machine
from weft.analysis.intervals import over_seeds
from weft.answering.generation import Generation, Style, generate, prompt_ids
from weft.answering.style.measures import measured, style_perplexity
from weft.answering.style.ngrams import NGrams, counted
from weft.atomic import make_folder, write_text
from weft.base.loading import Base, load_base
from weft.config import Run
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model
from weft.storage.loading import load_run_model

RESULT = Path("results") / "decoders" / "style.json"
BASE = "smollm2"
SEEDS = (0, 1, 2)
STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
ASK = "In the manner of Cervantes' Don Quixote, in an old English translation:\n\n"
OPENINGS = (
    "The morning train was late again, and",
    "She opened the letter slowly, because",
    "In the town where I was born there was",
    "My neighbour has bought a new car, which",
    "After the storm the fishermen",
    "The doctor looked at the old man and said",
    "Nobody knew why the school was closed, but",
    "When the two brothers came to the inn,",
    "It was the first day of winter and",
    "The king had a daughter who",
    "He told his friend that",
    "On the road to the mountains they met",
)
LONGEST = 96
"""Tokens of a paragraph that is trained on, at most."""
WORDS = 8
"""Words of a paragraph, at least: headings are shorter."""


def paragraphs(path: Path) -> list[str]:
    """Of a book, their lines joined."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [
        text for text in (" ".join(block.split()) for block in blocks) if len(text.split()) >= WORDS
    ]


def settings(seed: int, steps: int) -> Run:
    """Those of a style expert; the rate is the rule's."""
    return Run.model_validate(
        {
            "base": BASE,
            "task": {
                "name": "style",
                "spec": {"kind": "causal_lm", "max_length": LONGEST, "stride": 1},
            },
            "recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["all-linear"]},
            "training": {"max_steps": steps, "batch_size": 8},
            "seed": seed,
            "device": "cpu",
        }
    )


def drawn(seed: int, tokens: int, style: Style | None = None) -> Generation:
    """How a text is drawn."""
    return Generation(max_new_tokens=tokens, sample=True, seed=seed, batch_size=12, style=style)


class Trials:
    """The base, the two halves of the style, and files of what was written.

    Args:
        data: Folder with `text/`.
        runs: Folder for experts and texts.
        tokens: Of a continuation.
        rows: Paragraphs for training, at most; None is all.
    """

    def __init__(self, data: Path, runs: Path, tokens: int, rows: int | None) -> None:
        every = paragraphs(data / "text" / "don_quixote.en.txt")[:rows]
        cut = len(every) - len(every) // 10
        self.train, self.held = every[:cut], every[cut:]
        self.runs, self.tokens = runs, tokens
        self.base: Base = load_base(BASE)
        self.model = Model(self.base)
        self.model.add(Expert("base", {}, Head("causal_lm", self.base, 0, seed=0)))
        self.corpus = runs / "corpus.txt"
        make_folder(runs)
        write_text(self.corpus, "\n\n".join(self.train) + "\n")
        self.style = counted(self.train, self.base.tokenizer, "the corpus")
        self.unseen = counted(self.held, self.base.tokenizer, "the held-out tenth")

    def of_base(self, seed: int, ask: str = "", style: Style | None = None) -> list[list[int]]:
        """Continuations of every opening by the base."""
        how = drawn(seed, self.tokens, style)
        prompts = [f"{ask}{opening}" for opening in OPENINGS]
        return [
            list(one.tokens) for one in generate(self.model, "base", prompts, how, device="cpu")
        ]

    def of_expert(self, seed: int, steps: int) -> list[list[int]]:
        """Continuations by an expert that is trained first."""
        run = self.runs / f"expert-{seed}"
        if not (run / "metrics.json").is_file():
            print(f"training the expert of seed {seed}", flush=True)
            rows = {"train": self.train, "validation": self.held[:40]}
            data = {split: [{"text": text} for text in texts] for split, texts in rows.items()}
            weft.train(settings(seed, steps), data=data, out=run)
        loaded = load_run_model(run, device="cpu")
        how = drawn(seed, self.tokens)
        found = generate(
            loaded.model, loaded.name, list(OPENINGS), how, members=loaded.members, device="cpu"
        )
        return [list(one.tokens) for one in found]

    def kept(self, name: str, write: Callable[[], list[list[int]]]) -> list[list[int]]:
        """Texts as ids, from their file, or written now."""
        path = self.runs / "texts" / f"{name}.json"
        if not path.is_file():
            make_folder(path.parent)
            write_text(path, json.dumps(write()) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def measure(self, texts: Sequence[list[int]], strength: float) -> dict[str, float]:
        """Every measure of some texts, as continuations of the bare openings."""
        how = Generation(max_new_tokens=self.tokens)
        rows = [
            (prompt_ids(self.base, opening, how, "opening"), text)
            for opening, text in zip(OPENINGS, texts, strict=True)
        ]
        held = self.model.snapshot
        with held.routed(None):
            writer: Any = held.head("base").assembled(held.trunk)
            found = measured(writer, self.base.tokenizer, self.style, rows, strength)
        return {**asdict(found), "unseen_style_perplexity": style_perplexity(self.unseen, rows)}


def ways(trials: Trials, steps: int) -> dict[str, tuple[float, Callable[[int], list[list[int]]]]]:
    """By name the strength, and what writes with a seed."""

    def steered(strength: float) -> Callable[[int], list[list[int]]]:
        style = Style(corpus=trials.corpus, strength=strength)
        return lambda seed: trials.of_base(seed, style=style)

    return {
        "base": (0.0, trials.of_base),
        **{f"n-grams {strength:g}": (strength, steered(strength)) for strength in STRENGTHS},
        "prompt": (0.0, lambda seed: trials.of_base(seed, ASK)),
        "lora": (0.0, lambda seed: trials.of_expert(seed, steps)),
    }


def summed(
    by_seed: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """Mean and interval over seeds of every measure, and of its difference from the base's, seed by seed."""
    return {
        name: {
            "by_seed": [own[name] for own in by_seed],
            **asdict(over_seeds([own[name] for own in by_seed])),
            "from_base": asdict(
                over_seeds(
                    [own[name] - other[name] for own, other in zip(by_seed, plain, strict=True)]
                )
            ),
        }
        for name in by_seed[0]
    }


def book(ngrams: NGrams, trials: Trials) -> float:
    """What the held-out tenth itself has, the nearest that a text could come."""
    ids = [
        trials.base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in trials.held
    ]
    return style_perplexity(ngrams, [([], list(own)) for own in ids])


def main() -> None:
    """Write what is missing, measure all, and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/decoder-style")
    parser.add_argument("--tokens", type=int, default=48, help="of a continuation")
    parser.add_argument("--steps", type=int, default=60, help="of a style expert, 8 rows each")
    parser.add_argument("--rows", type=int, help="paragraphs of the book")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    trials = Trials(Path(arguments.data), Path(arguments.runs), arguments.tokens, arguments.rows)
    found: dict[str, list[dict[str, float]]] = {}
    for name, (strength, write) in ways(trials, arguments.steps).items():
        for seed in SEEDS:
            texts = trials.kept(f"{name.replace(' ', '-')}-{seed}", lambda w=write, s=seed: w(s))
            found.setdefault(name, []).append(trials.measure(texts, strength))
        print(name, {key: round(value, 3) for key, value in found[name][-1].items()}, flush=True)
    result = {
        "script": "benchmarks/decoder_style.py",
        "base": BASE,
        "seeds": SEEDS,
        "openings": len(OPENINGS),
        "tokens": arguments.tokens,
        "paragraphs": len(trials.train),
        "corpus_tokens": trials.style.corpus_tokens,
        "generation": drawn(0, arguments.tokens).model_dump(mode="json"),
        "expert": settings(SEEDS[0], arguments.steps).model_dump(mode="json"),
        "asked": ASK,
        "held_out_style_perplexity": book(trials.style, trials),
        "ways": {name: summed(own, found["base"]) for name, own in found.items()},
        "machine": machine("cpu"),
    }
    make_folder(arguments.result.parent)
    write_text(arguments.result, json.dumps(result, indent=1) + "\n")
    print(arguments.result)


if __name__ == "__main__":
    main()
