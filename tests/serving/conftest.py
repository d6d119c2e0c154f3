"""Experts on tiny bases, and servers that answer for them."""

import importlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.runs import INPUTS, write_mixture, write_run
from tests.serving.served import app_of, listening
from weft.base.loading import load_base
from weft.serving.cluster.starting import imported_ray

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
MIXED = ["sequence_classification", "token_classification", "span_extraction"]
READERS = [kind for kind in INPUTS if kind != "causal_lm"]


@pytest.fixture(scope="session")
def shelf_folder(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An expert of every kind that an encoder has, each by its kind's name; never to be changed."""
    folder = tmp_path_factory.mktemp("shelf")
    base = load_base(str(tiny_folder("bert")))
    for at, kind in enumerate(READERS):
        write_run(folder / kind, base, kind, at)
    return folder


@pytest.fixture(scope="session")
def writers_folder(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An expert that writes, on a base whose tokenizer knows how a chat looks; never to be changed."""
    home = tmp_path_factory.mktemp("chatty")
    shutil.copytree(tiny_folder("gpt2"), home / "base")
    (home / "base" / "chat_template.jinja").write_text(TEMPLATE)
    base = load_base(str(home / "base"))
    targets = ["all-linear"]
    write_run(home / "shelf" / "writer", base, "causal_lm", 1, targets=targets)
    write_run(home / "shelf" / "other", base, "causal_lm", 2, targets=targets)
    return home / "shelf"


@pytest.fixture(scope="session")
def page_folder(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An expert of every kind that an encoder has, by its kind's name, and `blend`, a mixture; never to be changed."""
    folder = tmp_path_factory.mktemp("page")
    base = load_base(str(tiny_folder("bert")))
    for at, kind in enumerate(READERS):
        write_run(folder / kind, base, kind, at)
    write_mixture(folder / "blend", base, MIXED)
    return folder


@pytest.fixture(scope="session")
def page_server(page_folder: Path) -> Iterator[str]:
    """The address of a server without keys, over `page_folder`."""
    with listening(app_of(page_folder)) as url:
        yield url


@pytest.fixture(scope="session")
def server(shelf_folder: Path) -> Iterator[str]:
    """The address of a server without keys, over `shelf_folder`."""
    with listening(app_of(shelf_folder)) as url:
        yield url


@pytest.fixture(scope="session")
def writing_server(writers_folder: Path) -> Iterator[str]:
    """The address of a server without keys, over `writers_folder`."""
    with listening(app_of(writers_folder)) as url:
        yield url


@pytest.fixture
def http(server: str) -> Iterator[httpx.Client]:
    """Talks to `server`."""
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """This machine as a cluster; its CPUs are so many in Ray's books alone."""
    if find_spec("ray") is None:
        pytest.skip("Ray Serve is not installed")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        # Its own settings are written as older pydantics had them.
        ray = imported_ray()
    ray.init(
        "local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    yield ray
    serve = importlib.import_module("ray.serve")
    serve.shutdown()
    ray.shutdown()
