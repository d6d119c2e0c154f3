"""What training and answering cost: time beside the bare base and beside other programs."""

from collections.abc import Iterator
from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table


def document() -> Document | None:
    """A section for each thing that was timed; None where nothing was."""
    sections = (
        _training(),
        _answering(),
        _cold_start(),
        _forward(),
        _mixtures(),
        _waiting(),
        _writing(),
        _users(),
    )
    found = tuple(filter(None, sections))
    if not found:
        return None
    short = Section("short", "In short", notes=tuple(_short()))
    return Document("Speed", (short, *found))


def _short() -> Iterator[str]:
    throughput, overhead = read("throughput-cpu"), read("overhead-cpu")
    cold = read("cold-start-cpu")
    if throughput is not None:
        ratios = [row["ratio_to_best"] for row in throughput["results"]]
        yield (
            f"Training handles {min(ratios):.2f} to {max(ratios):.2f} times the real tokens a second of Trainer and "
            "PEFT in their best configuration."
        )
    if overhead is not None:
        many = [row["overhead"]["25 experts in one batch"] for row in overhead["results"]]
        yield (
            f"A batch whose rows belong to 25 experts takes {min(many):.2f} to {max(many):.2f} times the forward pass "
            "of the bare base."
        )
    if cold is not None:
        median = {row["what"]: row["median"] for row in cold["results"]}
        yield (
            f"The first answer of a new process takes {median['weft predict EXPORT']:.2f} s of processor time from an "
            f"export to ONNX, {median['weft predict RUN']:.2f} s from a run folder."
        )


def _training() -> Section | None:
    result = read("throughput-cpu")
    if result is None:
        return None
    rows = tuple(
        (
            f"{row['task']}, {row['precision']}",
            f"{row['tokens_per_second']['weft']:,.0f}",
            f"{row['ratio_to_default']:.2f}",
            f"{row['ratio_to_best']:.2f}",
            f"{row['peak_memory_mib']['weft']:,.0f}",
            f"{row['peak_memory_mib']['default/sdpa']:,.0f}",
        )
        for row in result["results"]
    )
    headers = ("set, precision", "real tokens a second", "times Trainer + PEFT, default")
    headers += ("times its best configuration", "peak memory, MiB", "Trainer + PEFT's, MiB")
    return _section("training", "Training beside Trainer and PEFT", result, headers, rows)


def _answering() -> Section | None:
    result = read("answering-cpu")
    if result is None:
        return None
    rows = tuple(
        (
            row["task"],
            f"{row['rows']:,}",
            f"{row['seconds']['weft']:.2f}",
            *(f"{row['times'][name]:.2f}" for name in result["settings"]["peers"]),
        )
        for row in result["results"]
    )
    headers = ("set", "rows", "processor time of weft, s")
    headers += tuple(f"{name}: times weft" for name in result["settings"]["peers"])
    return _section("answering", "Answering many rows", result, headers, rows)


def _cold_start() -> Section | None:
    result = read("cold-start-cpu")
    if result is None:
        return None
    rows = tuple(
        (row["what"], f"{row['median']:.2f}", f"{row['least']:.2f}", f"{row['most']:.2f}")
        for row in result["results"]
    )
    headers = ("process", "processor time, median, s", "least", "most")
    return _section("cold-start", "The first answer of a new process", result, headers, rows)


def _forward() -> Section | None:
    result = read("overhead-cpu")
    if result is None:
        return None
    rows = tuple(
        (row["precision"], name, f"{times:.2f}")
        for row in result["results"]
        for name, times in row["overhead"].items()
    )
    own = result["settings"]
    heading = f"Forward over the bare base, {own['rows']} x {own['tokens']} tokens"
    return _section(
        "forward", heading, result, ("precision", "what", "times the base"), rows, words=2
    )


def _mixtures() -> Section | None:
    result = read("mixture-speed-cpu")
    if result is None:
        return None
    rows = tuple(
        (
            row["mixture"],
            str(row["experts"]),
            found["precision"],
            "x".join(map(str, row["shape"])),
            *(
                f"{row['over_base'][name]:.2f}" if name in row["over_base"] else ""
                for name in ("mixture", "loop over experts")
            ),
        )
        for found in result["results"]
        for row in found["forward"]
    )
    headers = ("mixture", "experts", "precision", "rows x tokens", "times the base")
    headers += ("as a loop over experts",)
    return _section("mixtures", "Forward of mixtures", result, headers, rows, words=4)


def _waiting() -> Section | None:
    result = read("waiting-cpu")
    if result is None:
        return None
    rows = tuple(
        (f"weft {name}", f"{own['median']:.2f}", f"{own['most']:.2f}")
        for name, own in result["commands"].items()
    )
    headers = ("command", "median, s", "longest, s")
    heading = "How long one waits for an answer"
    return _section("waiting", heading, result, headers, rows)


def _writing() -> Section | None:
    result = read("decoder-throughput-cpu")
    if result is None or "writing" not in result:
        return None
    own = result["writing"]
    one = own["tokens_per_second"]["one expert"]
    rows = tuple(
        (name, f"{rate:.1f}", f"{rate / one:.2f}")
        for name, rate in own["tokens_per_second"].items()
    )
    headers = ("eight texts at once by", "tokens/s", "beside one expert")
    heading = "Writing on SmolLM2-135M"
    return _section("writing", heading, result, headers, rows)


def _users() -> Section | None:
    result = read("personal/loading")
    if result is None:
        return None
    rows = tuple(
        (
            row["targets"],
            f"{row['bytes_a_user'] / 1000:.0f}",
            f"{row['seconds_to_list']:.2f}",
            "{:.1f} [{:.1f}, {:.1f}]".format(
                row["milliseconds_to_load"]["median"], *row["milliseconds_to_load"]["quartiles"]
            ),
        )
        for row in result["results"]
    )
    headers = ("adapted maps", "kB on disk a user", "s to list all", "ms to load one [quartiles]")
    count = result["results"][0]["users"]
    heading = f"What a user costs, of {count:,} in one run"
    return _section("users", heading, result, headers, rows)


def _section(
    key: str,
    heading: str,
    result: dict[str, Any],
    headers: tuple[str, ...],
    rows: tuple[tuple[str, ...], ...],
    *,
    words: int = 1,
) -> Section:
    return Section(key, heading, parts=(Table(measured_on(result), headers, rows, words=words),))
