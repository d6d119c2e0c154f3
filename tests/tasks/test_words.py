"""What a word is: marks ride along, scripts without spaces are cut, Unicode's boundaries, training's own tokens."""

import unicodedata
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from icu4py.breakers import CharacterBreaker, WordBreaker

from weft.config import TaskSettings
from weft.data.reading import load_task
from weft.tasks.words import WAYS, Way, recognise, words_of


def words(text: str, way: Way = "web") -> list[str]:
    return [word for word, _, _ in words_of(text, way)]


def test_words_are_separated_as_in_wnut17() -> None:
    tweet = (
        "@paulwalk It's the view from where I'm living for two weeks. "
        "Empire State Building=ESB. Pretty bad storm here last evening."
    )
    assert " ".join(words(tweet)) == (
        "@paulwalk It 's the view from where I 'm living for two weeks . "
        "Empire State Building = ESB . Pretty bad storm here last evening ."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see http://a.b/c?d=1. (or www.x.org)", "see http://a.b/c?d=1 . ( or www.x.org )"),
        ("at 10:30pm, $4,000 or 25%!!", "at 10:30pm , $4,000 or 25% !!"),
        ("U.S. self-made #tag :-) ...", "U.S. self-made #tag :-) ..."),
        ("I don\u2019t, you can't", "I do n\u2019t , you ca n't"),
        ("a&b c:d me@home", "a & b c : d me @ home"),
    ],
)
def test_punctuation_stands_alone(text: str, expected: str) -> None:
    assert words(text) == expected.split()


def test_most_words_of_wnut17_stay_whole(shared_data: Path) -> None:
    lines = (shared_data / "wnut17" / "train.conll").read_text(encoding="utf-8").split("\n")
    tokens = [line.split("\t")[0] for line in lines if line.strip()]
    # The rest: the set itself writes both `I'm` and `I 'm`, and keeps marks like `?!` together.
    assert np.mean([words(token) == [token] for token in tokens]) > 0.975


RIDING = {
    "Tamil": "தமிழ் மொழி நாடு !",
    "Hindi": "हिन्दी में कविता ।",
    "Bengali": "বাংলা ভাষা ।",
    "Telugu": "తెలుగు భాష",
    "decomposed": "Jose\u0301 in Zu\u0308rich , Vie\u0323\u0302t Nam .",
    "Arabic with vowels": "كِتَابٌ جَدِيد",
    "Hebrew with points": "שָׁלוֹם עוֹלָם",
    "Persian with ZWNJ": "\u0645\u06cc\u200c\u062e\u0648\u0631\u0645 \u06a9\u062a\u0628\u200c\u0647\u0627",
    "Sinhala with ZWJ": "ශ්\u200dරී ලංකා",
    "soft hyphen": "Donau\u00addampf schiff\u00adfahrt",
    "direction marks": "(\u200e abc\u200f )",
    "emoji": "👩\u200d👩\u200d👧 ❤\ufe0f 👍🏽 1\ufe0f\u20e3 🇩🇪",
    "Korean": "서울에서 만나요 .",
}


@pytest.mark.parametrize("name", RIDING)
def test_marks_joiners_and_soft_hyphens_stay_in_their_word(name: str) -> None:
    # The words are written apart here: what is between spaces is one.
    text = RIDING[name]
    assert words(text) == text.split()
    assert words(text.replace(" ।", "।").replace(" .", ".").replace(" ,", ",")) == text.split()


@given(
    st.text(st.sampled_from("aé中ก1.'-#@ \n\u200b\u200c\u200d\u00ad\u0301\u0e31") | st.characters())
)
def test_every_way_holds_every_visible_character_once(text: str) -> None:
    for way in WAYS:
        found = words_of(text, way)
        assert all(text[start:end] == word for word, start, end in found), way
        covered = [place for _, start, end in found for place in range(start, end)]
        seen = [at for at, mark in enumerate(text) if not (mark.isspace() or mark == "\u200b")]
        assert covered == seen, way


@given(st.text(st.sampled_from("ab中かกั.'\u200d\u00ad\u0301\ufe0f") | st.characters(), min_size=1))
def test_no_mark_joiner_or_soft_hyphen_stands_alone_beside_others(text: str) -> None:
    for way in ("web", "characters", "dictionary", "spaces"):
        for word in words(text, way):
            riders = [unicodedata.category(mark) in ("Mn", "Mc", "Me", "Cf") for mark in word]
            # Only white space on both sides leaves it nothing to ride on.
            assert not all(riders) or word in text.replace("\u200b", " ").split(), (way, word)


def test_sentences_of_scripts_without_spaces_are_not_one_word() -> None:
    chinese, thai, japanese = "我在北京。", "ผมรักกรุงเทพ", "東京のテスト"
    assert words(chinese) == list(chinese)
    assert words(thai) == ["ผ", "ม", "รั", "ก", "ก", "รุ", "ง", "เ", "ท", "พ"]
    assert words(japanese) == ["東", "京", "の", "テスト"]
    assert words("買iPhone16手機 2025年#台北") == [
        *("買", "iPhone16", "手", "機", "2025", "年", "#", "台", "北")
    ]


def test_a_dictionary_finds_the_words_of_scripts_without_spaces() -> None:
    assert words("ผมรักกรุงเทพ @you", "dictionary") == ["ผม", "รัก", "กรุงเทพ", "@you"]
    assert words("我在北京大学, OK", "dictionary") == ["我在", "北京", "大学", ",", "OK"]
    # As ICU itself cuts the run.
    run = "ภาษาไทยเป็นภาษาที่มีระดับเสียง"
    assert words(run, "dictionary") == list(WordBreaker(run, "th"))


def _icu(text: str, breaker: type) -> list[tuple[int, int]]:
    ends = [0, *accumulate(map(len, breaker(text, "und")))]
    return list(pairwise(ends))


# ICU looks words of other scripts up in dictionaries. Circled M alone is a letter and a pictograph at once: behind a
# joiner ICU goes on from the letter, and the rules here from the pictograph.
_PLAIN = st.characters(
    categories=("L", "M", "N", "P", "S", "Z", "Cf"),
    max_codepoint=0x2FFF,
    exclude_characters="\u24c2",
).filter(
    lambda mark: (
        not any(
            a <= ord(mark) <= b for a, b in ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x1AAF))
        )
    )
)
_TRICKY = st.sampled_from(
    "ab1.,:;'\"_- \r\n\u00ad\u200d\u0301\u0308\u05d0\u05f3\u30ab\u30fc\U0001f1e9\U0001f469"
)


@given(st.text(_TRICKY | _PLAIN, min_size=1))
def test_unicode_boundaries_are_those_of_icu(text: str) -> None:
    expected = []
    for start, end in _icu(text, WordBreaker):
        visible = text[start:end].strip("\u200b").strip()
        if visible:
            first = start + text[start:end].index(visible)
            expected.append((visible, first, first + len(visible)))
    assert words_of(text, "unicode") == expected


_CLUSTERED = (
    "ae\u0301\u0308\u4e2d\uac01\u1100\u1161\u11a8\U0001f1e9\U0001f469\u200d\u0928\u093f\u0915"
)


@given(st.text(st.sampled_from(_CLUSTERED), min_size=1))
def test_characters_are_the_grapheme_clusters_of_icu(text: str) -> None:
    clusters = _icu(f"a{text}", CharacterBreaker)
    # Behind a letter: at the very beginning a mark has nothing to ride on for ICU.
    assert [(start, end) for _, start, end in words_of(f"a{text}", "characters")] == clusters


TOKENS: dict[Way, list[Sequence[str]]] = {
    "web": [
        ["@jo", "It", "'s", "in", "the", "U.S.", ",", "is", "n't", "it", "?"],
        ["self-made", "(", "see", "http://x.org/a", ")", "at", "10:30pm", "."],
    ],
    "unicode": [["can't", "be", "self", "-", "made", ",", "#", "tag", "!"], ["U.S.A", ".", "it's"]],
    "characters": [list("我在iPad2019年。"), list("他去3605,是")],
    "dictionary": [["ผม", "รัก", "กรุงเทพ"], ["เขา", "ไป", "เชียงใหม่", "แล้ว"]],
    "spaces": [["So,", "he", "said:", "well!"], ["(It's", "Denver,", "Colorado)."]],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_training_sets_tokens_say_what_a_word_is(way: Way) -> None:
    assert recognise(TOKENS[way]) == way


def test_chinese_words_are_looked_up_and_chinese_characters_are_not() -> None:
    assert (
        recognise([["我", "住", "在", "北京", "大学"], ["他们", "喜欢", "音乐", "。"]])
        == "dictionary"
    )
    assert recognise([list("北京很大。"), list("上海也是。")]) == "characters"


def test_wnut17_is_recognised_as_what_the_rules_were_made_for(shared_data: Path) -> None:
    blocks = (shared_data / "wnut17" / "train.conll").read_text(encoding="utf-8").split("\n\n")
    rows = [[line.split("\t")[0] for line in block.split("\n") if line] for block in blocks]
    assert recognise(rows) == "web"


def test_tokens_that_are_no_words_are_refused_by_their_row(tmp_path: Path) -> None:
    """What a word is comes from the rows' own tokens, so these are looked at before the rows are checked."""
    (tmp_path / "train.jsonl").write_text('{"tokens": [1, 2], "tags": ["O", "B-x"]}\n')
    task = tmp_path / "own.yaml"
    task.write_text("kind: token_classification\nformat: jsonl\nfiles: {train: train.jsonl}\n")
    with pytest.raises(ValueError, match=r"train\.jsonl:1: column 'tokens' must be a list of"):
        load_task(TaskSettings(name=str(task)), splits=["train"], seed=0)
