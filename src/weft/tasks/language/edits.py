"""How many words of two texts differ."""

from collections.abc import Sequence


def edits(said: Sequence[str], right: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that make one sequence of words the other.

    Levenshtein's distance by the recurrence of Wagner and Fischer 1974 (doi:10.1145/321796.321811).
    """
    above = list(range(len(right) + 1))
    for at, word in enumerate(said, start=1):
        row = [at]
        for place, other in enumerate(right, start=1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (word != other)))
        above = row
    return above[-1]
