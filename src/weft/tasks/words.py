"""What a word is in running text: five ways to part it, and which of them a training set's tokens follow.

    web         addresses, mentions, hashtags, amounts and hyphenated words whole, English clitics alone
    unicode     the word boundaries of Unicode Standard Annex #29
    characters  every user-perceived character alone (grapheme clusters of the same annex)
    dictionary  as `web`, but words of scripts written without spaces are looked up by ICU
    spaces      what white space parts

In all of them a combining mark, a joiner and a soft hyphen belong to the letter before them. Han, kana, Thai, Lao,
Khmer, Burmese and their like are written without spaces: `web` and `unicode` give each of their characters alone, as
the annex does where there is no dictionary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

import regex

Word = tuple[str, int, int]
"""A word and its character offsets."""
Way = Literal["web", "unicode", "characters", "dictionary", "spaces"]
WAYS: tuple[Way, ...] = get_args(Way)

_MOST_ROWS = 500
"""Rows that `recognise` looks at."""

# A rider belongs to what it stands behind: marks, joiners, soft hyphens, direction marks. The zero-width space is
# none: it parts words where scripts have no visible space.
_RIDER = r"[\p{M}\p{Cf}--\u200b]"
_SPACELESS = r"[[\p{Han}\p{Hiragana}\p{Bopomofo}\p{LB=SA}]--\p{M}]"
_KATAKANA = r"\p{WB=Katakana}"
_WORD = rf"[[\p{{L}}\p{{N}}_]--{_SPACELESS}--{_KATAKANA}]"
_LETTER = rf"[{_WORD}--[\p{{Nd}}_]]"

_WEB = regex.compile(
    rf"""
    {_RIDER}*
    (?: (?P<run>(?:(?:{_SPACELESS}|{_KATAKANA}){_RIDER}*)+)
      | (?:https?://|www\.)\S*[^\s.,;:!?"'()\[\]]          # address, without punctuation behind it
      | (?<!\w)[@#](?:{_WORD}{_RIDER}*)+                   # mention, hashtag
      | (?<!\w)[:;=]['^-]?[)(\]\[DdPpOo/\\|](?!\w)         # emoticon
      | (?:{_LETTER}{_RIDER}*)+?(?=n['\u2019]t\b) | n['\u2019]t\b            # do n't
      | ['\u2019](?:s|m|d|re|ve|ll)\b                      # It 's
      | (?:{_LETTER}{_RIDER}*\.){{2,}}                     # U.S.
      | [$£€]?\p{{Nd}}+(?:[.,:/]\p{{Nd}}+)*(?:%|(?:{_LETTER}{_RIDER}*)+)?(?!{_WORD})   # $4,000  10:30pm  25%
      | &(?:amp|lt|gt|quot);
      | (?:{_WORD}{_RIDER}*)+(?:-(?:{_WORD}{_RIDER}*)+)*
      | (?P<mark>(?![\s\x1c-\x1f\u200b])\X)(?P=mark)*               # runs of one mark: ...  !!
    )
    {_RIDER}*
    | {_RIDER}+
    """,
    regex.VERBOSE | regex.IGNORECASE | regex.VERSION1,
)
_PART = regex.compile(rf"(?:{_KATAKANA}{_RIDER}*)+|{_SPACELESS}{_RIDER}*|{_RIDER}+", regex.VERSION1)
# The annex's rules WB3 to WB16 over the library's own properties; its `\b` breaks other than the annex at apostrophes
# and flags.
_X = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"
_A = r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}]"
_INSIDE = (
    (rf"(?<={_A}{_X})[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_X}(?={_A})"),
    (rf"(?<=\p{{WB=Hebrew_Letter}}{_X})\p{{WB=Double_Quote}}{_X}(?=\p{{WB=Hebrew_Letter}})"),
    (
        rf"(?<=\p{{WB=Numeric}}{_X})[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_X}(?=\p{{WB=Numeric}})"
    ),
)
_ALNUM = rf"(?:{_A}|\p{{WB=Numeric}}){_X}"
_LETTERS = rf"(?:{_ALNUM}(?:{_ALNUM}|{'|'.join(_INSIDE)})*+|(?:\p{{WB=Katakana}}{_X})++)"
_UNITED = rf"(?:\p{{WB=ExtendNumLet}}{_X})"
_ANNEX = regex.compile(
    rf"""
      \r\n | [\r\n\p{{WB=Newline}}]
    | (?: \p{{WB=WSegSpace}}++{_X}
        | \p{{WB=Regional_Indicator}}{_X}\p{{WB=Regional_Indicator}}{_X}
        | (?: (?:{_LETTERS}?{_UNITED}++)++{_LETTERS}? | {_LETTERS} )
          (?:(?<=\p{{WB=Hebrew_Letter}}{_X})\p{{WB=Single_Quote}}{_X})?+
        | [\p{{WB=Extend}}\p{{WB=Format}}\p{{WB=ZWJ}}]++
        | .{_X}
      )(?:(?<=\p{{WB=ZWJ}})\p{{Extended_Pictographic}}{_X})*+
    """,
    regex.VERBOSE | regex.VERSION1 | regex.DOTALL,
)
_CLUSTER = regex.compile(rf"{_RIDER}*(?![\s\x1c-\x1f\u200b])\X{_RIDER}*|{_RIDER}+", regex.VERSION1)
_VISIBLE = regex.compile(r"[^\s\x1c-\x1f\u200b]+")
_UNSPACED = regex.compile(rf"{_SPACELESS}|{_KATAKANA}|[\u3000-\u303f\uff00-\uff0f]", regex.VERSION1)
_CLOSES = regex.compile(r"[\p{Pe}\p{Pf}.,;:!?%\u0964\u2026]|['\u2019]\p{L}|n['\u2019]t$", regex.I)
_OPENS = regex.compile(r"[\p{Ps}\p{Pi}$£€]$")


def words_of(text: str, way: Way = "web") -> list[Word]:
    """The words of running text with their character offsets.

    Every character that is not white space (U+200B included) is in exactly one word.

    Raises:
        ValueError: If `way` is `dictionary` and ICU is not installed.
    """
    return list(_ways[way](text))


def _web(text: str, part_run: Callable[[str], Iterable[Word]]) -> Iterator[Word]:
    for match in _WEB.finditer(text):
        if match["run"] is None:
            yield match[0], match.start(), match.end()
            continue
        at = match.start()
        yield from ((word, at + start, at + end) for word, start, end in part_run(match[0]))


def _apart(run: str) -> Iterator[Word]:
    words = [(match[0], match.start(), match.end()) for match in _PART.finditer(run)]
    if len(words) > 1 and regex.fullmatch(rf"(?V1){_RIDER}+", words[0][0]):
        # Riders in front of a run belong to its first character.
        words[:2] = [(words[0][0] + words[1][0], 0, words[1][2])]
    yield from words


def _looked_up(run: str) -> Iterator[Word]:
    try:
        from icu4py.breakers import WordBreaker  # an extra: only scripts without spaces want it
    except ImportError:
        raise ValueError(
            "this text's script has no spaces and its words are to be looked up (words: dictionary), which takes ICU: "
            "pip install 'weft[words]', or give the words as `tokens`"
        ) from None
    at = 0
    for word in WordBreaker(run, "und"):  # its own offsets count UTF-16 units
        yield word, at, at + len(word)
        at += len(word)


def _boundaries(text: str) -> Iterator[Word]:
    yield from _visible(text, (match.span() for match in _ANNEX.finditer(text)))


def _clusters(text: str) -> Iterator[Word]:
    return ((match[0], match.start(), match.end()) for match in _CLUSTER.finditer(text))


def _visible(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[Word]:
    # A mark behind white space is one piece with it for Unicode; the white space is no part of the word.
    for first, last in spans:
        for match in _VISIBLE.finditer(text, first, last):
            yield match[0], match.start(), match.end()


def _spaced(text: str) -> Iterator[Word]:
    return ((match[0], match.start(), match.end()) for match in _VISIBLE.finditer(text))


_ways: dict[Way, Callable[[str], Iterable[Word]]] = {
    "web": lambda text: _web(text, _apart),
    "unicode": _boundaries,
    "characters": _clusters,
    "dictionary": lambda text: _web(text, _looked_up),
    "spaces": _spaced,
}


def recognise(rows: Iterable[Sequence[str]]) -> Way:
    """The way that the tokens of training rows follow.

    `characters` where no token has two. `dictionary` where scripts are written without spaces and
    many tokens have more than one of their characters. Else the way that gives back most of the
    tokens once their sentences are written as running text; the earlier of two that do equally well.
    """
    sentences = [list(row) for _, row in zip(range(_MOST_ROWS), rows, strict=False)]
    tokens = [token for row in sentences for token in row]
    if tokens and sum(len(words_of(token, "characters")) > 1 for token in tokens) <= 0.005 * len(
        tokens
    ):
        return "characters"
    sizes = [len(_UNSPACED.findall(token)) for token in tokens]
    unspaced = [size for size in sizes if size]
    if len(unspaced) > 0.2 * len(tokens) and sum(n > 1 for n in unspaced) > 0.2 * len(unspaced):
        return "dictionary"
    texts = [_running(row) for row in sentences]
    ways: list[Way] = [way for way in WAYS if way != "dictionary"]
    return max(ways, key=lambda way: _agreement(texts, way))


def _running(tokens: Sequence[str]) -> tuple[str, set[tuple[int, int]]]:
    """A sentence as it would be written, and where its tokens are in it."""
    text, places, before = "", set(), ""
    for token in tokens:
        glued = (
            not before
            or _CLOSES.match(token)
            or _OPENS.search(before)
            or (_UNSPACED.match(token) and _UNSPACED.match(before[-1]))
        )
        text += token if glued else f" {token}"
        places.add((len(text) - len(token), len(text)))
        before = token
    return text, places


def _agreement(texts: Sequence[tuple[str, set[tuple[int, int]]]], way: Way) -> float:
    same = all_of_them = 0
    for text, places in texts:
        found = {(start, end) for _, start, end in words_of(text, way)}
        same += len(found & places)
        all_of_them += len(found) + len(places)
    return 2 * same / max(all_of_them, 1)
