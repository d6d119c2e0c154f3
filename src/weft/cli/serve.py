"""`weft serve`: experts of different kinds answer over HTTP, from one base."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Run folders, named by folder or as NAME=FOLDER."),
    ] = None,
    *,
    experts: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder whose run folders are experts; may be repeated."),
    ] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="DIR", help="Folder that PUT may take experts from too."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address; all but loopback need --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of keys; see weft key.")] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="What clients call this server, without keys."),
    ] = None,
    memory: Annotated[float, typer.Option(help="GiB of experts in memory.")] = 1.0,
    deadline: Annotated[float, typer.Option(help="Seconds an answer may take.")] = 60.0,
    waiting: Annotated[
        float, typer.Option(help="Seconds of work that may wait; what is more is answered 429.")
    ] = 10.0,
    drain: Annotated[float, typer.Option(help="Seconds for what is under way at the end.")] = 30.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    max_requests: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 512,
    max_inputs: Annotated[int, typer.Option(min=1, help="Inputs of a request.")] = 256,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Answer by processes of a Ray cluster: RAY_ADDRESS, or here."),
    ] = False,
    replicas: Annotated[
        str | None,
        typer.Option(metavar="N|MIN:MAX", help="How many, with --ray; two if not given."),
    ] = None,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Log inputs and answers.")] = False,
) -> None:
    """Answer over HTTP by one or many experts, mixtures and merged experts; SIGTERM ends it politely."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"weft serve needs {missing[0]}: pip install 'weft[serve]'")
    if replicas is not None and not ray:
        raise ValueError(
            f"--replicas {replicas} are processes of a Ray cluster; give --ray as well"
        )
    from weft.reporting.voice import current

    voice = current()
    if voice is not None:
        # The server's log speaks, in lines that programs read.
        voice.drawn_by(lambda words: None)
    from weft.serving.http.starting import start

    limits = {
        "deadline_s": deadline,
        "waiting_s": waiting,
        "drain_s": drain,
        "log_texts": log_texts,
        "max_requests": max_requests,
        "max_inputs": max_inputs,
    }
    start(
        runs or [],
        experts=experts or [],
        roots=roots or [],
        host=host,
        port=port,
        keys=keys,
        names=names or [],
        memory_gib=memory,
        device=device,
        limits=limits,
        replicas=(replicas or "2") if ray else None,
    )
