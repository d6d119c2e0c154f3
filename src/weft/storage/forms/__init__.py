"""What an expert can be written as, a file each, found by its name; `-` in a name is `_` in the file's."""

from typing import TYPE_CHECKING

from weft.registry import Registry, unknown

if TYPE_CHECKING:
    from weft.storage.forms.contract import Form

forms: "Registry[Form]" = Registry("weft.storage.forms", "weft.storage.forms.contract:Form")


def names() -> list[str]:
    """The forms as users call them; nothing is imported."""
    return [name.replace("_", "-") for name in forms.names()]


def form_of(name: str) -> "Form":
    """The form called `name`.

    Raises:
        ValueError: If there is none; names the nearest.
    """
    if name not in names():
        raise ValueError(f"export: {unknown('form', name, names())}")
    return forms.load(name.replace("-", "_"))()
