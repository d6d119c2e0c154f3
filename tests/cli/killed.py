"""Commands killed at a chosen file operation, each in a process of its own that is forked from this warm one.

python -m tests.cli.killed COMMAND POINTS GIVEN WORK      prints what went wrong as JSON lines, then the points tried
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import yaml
from safetensors import safe_open

import weft.cli
import weft.storage.exporting
import weft.training.loop

WRITES = {
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "ctypes.dlopen",
    "shutil.copyfile",
}
"""Operations on files, as Python audits them, beside opening one to write."""
CHANGING = {
    "seconds",
    "seconds_per_epoch",
    "tokens_per_second",
    "peak_memory_mib",
    "forward_over_base",
    "remarks",
}
"""Of what a command writes, what is another each time."""


def counted(kill_at: int | None, work: Path, counts: list[int]) -> None:
    """Count this process's file operations below `work` from now on; be killed before one of them."""

    def hook(event: str, given: tuple) -> None:
        opened = (
            event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        )
        here = event == "ctypes.dlopen" or any(str(one).startswith(str(work)) for one in given)
        if (opened or event in WRITES) and here:
            counts[0] += 1
            if counts[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run(arguments: list[str], work: Path, kill_at: int | None = None) -> tuple[int, int, str]:
    """Exit code (negative: killed), file operations, and what was said of an error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code, counts = 1, [0]
        with (work / ".said").open("w") as said, contextlib.redirect_stderr(said):
            try:
                out = (work / "answers.jsonl").open("w") if arguments[0] == "predict" else None
                with contextlib.redirect_stdout(out or said):
                    counted(kill_at, work, counts)
                    result = weft.cli.app(arguments, standalone_mode=False)
                    code = result if isinstance(result, int) else 0
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=said)
        os.write(writer, str(counts[0]).encode())
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, int(text or 0), (work / ".said").read_text()


def parts(work: Path) -> dict[str, Path]:
    """Every file that a user sees; drafts and locks are hidden."""
    found = {}
    for path in sorted(work.rglob("*")):
        place = path.relative_to(work)
        if path.is_file() and not any(part.startswith(".") for part in place.parts):
            found[str(place)] = path
    return found


def halves(work: Path) -> list[str]:
    """Files that are there in part alone."""
    found = []
    for name, path in parts(work).items():
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix in {".yaml", ".yml"}:
                assert yaml.safe_load(path.read_text()) is not None
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118 - it is no mapping
        except BaseException as error:
            found.append(f"{name}: {type(error).__name__}: {error}"[:300])
    return found


def content(work: Path) -> dict[str, str]:
    """By file what it holds, without what differs from run to run."""

    def steady(value: object) -> object:
        if isinstance(value, dict):
            return {key: steady(item) for key, item in value.items() if key not in CHANGING}
        return list(map(steady, value)) if isinstance(value, list) else value

    found = {}
    for name, path in parts(work).items():
        if path.suffix in {".html", ".md", ".svg", ".png", ".txt"} or name == "leaderboard.json":
            found[name] = "there"
        elif path.suffix == ".json":
            text = json.dumps(steady(json.loads(path.read_text())), sort_keys=True)
            found[name] = text.replace(str(work), "WORK")
        elif path.name == "log.jsonl":
            found[name] = str(len(path.read_text().splitlines()))
        else:
            data = path.read_bytes().replace(str(work).encode(), b"WORK")
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def main(command: str, points: int, given: Path, work: Path) -> None:
    """Kill a command at points spread over all its file operations; after each, look and call again."""
    warnings.simplefilter("ignore")
    call = json.loads((given / "calls.json").read_text())[command]

    def fresh() -> Path:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for name in call["copies"]:
            shutil.copytree(given / name, work / name)
        return work

    def arguments(*, again: bool) -> list[str]:
        own = (
            call["again"]
            if again and (work / call["made"]).exists() and call["again"]
            else call["first"]
        )
        return [one.replace("WORK", str(work)) for one in own]

    before = content(given)
    code, operations, said = run(arguments(again=False), fresh())
    if code:
        print(json.dumps({"fault": f"without a kill: {code}: {said[-1000:]}"}), flush=True)
        return
    wanted = content(work)
    tried = sorted({1 + at * max(1, operations - 1) // max(1, points - 1) for at in range(points)})
    # `predict` writes to what it is handed, and no file of its own.
    tried = tried if operations else []
    for point in tried:
        code, _, said = run(arguments(again=False), fresh(), point)
        faults = (
            halves(work)
            if code == -signal.SIGKILL
            else [f"not killed but ended with {code}: {said[-500:]}"]
        )
        code, _, said = run(arguments(again=True), work)
        if code:
            faults.append(f"the next call: {code}: {said[-1000:]}")
        elif content(work) != wanted:
            now = content(work)
            faults.append(
                f"other content: {sorted(k for k in {*now, *wanted} if now.get(k) != wanted.get(k))}"
            )
        for fault in faults:
            print(
                json.dumps({"command": command, "point": point, "of": operations, "fault": fault}),
                flush=True,
            )
    if content(given) != before:
        print(json.dumps({"command": command, "fault": "what was given has changed"}), flush=True)
    print(json.dumps({"points": len(tried), "operations": operations}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
