"""`weft.AsyncClient`: what `weft.Client` asks, for who has an event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import httpx

from weft.client.client import TIMEOUT_S
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


class AsyncClient:
    """One server, asked over connections that stay open; closed by `close`, or by `async with`.

    Args are those of `Client`.
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
        self._http = httpx.AsyncClient(headers=headers_of(key, deadline), timeout=timeout)

    async def predict(
        self,
        inputs: Iterable[Input],
        *,
        expert: Expert,
        task: str | None = None,
        generation: Mapping[str, Any] | object | None = None,
    ) -> list[Any]:
        """What an expert says of each input, in order; see `Client.predict`."""
        answers = self.predict_iter(inputs, expert=expert, task=task, generation=generation)
        return [answer async for answer in answers]

    async def predict_iter(
        self,
        inputs: Iterable[Input],
        *,
        expert: Expert,
        task: str | None = None,
        generation: Mapping[str, Any] | object | None = None,
        chunk: int = CHUNK,
    ) -> AsyncIterator[Any]:
        """The same answers one after another; inputs may be endless, `chunk` of them make a request."""
        for rows in numbered(inputs, chunk):
            body = question(expert, rows, task, generation)
            for answer in (await self._ask("POST", "/v1/predict", body))["predictions"]:
                yield answer

    async def embed(self, texts: Sequence[str], *, expert: str = "base") -> list[list[float]]:
        """A vector for each text: the mean of the last states of its tokens.

        Args:
            texts: Texts that are not empty.
            expert: Whose states; `base` is the bare base.
        """
        found: list[list[float]] = []
        for start in range(0, len(texts), CHUNK):
            body = {"model": expert, "input": list(texts[start : start + CHUNK])}
            answer = await self._ask("POST", "/v1/embeddings", body)
            found += [row["embedding"] for row in answer["data"]]
        return found

    async def stream(
        self, text: str, *, expert: str, generation: Mapping[str, Any] | object | None = None
    ) -> AsyncIterator[str]:
        """The continuation of a text by a causal language model, piece by piece as it is written."""
        body = continuation(expert, text, generation)
        try:
            async with self._http.stream(
                "POST", f"{self.url}/v1/completions", json=body
            ) as response:
                if not response.is_success:
                    await response.aread()
                    answer_of(response)
                async for line in response.aiter_lines():
                    for piece in pieces_of(line, response):
                        yield piece
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    async def experts(self) -> list[dict[str, Any]]:
        """What the server has: name, kind, task, labels, base, rank, version of each."""
        return (await self._ask("GET", "/v1/experts"))["experts"]

    async def expert(self, name: str) -> dict[str, Any]:
        """One of them."""
        return await self._ask("GET", f"/v1/experts/{quote(name)}")

    async def put(self, name: str, folder: str | None = None) -> dict[str, Any]:
        """Let the server have an expert, or replace it; needs a key that may manage.

        Args:
            name: What to call it there.
            folder: A run folder of the server's, below one that it may read from; None is that of this name.
        """
        body = {} if folder is None else {"folder": folder}
        return await self._ask("PUT", f"/v1/experts/{quote(name)}", body)

    async def remove(self, name: str) -> None:
        """Take an expert from the server; its files stay. Needs a key that may manage."""
        await self._ask("DELETE", f"/v1/experts/{quote(name)}")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        for tried in range(self._retries + 1):
            try:
                response = await self._http.request(method, f"{self.url}{path}", json=body)
            except httpx.TransportError as error:
                raise unreachable(self.url, error) from error
            try:
                return answer_of(response)
            except ServerError as error:
                wait = wait_before(error, tried, self._retries)
                if wait is None:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")
