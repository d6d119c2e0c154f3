"""Server: whatever speaks OpenAI's chat completions, asked at temperature 0.

The answer is the last line that says anything, without marks around it. One that is not of the scale is an error that
names it; so is a server that does not answer within `timeout_s`, after `retries` more tries. A key, where the server
wants one, is taken from the environment, `WEFT_JUDGE_KEY`, and never written down.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from weft.config import Settings
from weft.judging.judges.contract import Judge

KEY = "WEFT_JUDGE_KEY"
LONGEST_WAIT_S = 30.0
_AGAIN = (408, 429, 500, 502, 503, 504)
"""What another try may mend."""
_AROUND = " \t*_`'\".,:;()[]"
_SHOWN = 120


class Spec(Settings):
    """Where it is, and how patiently it is asked."""

    url: str = Field(min_length=1)
    """Its address, up to and with the `/v1` if it has one: http://127.0.0.1:8000/v1."""
    model: str = Field(min_length=1)
    """What the server calls the model."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds without an answer after which a try has failed."""
    retries: int = Field(default=2, ge=0, le=10)
    """Further tries where one fails in a way that another may mend."""
    at_once: int = Field(default=4, ge=1, le=64)
    """Prompts that are under way together."""
    max_tokens: int = Field(default=16, ge=1)
    """Longest answer; a judge that thinks aloud before its verdict needs more."""


class _AgainError(Exception):
    """A try that failed in a way that another may mend."""

    def __init__(self, said: str, wait_s: float | None = None) -> None:
        super().__init__(said)
        self.wait_s = wait_s


class Server(Judge):
    """A model behind HTTP."""

    spec_type: ClassVar[type[Settings]] = Spec

    def __init__(self, spec: Spec) -> None:
        try:
            import httpx
        except ModuleNotFoundError:
            raise ValueError("a server as judge needs httpx: pip install 'weft[serve]'") from None
        self.spec = spec
        address = spec.url if "://" in spec.url else f"http://{spec.url}"
        parsed = httpx.URL(address)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(
                f"{spec.url!r} is no server's address; give one like http://127.0.0.1:8000/v1"
            )
        self.url = f"{address.rstrip('/')}/chat/completions"
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=spec.timeout_s)

    @property
    def description(self) -> dict[str, Any]:
        own = self.spec.model_dump()
        return {"judge": "server", **{name: own[name] for name in ("url", "model", "max_tokens")}}

    def answers(self, prompts: Sequence[str], options: Sequence[str]) -> Iterator[str]:
        pool = ThreadPoolExecutor(self.spec.at_once)
        try:
            yield from pool.map(partial(self._answer, options), prompts)
        finally:
            # After an error, what has not begun is not asked any more.
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, options: Sequence[str], prompt: str) -> str:
        said = self._said(prompt)
        lines = [line.strip(_AROUND) for line in said.splitlines() if line.strip(_AROUND)]
        last = lines[-1].casefold() if lines else ""
        found = next((option for option in options if option.casefold() == last), None)
        if found is None:
            raise ValueError(
                f"judge {self.spec.model} at {self.spec.url} answered {said[:_SHOWN]!r}, which is not of its scale "
                f"({', '.join(options)}); if it thinks aloud first, give it more max_tokens than "
                f"{self.spec.max_tokens}, or take another judge"
            )
        return found

    def _said(self, prompt: str) -> str:
        body = {
            "model": self.spec.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.spec.max_tokens,
        }
        problem, wait = "", 0.0
        for tried in range(self.spec.retries + 1):
            if tried:
                time.sleep(min(wait, LONGEST_WAIT_S))
            try:
                return self._try(body)
            except _AgainError as error:
                problem = str(error)
                wait = error.wait_s if error.wait_s is not None else 2.0 ** (tried - 1)
        raise ConnectionError(
            f"judge {self.spec.model} at {self.spec.url} did not answer: {problem} (tries: {self.spec.retries + 1}, "
            f"each up to {self.spec.timeout_s:g} s); is it running, and is its address right?"
        )

    def _try(self, body: dict[str, Any]) -> str:
        """The text of an answer.

        Raises:
            _AgainError: If another try may mend what went wrong.
        """
        import httpx

        try:
            response = self._http.post(self.url, json=body)
        except httpx.TransportError as error:
            raise _AgainError(f"{type(error).__name__}: {error}") from None
        if response.status_code in _AGAIN:
            wait = response.headers.get("Retry-After", "")
            said = f"{response.status_code} with {response.text[:_SHOWN]!r}"
            raise _AgainError(said, float(wait) if wait.isdigit() else None)
        try:
            text = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            text = None
        if not response.is_success or not isinstance(text, str):
            raise ValueError(
                f"judge {self.spec.model} at {self.spec.url}: {response.status_code} with "
                f"{response.text[:_SHOWN]!r}, which is no chat completion; is its address right, and the model there?"
            )
        return text
