"""Who may ask what: keys with rights, how often each may ask, and what pages may load.

A key is 256 random bits that its holder sends as `Authorization: Bearer KEY`. The server keeps the SHA-256 of each;
there is nothing to guess about a random key, so no slow hash is needed, which is for passwords.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from weft.atomic import write_text
from weft.config import Settings, read_yaml, to_yaml, validate
from weft.serving.errors import Forbidden, Unauthorized
from weft.serving.http.refusals import RateLimited

Right = Literal["predict", "manage"]
RIGHTS: tuple[Right, ...] = ("predict", "manage")
ENVIRONMENT: Mapping[str, tuple[Right, ...]] = {
    "WEFT_SERVE_KEY": ("predict",),
    "WEFT_SERVE_MANAGE_KEY": RIGHTS,
}
"""Variables that hold a key itself, for who keeps secrets in the environment."""
_SHORTEST = 24
_PREFIX = "weft-"
_HASH = re.compile("^[0-9a-f]{64}$")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
"""Of every response that does not say otherwise."""


class Key(Settings):
    """What the server knows of one key."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    """Stands in the log in place of the key."""
    sha256: str = Field(pattern=_HASH.pattern)
    """Of the key's text."""
    rights: list[Right] = Field(min_length=1)
    requests_per_minute: float | None = Field(default=None, gt=0)
    """None is as many as there is room for."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Read and written."""


class KeyFile(Settings):
    """A file of keys."""

    keys: list[Key] = []


def hashed(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A key that nobody else has."""
    return _PREFIX + secrets.token_urlsafe(32)


def keys_of(path: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[Key, ...]:
    """The keys of a file and of the environment.

    Raises:
        ValueError: If the file is none of keys, names one twice, or a key of the environment is easily guessed.
    """
    found = list(_read(path)) if path is not None else []
    for variable, rights in ENVIRONMENT.items():
        text = environment.get(variable)
        if text is None:
            continue
        if len(text) < _SHORTEST:
            raise ValueError(
                f"{variable} has {len(text)} characters, a key needs {_SHORTEST} or more; `weft key NAME` makes one"
            )
        found.append(Key(name=variable, sha256=hashed(text), rights=list(rights)))
    names = [key.name for key in found]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: each key needs a name of its own, got {', '.join(names)}")
    return tuple(found)


def add_key(path: Path, key: Key) -> None:
    """Write a further key into a file, which is made if need be, for its owner's eyes alone.

    Raises:
        ValueError: If the file has a key of that name, or is no file of keys.
    """
    held = _read(path) if path.exists() else []
    if key.name in {one.name for one in held}:
        raise ValueError(
            f"{path} has a key named {key.name!r}; take another name, or remove that one's lines"
        )
    write_text(path, to_yaml(KeyFile(keys=[*held, key])))
    path.chmod(0o600)


def _read(path: Path) -> list[Key]:
    """The keys of a file. What stands in place of a hash may be a key, so no error says it."""
    values = read_yaml(path)
    rows = values.get("keys")
    for row in rows if isinstance(rows, list) else []:
        own = row.get("sha256") if isinstance(row, dict) else None
        if own is not None and not (isinstance(own, str) and _HASH.fullmatch(own)):
            raise ValueError(
                f"{path}: sha256 of {row.get('name')!r:.64}: expected 64 digits of 0-9a-f; `weft key` writes it"
            )
    return validate(KeyFile, values, str(path)).keys


class Gate:
    """Lets requests in by their keys; without any key everybody may do everything.

    Args:
        keys: Those that are known.
        clock: Seconds, for rates.
    """

    def __init__(
        self, keys: Iterable[Key] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = tuple(keys)
        self._requests = {k.name: Bucket(k.requests_per_minute, clock) for k in self._keys}
        self._tokens = {k.name: Bucket(k.tokens_per_minute, clock) for k in self._keys}

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._keys

    def let_in(self, authorization: str | None, right: Right | None) -> str | None:
        """The name of the key that a request comes with; None where no key is asked for.

        Args:
            authorization: The header of that name.
            right: What it is to be allowed; None is any key.

        Raises:
            Unauthorized: If there is no key, or an unknown one.
            Forbidden: If it may not do this.
            RateLimited: If it did too much already.
        """
        if self.is_open:
            return None
        key = self._known(authorization)
        if right is not None and right not in key.rights:
            raise Forbidden(
                f"key {key.name!r} has no right to {right}, only to {' and '.join(key.rights)}; "
                "take another key, or give this one the right in the server's file of keys"
            )
        for what, buckets in (("requests", self._requests), ("tokens", self._tokens)):
            wait = buckets[key.name].wait()
            if wait > 0:
                raise RateLimited(
                    f"key {key.name!r} has used up its {what} of this minute; ask again in {wait:.1f} s",
                    wait,
                )
        self._requests[key.name].take(1)
        return key.name

    def known(self, authorization: str | None) -> str | None:
        """The name of the key that a request comes with, whatever it may do; nothing is counted.

        Raises:
            Unauthorized: If there is no key, or an unknown one.
        """
        return None if self.is_open else self._known(authorization).name

    def charge(self, name: str | None, tokens: int) -> None:
        """Count the tokens of an answer to a key."""
        if name is not None:
            self._tokens[name].take(tokens)

    def _known(self, authorization: str | None) -> Key:
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthorized("this server asks for a key: send it as `Authorization: Bearer KEY`")
        digest = hashed(text.strip())
        # All are compared, each in constant time: how long it takes tells nothing about any.
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise Unauthorized("nobody has this key; ask whoever runs the server for one")
        return found[0]


class Bucket:
    """So much a minute: full at first, filled steadily; what is taken may leave it in debt.

    Args:
        per_minute: Its size; None has no end.
        clock: Seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float]) -> None:
        self._size = per_minute
        self._clock = clock
        self._level = per_minute or 0.0
        self._at = clock()

    def wait(self) -> float:
        """Seconds until something can be taken; 0 is now."""
        if self._size is None:
            return 0.0
        self._fill(self._size)
        needed = min(1.0, self._size)
        return max(0.0, (needed - self._level) / self._size * 60)

    def take(self, amount: float) -> None:
        """Take out what was used."""
        if self._size is not None:
            self._fill(self._size)
            self._level -= amount

    def _fill(self, size: float) -> None:
        now = self._clock()
        self._level = min(size, self._level + (now - self._at) / 60 * size)
        self._at = now


def page_policy(*, style: str = "", scripts: bool = False) -> str:
    """The Content-Security-Policy of a page: nothing from elsewhere, and no code but what is named.

    Args:
        style: The text of the page's own `<style>`, which is named by its hash.
        scripts: Whether it loads scripts and styles that this server serves, and talks to it.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    own = f"'sha256-{digest}'" if style else ""
    served = " 'self'" if scripts else ""
    parts = ["default-src 'none'", f"style-src {own}{served}".rstrip(), "img-src 'self' data:"]
    if scripts:
        parts += ["script-src 'self'", "connect-src 'self'"]
    return "; ".join([*parts, "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"])
