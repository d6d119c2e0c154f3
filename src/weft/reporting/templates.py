"""Templates of pages: those of reports, and of rooms above that share their style and their marks."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_OWN = "weft.reporting"


def environment(package: str = _OWN) -> "Environment":
    """The templates of a package, and behind them those of this one: marks in `marked.html.j2`, style in `base.css`.

    Args:
        package: Where the files lie.

    Raises:
        ValueError: If jinja2 is not installed.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ValueError("the page needs jinja2: pip install 'weft[report]'") from None
    packages = dict.fromkeys((package, _OWN))
    return Environment(
        loader=ChoiceLoader([PackageLoader(name, "") for name in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
