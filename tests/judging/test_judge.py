"""Two tracks from rows to flags: judges over HTTP and on a base here, refused, resumed, and disagreeing."""

import csv
import json
import math
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import weft
from tests.judging.remote import Remote, preferring, remote
from weft.answering.generation import Generation, prompt_ids
from weft.cli import app
from weft.judging.agreement import drawn_mean, flag
from weft.judging.asking import Asking
from weft.judging.judges import judges
from weft.judging.judges.local import NAME, Local
from weft.judging.protocols import protocols
from weft.judging.protocols.contract import CRITERIA
from weft.tasks.scoring import Score

TOPICS = [
    "heart",
    "knee",
    "lung",
    "skin",
    "eye",
    "back",
    "hand",
    "ear",
    "foot",
    "hip",
    "jaw",
    "arm",
]
REFERENCES = [f"the patient says that the {topic} hurts since last week" for topic in TOPICS]
NEAR = [f"patient says the {topic} hurts since last week" for topic in TOPICS]
FAR = [f"there is some trouble with a {topic} it seems to me and more" for topic in TOPICS]
QUICK: dict[str, Any] = {"metrics": ["bleu", "chrf", "rouge"], "resamples": 200}


def in_order(text: str) -> float:
    """How many neighbours of the references' words are neighbours here: disorder has few."""
    words = text.split()
    known = {pair for own in [*REFERENCES, *NEAR, *FAR] for pair in pairwise(own.split())}
    return sum(pair in known for pair in pairwise(words)) / max(1, len(words) - 1)


def liking(texts: list[str]) -> Callable[[str], float]:
    """Whole sentences before disorder, and these texts before all others."""
    return lambda text: 8.0 if text in texts else 5 * in_order(text) + 1


def test_two_tracks_that_agree_say_so(tmp_path: Path) -> None:
    with remote(preferring(liking(NEAR))) as server:
        found = weft.judge(
            NEAR, REFERENCES, against=FAR, judges=[server.settings], out=tmp_path / "out", **QUICK
        )
    [judged] = found.judges
    assert (judged.wins, judged.ties, judged.losses) == (len(NEAR), 0, 0)
    assert judged.win_rate == Score(1, 1, 1)
    assert judged.consistency is not None
    assert judged.consistency.value == 1
    assert judged.trust.right == judged.trust.rows == len(NEAR)
    assert judged.p == pytest.approx(2 / 2 ** len(NEAR))
    assert {one.metric: one.flag for one in found.agreement} == dict.fromkeys(
        ("bleu", "chrf", "rouge1", "rouge2", "rougeL"), "AGREED"
    )
    said = json.loads((tmp_path / "out" / "judging.json").read_text("utf-8"))
    assert said == json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert "AGREED" in (tmp_path / "out" / "judging.md").read_text("utf-8")


def test_a_judge_that_prefers_what_metrics_like_less_is_divergent_and_changing_places_changes_signs() -> (
    None
):
    with remote(preferring(liking(FAR))) as server:
        one = weft.judge(NEAR, REFERENCES, against=FAR, judges=[server.settings], **QUICK)
        other = weft.judge(FAR, REFERENCES, against=NEAR, judges=[server.settings], **QUICK)
    assert {pair.flag for found in (one, other) for pair in found.agreement} == {"DIVERGENT"}
    for here, there in zip(one.lexical, other.lexical, strict=True):
        np.testing.assert_array_equal(here.rows, -there.rows)
        assert here.difference is not None
        assert there.difference is not None
        ends = (here.difference.value, here.difference.low, here.difference.high)
        turned = (-there.difference.value, -there.difference.high, -there.difference.low)
        assert ends == pytest.approx(turned, abs=1e-14)
    np.testing.assert_array_equal(one.judges[0].rows, -other.judges[0].rows)
    for here, there in zip(one.agreement, other.agreement, strict=True):
        assert (here.kappa, here.signs) == (there.kappa, there.signs)


def test_the_system_level_interval_is_of_both_systems_on_the_same_resampled_rows() -> None:
    with remote(preferring(liking(NEAR[:6]))) as server:
        found = weft.judge(NEAR, REFERENCES, against=FAR, judges=[server.settings], **QUICK)
    rouge = next(one for one in found.lexical if one.name == "rouge1")
    wanted = drawn_mean(rouge.rows, 200, seed=0)
    assert rouge.difference is not None
    ends = (rouge.difference.value, rouge.difference.low, rouge.difference.high)
    assert ends == pytest.approx((wanted.value, wanted.low, wanted.high), abs=1e-14)
    own = found.judges[0]
    assert own.difference == drawn_mean(own.rows, 200, seed=0)
    pair = next(one for one in found.agreement if one.metric == "rouge1")
    assert pair.flag == flag(rouge.difference, own.difference)


def test_a_judge_that_always_says_a_is_refused_for_it_cannot_tell_disorder() -> None:
    with (
        remote(lambda prompt: "A") as server,
        pytest.raises(ValueError, match="is no judge: of 12"),
    ):
        weft.judge(NEAR, REFERENCES, against=FAR, judges=[server.settings], **QUICK)
    # No row of the systems was asked about.
    assert len(server.bodies) == 2 * len(REFERENCES)


def test_verdicts_that_flip_with_the_order_are_ties() -> None:
    def rule(prompt: str) -> str:
        said = preferring(in_order)(prompt)
        # Of two whole sentences it likes the place.
        return "A" if any(text in prompt for text in FAR) else said

    with remote(rule) as server:
        found = weft.judge(NEAR, REFERENCES, against=FAR, judges=[server.settings], **QUICK)
    [judged] = found.judges
    assert (judged.wins, judged.ties, judged.losses) == (0, len(NEAR), 0)
    assert judged.consistency is not None
    assert judged.consistency.value == 0
    assert judged.p == 1
    assert {pair.flag for pair in found.agreement} == {"UNCONFIRMED"}
    assert {pair.kendall for pair in found.agreement} == {None}


def test_a_rubric_gives_points_to_one_system_or_two() -> None:
    with remote(preferring(liking(NEAR[:4]))) as server:
        alone = weft.judge(NEAR, REFERENCES, judges=[server.settings], **QUICK)
        both = weft.judge(
            NEAR, REFERENCES, against=FAR, judges=[server.settings], protocol="rubric", **QUICK
        )
    whole = round(liking([])(NEAR[5]))
    assert alone.judges[0].rows.tolist() == [8.0] * 4 + [float(whole)] * 8
    assert alone.judges[0].wins is None
    assert alone.agreement[0].flag is None
    other = round(liking([])(FAR[0]))
    assert both.judges[0].rows.tolist() == [8.0 - other] * 4 + [float(whole - other)] * 8
    assert [one.value for one in both.judges[0].points] == pytest.approx(
        [(8 * 4 + whole * 8) / 12, other]
    )


def test_several_judges_have_an_alpha() -> None:
    with remote(preferring(liking(NEAR))) as one, remote(preferring(liking(NEAR[:6]))) as other:
        settings = [one.settings, {**other.settings, "model": "another"}]
        found = weft.judge(NEAR, REFERENCES, against=FAR, judges=settings, **QUICK)
        assert found.alpha is not None
        assert found.alpha < 1
        with pytest.raises(ValueError, match="two judges are rule"):
            weft.judge(NEAR, REFERENCES, against=FAR, judges=[one.settings] * 2, **QUICK)


def test_interrupted_judging_goes_on_where_it_was(tmp_path: Path) -> None:
    left = 30

    def breaks(prompt: str) -> str | tuple[int, str]:
        nonlocal left
        left -= 1
        return preferring(liking(NEAR))(prompt) if left >= 0 else (400, "stopped")

    def run(server: Remote) -> Any:
        settings = {**server.settings, "url": server.url, "at_once": 1}
        return weft.judge(NEAR, REFERENCES, against=FAR, judges=[settings], out=tmp_path, **QUICK)

    with remote(breaks) as server:
        with pytest.raises(ValueError, match="400"):
            run(server)
        kept = (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()
        assert len(kept) == 30
        # As an interruption in the middle of a line leaves it.
        with (tmp_path / "answers.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"asked": "ab')
        left, server.bodies[:] = 1000, []
        found = run(server)
        assert len(server.bodies) == 4 * len(NEAR) - 30
        again = run(server)
        assert len(server.bodies) == 4 * len(NEAR) - 30
    assert found.as_json() == again.as_json()
    (tmp_path / "answers.jsonl").write_text('{"said": "A"}\n')
    with pytest.raises(ValueError, match="no answer of a judge"):
        run(server)


def test_a_server_is_asked_at_temperature_0_and_its_key_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_JUDGE_KEY", "secret")
    with remote(preferring(liking(NEAR))) as server:
        weft.judge(
            NEAR, REFERENCES, against=FAR, questions=[f"what of the {topic}?" for topic in TOPICS],
            judges=[server.settings], criteria="Be brief.", out=tmp_path, **QUICK,
        )  # fmt: skip
    assert {body["temperature"] for body in server.bodies} == {0}
    assert set(server.keys) == {"Bearer secret"}
    assert all("Be brief." in body["messages"][0]["content"] for body in server.bodies)
    assert any("what of the jaw?" in body["messages"][0]["content"] for body in server.bodies)
    assert [path for path in tmp_path.iterdir() if "secret" in path.read_text("utf-8")] == []


def answers(server: Remote, **settings: Any) -> list[str]:
    kind = judges.load("server")
    own = {name: value for name, value in server.settings.items() if name != "name"}
    judge = kind(kind.spec_type.model_validate({**own, **settings}))
    return list(judge.answers(["one", "two"], ("A", "B", "tie")))


@pytest.mark.parametrize("said", ["A", " a.", "**A**", "They differ.\n\nA", '"A"'])
def test_marks_around_an_answer_and_thoughts_before_it_are_no_part_of_it(said: str) -> None:
    with remote(lambda prompt: said) as server:
        assert answers(server) == ["A", "A"]


@pytest.mark.parametrize("said", ["", "C", "11", "A or B", "I prefer A"])
def test_an_answer_outside_the_scale_is_named(said: str) -> None:
    with (
        remote(lambda prompt: said) as server,
        pytest.raises(ValueError, match="not of its scale") as error,
    ):
        answers(server)
    assert repr(said) in str(error.value)


def test_a_server_is_tried_again_so_often_and_then_named() -> None:
    tries = {"one": 0, "two": 0}

    def rule(prompt: str) -> str | tuple[int, str]:
        tries[prompt] += 1
        return (503, "busy") if tries[prompt] < 2 else "B"

    with remote(rule) as server:
        assert answers(server, retries=1) == ["B", "B"]
        assert tries == {"one": 2, "two": 2}
        tries["one"] = -10
        with pytest.raises(OSError, match=r"did not answer: 503 with 'busy' \(tries: 2"):
            answers(server, retries=1, at_once=1)
    with pytest.raises(OSError, match="ConnectError"):
        answers(server, retries=0)


def test_a_silent_server_is_given_up_in_time() -> None:
    done = threading.Event()

    def rule(prompt: str) -> str:
        done.wait(10)
        return "A"

    with remote(rule) as server:
        try:
            with pytest.raises(OSError, match="ReadTimeout"):
                answers(server, retries=0, timeout_s=0.2, at_once=1)
        finally:
            done.set()


def test_what_answers_but_is_no_judge_is_named() -> None:
    with (
        remote(lambda prompt: (200, "<html>")) as server,
        pytest.raises(ValueError, match="no chat completion"),
    ):
        answers(server)
    with pytest.raises(ValueError, match="no server's address"):
        answers(Remote("ftp://nowhere"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"references": REFERENCES[:-1]}, "12 candidates, but 11 references"),
        ({"candidates": [], "references": []}, "no rows to judge"),
        ({"references": [" ", *REFERENCES[1:]]}, "row 0 says nothing"),
        ({"against": [1] * 12}, r"against\[0\]: expected a text"),
        ({"metrics": ["blue"]}, "Did you mean 'bleu'"),
        ({"protocol": "pairwise"}, "compares two systems"),
        ({"judges": [{"url": "x"}]}, "expected a `name`"),
        ({"judges": [{"name": "sever", "url": "x"}]}, "Did you mean 'server'"),
        ({"judges": [{"name": "server", "url": "x", "model": "m", "temp": 1}]}, "temp"),
        ({"columns": {"answer": "x"}}, "no role named"),
        ({"resamples": 0}, "at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    given: dict[str, Any], said: str
) -> None:
    settings: dict[str, Any] = {"candidates": NEAR, "references": REFERENCES, **QUICK, **given}
    with pytest.raises((ValueError, KeyError), match=said):
        weft.judge(**settings)


def test_too_few_references_try_no_judge() -> None:
    with remote(lambda prompt: "A") as server, pytest.raises(ValueError, match="4 references have"):
        weft.judge(NEAR[:4], REFERENCES[:4], against=FAR[:4], judges=[server.settings], **QUICK)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


def test_files_of_any_form_are_matched_by_id_or_by_order(tmp_path: Path) -> None:
    near = write(
        tmp_path / "a.jsonl",
        [{"id": topic, "text": text} for topic, text in zip(TOPICS, NEAR, strict=True)],
    )
    wanted = write(
        tmp_path / "r.csv",
        [
            {"id": topic, "note": text}
            for topic, text in reversed([*zip(TOPICS, REFERENCES, strict=True)])
        ],
    )
    far = write(
        tmp_path / "b.tsv",
        [{"id": topic, "text": text} for topic, text in zip(TOPICS, FAR, strict=True)],
    )
    files = weft.judge(near, wanted, against=far, columns={"references": "note"}, **QUICK)
    lists = weft.judge(NEAR, REFERENCES, against=FAR, **QUICK)
    for one, other in zip(files.lexical, lists.lexical, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
    assert files.ids == tuple(TOPICS)
    with pytest.raises(ValueError, match=r"no column named 'text'.*--column references=NAME"):
        weft.judge(near, wanted, **QUICK)
    other = write(
        tmp_path / "c.jsonl", [{"id": f"{at}", "text": text} for at, text in enumerate(FAR)]
    )
    with pytest.raises(ValueError, match="no row has the candidates' id 'heart'"):
        weft.judge(near, wanted, against=other, columns={"references": "note"}, **QUICK)
    twice = write(tmp_path / "d.jsonl", [{"id": "heart", "text": text} for text in FAR])
    with pytest.raises(ValueError, match="comes more than once"):
        weft.judge(near, twice, **QUICK)


def test_the_command_prints_what_the_call_finds(tmp_path: Path) -> None:
    rows = [
        {"a": one, "b": two, "r": wanted}
        for one, two, wanted in zip(NEAR, FAR, REFERENCES, strict=True)
    ]
    file = str(write(tmp_path / "rows.csv", rows))
    with remote(preferring(liking(NEAR))) as server:
        arguments = [
            "judge", file, "--references", file, "--against", file, "--metrics", "bleu,rouge", "--quiet",
            "--judge", f"server,url={server.url},model=rule", "--column", "candidates=a",
            "--column", "against=b", "--column", "references=r",
        ]  # fmt: skip
        ran = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
        found = weft.judge(
            NEAR, REFERENCES, against=FAR, metrics=["bleu", "rouge"], judges=[server.settings]
        )
    assert json.loads(ran.stdout) == json.loads(json.dumps(found.as_json()))
    assert "AGREED" in shown.stdout
    wrong = CliRunner().invoke(app, ["judge", file, "--references", file, "--judge", "server,url"])
    assert wrong.exit_code == 2
    assert "expected KEY=VALUE" in wrong.stderr


def log_probability(local: Local, prompt: str, option: str) -> float:
    """Of an option behind a prompt, by one whole forward in double precision."""
    base = local.model.base
    ids = prompt_ids(base, f"{prompt}\n", Generation(max_new_tokens=8), "prompt")
    own = [
        *base.tokenizer(option, add_special_tokens=False)["input_ids"],
        base.tokenizer.eos_token_id,
    ]
    held = local.model.snapshot
    writer: Any = held.head(NAME).assembled(held.trunk)
    with torch.no_grad(), held.routed(None):
        said = writer(torch.tensor([[*ids, *own]])).logits[0].double().log_softmax(-1)
    return sum(float(said[len(ids) - 1 + at, token]) for at, token in enumerate(own))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_local_judge_s_answer_is_the_most_probable_option(
    kind: str, tiny_folder: Callable[[str], Path]
) -> None:
    local = judges.load("local")(
        Local.spec_type.model_validate({"base": str(tiny_folder(kind)), "device": "cpu"})
    )
    assert isinstance(local, Local)
    for name in protocols.names():
        options = protocols.load(name).options
        prompts = ["the good dog", "which one is better: a red house or a blue city"]
        wanted = [
            [log_probability(local, prompt, option) for option in options] for prompt in prompts
        ]
        found = [local.log_probabilities(prompt, options).tolist() for prompt in prompts]
        # Sums of logits in single precision, in another order of sums with the cache.
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        best = [options[int(np.argmax(own))] for own in wanted]
        assert list(local.answers(prompts, options)) == best
    with pytest.raises(ValueError, match="positions"):
        local.log_probabilities("good " * 200, ("A", "B"))


def test_a_local_judge_that_knows_nothing_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    settings = {"name": "local", "base": str(tiny_folder("llama")), "device": "cpu"}
    short = [f"the {topic} is good" for topic in TOPICS]
    with pytest.raises(ValueError, match="is no judge"):
        weft.judge(
            short, short, judges=[settings], criteria="Judge.", metrics=["bleu"], resamples=10
        )


def test_equal_prompts_are_asked_once() -> None:
    with remote(preferring(in_order)) as server:
        kind = judges.load("server")
        own = {name: value for name, value in server.settings.items() if name != "name"}
        asking = Asking(kind(kind.spec_type.model_validate(own)), None)
        prompts = protocols.load("rubric")().prompts(CRITERIA, None, (NEAR[0], NEAR[0]))
        first, second = asking.answers(prompts, protocols.load("rubric").options, "judging")
    assert first == second
    assert len(server.bodies) == 1


def test_no_number_in_the_json_is_none_of_json_s() -> None:
    found = weft.judge(NEAR, NEAR, against=NEAR, **QUICK)
    text = json.dumps(found.as_json(), allow_nan=False)
    assert not any(math.isnan(value) for value in json.loads(text)["lexical"][0]["rows"])
