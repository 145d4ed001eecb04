"""The commands' way to a running gateway: plain HTTP, as any other client."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    import httpx2

_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 300.0  # longer than any bound of the gateway up to the first token
_Function = TypeVar("_Function", bound=Callable[..., Any])


def gateway_options(command: _Function) -> _Function:
    """Adds `--url`; the key comes from the environment only, so that it is in no shell history."""
    return click.option(
        "--url",
        envvar="OUTSTATION_URL",
        default="http://127.0.0.1:8484",
        show_default=True,
        help="The gateway. Also from $OUTSTATION_URL; its key from $OUTSTATION_API_KEY.",
    )(command)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway at `url` (with or without `/v1`)."""

    url: str
    key: str | None = None

    def get(self, path: str, *, wait_s: float = 10.0) -> Any:
        """The JSON at `path`, within about `wait_s`. Raises `click.ClickException` with what to do."""
        return self._ask("GET", path, None, wait_s)

    def post(self, path: str, body: Mapping[str, Any], *, wait_s: float = 60.0) -> Any:
        """The JSON that answers `body`. Raises like `get`."""
        return self._ask("POST", path, body, wait_s)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, wait_s: float) -> Any:
        import httpx2

        try:
            with self._client(read_s=wait_s) as client:
                response = client.request(method, path, json=body)
                self._must_be_ok(response)
                return response.json()
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise click.ClickException(self._unreachable(error)) from error

    def chat(self, body: Mapping[str, Any]) -> Generator[Any, None, None]:
        """Chunks of a streamed chat completion. Raises `click.ClickException` if it fails or is cut short."""
        import httpx2

        try:
            with (
                self._client(read_s=_SILENCE_S) as client,
                client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response,
            ):
                if response.is_error:
                    response.read()
                self._must_be_ok(response)
                yield from _chunks(response.iter_bytes())
        except (httpx2.ConnectError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise click.ClickException(self._unreachable(error)) from error
        except (httpx2.HTTPError, ValueError) as error:
            raise click.ClickException(f"The answer was cut off: {str(error) or type(error).__name__}.") from error

    def _client(self, read_s: float) -> httpx2.Client:
        import httpx2

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        base = self.url.rstrip("/").removesuffix("/v1")
        # The gateway is this box or its neighbour: a proxy in the environment is meant for the internet.
        timeout = httpx2.Timeout(read_s, connect=_CONNECT_S)
        return httpx2.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False)

    def _must_be_ok(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"{self.url} answered {response.status_code}; it does not seem to be an Outstation gateway."
        if response.status_code == 401 and not self.key:
            message += " Put the key into OUTSTATION_API_KEY."
        raise click.ClickException(message)

    def _unreachable(self, error: Exception) -> str:
        reason = str(error) or type(error).__name__
        return (
            f"No gateway answers at {self.url} ({reason}). Start one with `outstation serve`, "
            "or name another with --url or OUTSTATION_URL."
        )


def _chunks(pieces: Iterator[bytes]) -> Iterator[Any]:
    """The events of an OpenAI stream, up to `[DONE]`. Without it the answer is not whole, whatever came before."""
    for data in _events(pieces):
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if error := chunk.get("error"):
            raise click.ClickException(str(error.get("message", error)))
        yield chunk
    raise click.ClickException("The answer was cut off: the gateway ended the stream early.")


def _events(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The `data` lines of an event stream. Split at line feeds only: a text may hold any other separator."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
