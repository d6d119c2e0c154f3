"""What serving many experts from one process takes, beside one expert and beside what else could serve them."""

from collections.abc import Iterator
from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table

MANY = "weft, one expert for each kind"
LABELS = {
    "weft": "weft, 25 experts of three kinds",
    MANY: "weft, one expert for each kind, kind after kind",
    "peft, one at a time": "PEFT, one lock, one adapter at a time",
    "peft, adapter_names": "PEFT, `adapter_names`, batches of one kind",
    "polylora": "PolyLoRA (GLiNER's runtime), batches of one kind",
    "pipeline": "transformers' pipeline, batches",
    "onnx": "ONNX Runtime, batches",
}


def document() -> Document | None:
    """A section for each thing that was measured; None where nothing was."""
    result = read("serving-cpu")
    if result is None:
        return None
    made = {"traffic": _traffic, "one": _one, "overload": _overload, "exact": _exact}
    made["shelf"] = _shelf
    sections = [make(result) for part, make in made.items() if part in result]
    short = Section("short", "In short", notes=tuple(_short(result)))
    return Document("Serving", (short, *sections))


def _where(result: dict[str, Any], part: str) -> str:
    """Each part says where it was measured: they may have been apart."""
    return measured_on({**result, **result[part]})


def _short(result: dict[str, Any]) -> Iterator[str]:
    if "traffic" in result:
        times = result["traffic"]["times"]
        yield (
            f"Requests to 25 experts of three kinds are answered {times[MANY]:.2f} times as fast as the same to one "
            f"expert for each kind, {times['peft, one at a time']:.2f} times as fast as by PEFT with one adapter at a "
            f"time, and {times['peft, adapter_names']:.2f} times as fast as by PEFT's mixed batches."
        )
    if "one" in result:
        times = result["one"]["times"]
        yield (
            f"One expert alone answers {times['pipeline']:.2f} times as fast as by transformers' pipeline, and "
            f"{times['onnx']:.2f} times as fast as by ONNX Runtime."
        )
    if "overload" in result:
        calm = result["overload"]["calm"]
        own = result["overload"]["for a second"]
        yield (
            f"At {calm['share']:.0%} of what saturates it, one request in a hundred takes over {calm['times']:.1f} "
            f"times the median; at {own['share']:.0%} it refuses {own['refused']:.0%} and answers "
            f"{own['times_saturated']:.2f} times as many as when saturated."
        )
    if "exact" in result:
        own = result["exact"]
        yield (
            f"{own['equal']:,} of {own['asked']:,} answers were those of the version they named, while experts were "
            f"replaced {own['puts']:,} times; {own['taken_away']:,} found their expert taken away."
        )


def _rates(key: str, heading: str, result: dict[str, Any], own: dict[str, Any]) -> Section:
    rows = tuple(
        (
            LABELS[name] if key == "traffic" or name != "weft" else "weft",
            f"{rate:,.1f}",
            *(
                f"{own[what][name]:.2f}" if name in own[what] else ""
                for what in ("times", "times_by_processor")
            ),
        )
        for name, rate in own["per_second"].items()
    )
    headers = ("server", "requests a second", "weft's times as many")
    headers += ("times as many a second of processor time",)
    return Section(key, heading, parts=(Table(_where(result, key), headers, rows, words=1),))


def _traffic(result: dict[str, Any]) -> Section:
    own = result["traffic"]["settings"]
    heading = f"Mixed traffic, {own['clients']} clients, one row a request"
    return _rates("traffic", heading, result, result["traffic"])


def _one(result: dict[str, Any]) -> Section:
    heading = f"One expert, rows of {result['one']['task'].upper()}"
    return _rates("one", heading, result, result["one"])


def _overload(result: dict[str, Any]) -> Section:
    own = result["overload"]
    calm = own["calm"]
    rows = [
        ("saturated, requests a second", f"{own['saturated_per_second']:,.1f}"),
        (f"at {calm['share']:.0%}: median, s", f"{calm['p50']:.3f}"),
        (f"at {calm['share']:.0%}: 99th percentile, s", f"{calm['p99']:.3f}"),
    ]
    for found in (own["as it comes"], own["for a second"]):
        what = f"at {found['share']:.0%}, {found['waiting_seconds']:g} s of work may wait: "
        memory = found["resident_mib"]
        rows += [
            (f"{what}refused", f"{found['refused']:.0%}"),
            (f"{what}answered, times saturated", f"{found['times_saturated']:.2f}"),
            (
                f"{what}memory before and at most, MiB",
                f"{memory['before']:,.0f}, {memory['most']:,.0f}",
            ),
            (f"{what}recovered after, s", f"{found['recovered_seconds']:.1f}"),
        ]
    table = Table(_where(result, "overload"), ("what", "measured"), tuple(rows), words=1)
    return Section("overload", "Near and far above what it can do", parts=(table,))


def _exact(result: dict[str, Any]) -> Section:
    own = result["exact"]
    rows = (
        ("requests", f"{own['asked']:,}"),
        ("equal to the offline answer of the version named", f"{own['equal']:,}"),
        ("refused because the expert had been taken away", f"{own['taken_away']:,}"),
        ("wrong, lost or crossed", f"{own['asked'] - own['equal'] - own['taken_away']:,}"),
        ("replacements meanwhile", f"{own['puts']:,}"),
        ("experts in memory at most", f"{own['residents']:,}"),
    )
    heading = f"Answers of {own['clients']} clients while experts come and go"
    table = Table(_where(result, "exact"), ("what", "count"), rows, words=1)
    return Section("exact", heading, parts=(table,))


def _shelf(result: dict[str, Any]) -> Section:
    own = result["shelf"]
    listed, loads, ready = own["listed"], own["loads"], own["ready"]
    rows = (
        (f"listing {listed['experts']:,} experts, s", f"{listed['HTTP']:.2f}"),
        ("the fifth load, ms", f"{1000 * loads['first']:.1f}"),
        (f"load {loads['loads']:,}, ms", f"{1000 * loads['last']:.1f}"),
        ("memory of one more expert, KiB", f"{loads['bytes_grown'] / 1024:,.0f}"),
        ("the same, share of the base", f"{loads['share_of_base']:.2%}"),
        (f"ready with {ready['experts']:,} experts, s", f"{ready['server']:.1f}"),
        ("of which more than loading the base takes, s", f"{ready['beyond']:.1f}"),
    )
    table = Table(_where(result, "shelf"), ("what", "measured"), rows, words=1)
    return Section("shelf", "A thousand experts", parts=(table,))
