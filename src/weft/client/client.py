"""`weft.Client`: the answers of a server, as `weft.predict` gives them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import httpx

from weft.client.wire import (
    CHUNK,
    Expert,
    Input,
    ServerError,
    address,
    answer_of,
    continuation,
    headers_of,
    numbered,
    pieces_of,
    question,
    unreachable,
    wait_before,
)

TIMEOUT_S = 120.0


class Client:
    """One server, asked over connections that stay open; closed by `close`, or by `with`.

    Args:
        url: Where it is, e.g. `http://127.0.0.1:8000`.
        key: Its key for you; None takes that of the environment, `WEFT_KEY`, if any.
        deadline: Seconds after which an answer is of no use: the server gives up then. None leaves it to the server.
        timeout: Seconds without a byte after which the server counts as gone.
        retries: How often a request is sent again that the server was too busy for.

    Raises:
        ValueError: If `url` is no address.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        deadline: float | None = None,
        timeout: float = TIMEOUT_S,
        retries: int = 2,
    ) -> None:
        self.url = address(url)
        self._retries = retries
        self._http = httpx.Client(headers=headers_of(key, deadline), timeout=timeout)

    def predict(
        self,
        inputs: Iterable[Input],
        *,
        expert: Expert,
        task: str | None = None,
        generation: Mapping[str, Any] | object | None = None,
    ) -> list[Any]:
        """What an expert says of each input, in order, as `weft.predict` says it of the expert's run folder.

        Args:
            inputs: Texts, or mappings of the task's columns; those without an `id` are numbered from 0.
            expert: Its name; `auto`: whatever the inputs are recognised as; or names with weights, which speak
                together.
            task: Of an expert that has several, this one.
            generation: How a causal language model continues.

        Raises:
            ServerError: If the server refuses; says what came, what was expected and what to do.
            OSError: If it cannot be reached, or is silent.
        """
        return list(self.predict_iter(inputs, expert=expert, task=task, generation=generation))

    def predict_iter(
        self,
        inputs: Iterable[Input],
        *,
        expert: Expert,
        task: str | None = None,
        generation: Mapping[str, Any] | object | None = None,
        chunk: int = CHUNK,
    ) -> Iterator[Any]:
        """The same answers one after another; inputs may be endless, `chunk` of them make a request."""
        for rows in numbered(inputs, chunk):
            body = question(expert, rows, task, generation)
            yield from self._ask("POST", "/v1/predict", body)["predictions"]

    def embed(self, texts: Sequence[str], *, expert: str = "base") -> list[list[float]]:
        """A vector for each text: the mean of the last states of its tokens.

        Args:
            texts: Texts that are not empty.
            expert: Whose states; `base` is the bare base.
        """
        found: list[list[float]] = []
        for start in range(0, len(texts), CHUNK):
            body = {"model": expert, "input": list(texts[start : start + CHUNK])}
            found += [row["embedding"] for row in self._ask("POST", "/v1/embeddings", body)["data"]]
        return found

    def stream(
        self, text: str, *, expert: str, generation: Mapping[str, Any] | object | None = None
    ) -> Iterator[str]:
        """The continuation of a text by a causal language model, piece by piece as it is written."""
        body = continuation(expert, text, generation)
        try:
            with self._http.stream("POST", f"{self.url}/v1/completions", json=body) as response:
                if not response.is_success:
                    response.read()
                    answer_of(response)
                for line in response.iter_lines():
                    yield from pieces_of(line, response)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def experts(self) -> list[dict[str, Any]]:
        """What the server has: name, kind, task, labels, base, rank, version of each."""
        return self._ask("GET", "/v1/experts")["experts"]

    def expert(self, name: str) -> dict[str, Any]:
        """One of them."""
        return self._ask("GET", f"/v1/experts/{quote(name)}")

    def put(self, name: str, folder: str | None = None) -> dict[str, Any]:
        """Let the server have an expert, or replace it; needs a key that may manage.

        Args:
            name: What to call it there.
            folder: A run folder of the server's, below one that it may read from; None is that of this name.
        """
        body = {} if folder is None else {"folder": folder}
        return self._ask("PUT", f"/v1/experts/{quote(name)}", body)

    def remove(self, name: str) -> None:
        """Take an expert from the server; its files stay. Needs a key that may manage."""
        self._ask("DELETE", f"/v1/experts/{quote(name)}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        for tried in range(self._retries + 1):
            try:
                response = self._http.request(method, f"{self.url}{path}", json=body)
            except httpx.TransportError as error:
                raise unreachable(self.url, error) from error
            try:
                return answer_of(response)
            except ServerError as error:
                wait = wait_before(error, tried, self._retries)
                if wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")
