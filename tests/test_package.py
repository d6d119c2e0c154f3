"""The wheel is whole: built from this tree and used from another folder, with no file of the checkout on the path."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHERE = "import sys, weft; print(weft.__file__); print(*sys.path, sep='\\n')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built by the installed hatchling: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(ROOT)], check=True)
    (made,) = folder.glob("weft-*.whl")
    return made


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(folder),
    ]
    subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True)
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Callable[..., str]:
    """Run Python in a folder of its own, with the wheel and the packages weft needs, and say what it prints."""

    def call(*arguments: str) -> str:
        # Without `site`, no .pth file leads to the checkout.
        path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])
        ran = subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return call


def test_the_wheel_holds_all_that_weft_reads_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "weft").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {
        f"weft/shipped/{path.relative_to(ROOT).as_posix()}"
        for part in ("configs", "examples")
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "weft/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_answers_from_another_folder(
    run: Callable[..., str], tmp_path: Path, site: Path
) -> None:
    file, *path = run("-c", WHERE).splitlines()
    assert Path(file).is_relative_to(site)
    assert [place for place in path if Path(place).is_relative_to(ROOT / "src")] == []
    assert run("-m", "weft", "--version") == "0.1.0\n"
    assert "lora" in run("-m", "weft", "list", "recipes")
    assert run("-m", "weft", "init").split() == ["configs", "examples"]
    assert (tmp_path / "examples" / "own_task" / "train.csv").is_file()
    assert (site / "bin" / "weft").is_file()


@pytest.mark.slow
def test_the_wheel_trains_what_it_carries(
    run: Callable[..., str], tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    run("-m", "weft", "init")
    changed = [f"base={tiny_folder('bert')}", "training.max_steps=2", "device=cpu"]
    sets = [part for change in changed for part in ("--set", change)]
    run("-m", "weft", "train", "configs/own_task.yaml", *sets, "--out", "run", "--quiet")
    assert "praise" in run("-m", "weft", "predict", "run", "It was fine.", "--json")
    assert "nothing" in run("-m", "weft", "doctor").splitlines()[-1]
