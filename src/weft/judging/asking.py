"""Judges asked, and their answers kept: what was answered once is not asked again."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from weft.atomic import make_folder, write_text
from weft.guard import RECORDS, parse_json, read_text
from weft.judging.judges.contract import Judge
from weft.scoped import tell

Progress = Callable[[int, int, str], None]
"""Called with prompts answered, prompts in all, and what they are for."""


class Asking:
    """One judge, and a file of its answers.

    Args:
        judge: Who is asked.
        path: JSON lines, each an answer as soon as it came; a torn last line is what an interruption left. None keeps
            nothing.
        progress: Told how far it is.

    Raises:
        ValueError: If the file is no such file.
    """

    def __init__(self, judge: Judge, path: Path | None, progress: Progress | None = None) -> None:
        self.judge = judge
        self._path = path
        self._progress = progress
        self._known = {} if path is None else _read(path)

    def answers(self, prompts: Sequence[str], options: Sequence[str], what: str) -> list[str]:
        """An answer to each prompt, in order.

        Args:
            prompts: What is asked; equal ones are asked once.
            options: The scale.
            what: What they are for, for the display.
        """
        keys = [self._key(prompt, options) for prompt in prompts]
        new = {
            key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known
        }
        total = len(set(keys))
        done = total - len(new)
        for key, answer in zip(new, self.judge.answers(list(new.values()), options), strict=True):
            self._keep(key, answer)
            done += 1
            tell(what, done, total)
            if self._progress is not None:
                self._progress(done, total, what)
        return [self._known[key] for key in keys]

    def _key(self, prompt: str, options: Sequence[str]) -> str:
        asked = json.dumps([self.judge.description, list(options), prompt], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()

    def _keep(self, key: str, answer: str) -> None:
        self._known[key] = answer
        if self._path is None:
            return
        make_folder(self._path.parent)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"asked": key, "answer": answer}) + "\n")


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    text = read_text(path, RECORDS)
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        # What an interruption left of a line would be the beginning of the next one.
        write_text(path, whole)
    found: dict[str, str] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        row = parse_json(line, f"{path}:{number}", whole=False)
        if not isinstance(row, dict) or not {"asked", "answer"} <= row.keys():
            raise ValueError(f"{path}:{number}: no answer of a judge; remove the file to ask anew")
        found[row["asked"]] = row["answer"]
    return found
