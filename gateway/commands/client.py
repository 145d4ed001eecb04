"""The commands' way to a running gateway: plain HTTP, as any other client."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

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


class Refused(click.ClickException):
    """The gateway answered with an error; the text is its own.

    Attributes:
        status: of HTTP.
        code: the error's, if it has one.
    """

    def __init__(self, message: str, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(click.ClickException):
    """Nobody answers there, or the connection broke: whether the gateway did what was asked is not known."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway at `url` (with or without `/v1`)."""

    url: str
    key: str | None = None

    def get(self, path: str, *, wait_s: float = 10.0) -> Any:
        """The JSON at `path`, within about `wait_s`. Raises `click.ClickException` with what to do."""
        with self.connected() as connection:
            return connection.get(path, wait_s=wait_s)

    def post(self, path: str, body: Mapping[str, Any], *, wait_s: float = 60.0) -> Any:
        """The JSON that answers `body`. Raises like `get`."""
        with self.connected() as connection:
            return connection.post(path, body, wait_s=wait_s)

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """For many requests: connections are kept open between them."""
        with self._translated(), self._client(read_s=_SILENCE_S) as client:
            yield Connection(self, client)

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
            raise Unreachable(self._unreachable(error)) from error
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
        code = None
        try:
            error = response.json()["error"]
            message, code = str(error["message"]), error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            message = f"{self.url} answered {response.status_code}; it does not seem to be an Outstation gateway."
        if response.status_code == 401 and not self.key:
            message += " Put the key into OUTSTATION_API_KEY."
        raise Refused(message, response.status_code, code)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unreachable(self._unreachable(error)) from error

    def _unreachable(self, error: Exception) -> str:
        reason = str(error) or type(error).__name__
        return (
            f"No gateway answers at {self.url} ({reason}). Start one with `outstation serve`, "
            "or name another with --url or OUTSTATION_URL."
        )


class Connection:
    """Requests over connections that stay open, made by `Gateway.connected`. All raise `Refused` and `Unreachable`."""

    def __init__(self, gateway: Gateway, client: httpx2.Client) -> None:
        self._gateway = gateway
        self._client = client

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, wait_s: float = 60.0) -> Any:
        """The JSON at `path`, within about `wait_s`."""
        return self._ask("GET", path, wait_s, params=params)

    def post(self, path: str, body: Mapping[str, Any], *, wait_s: float = 60.0) -> Any:
        """The JSON that answers `body`."""
        return self._ask("POST", path, wait_s, json=body)

    def delete(self, path: str) -> bool:
        """Whether it was there."""
        try:
            self._ask("DELETE", path, 60.0)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    def upload(self, path: str, name: str, content: IO[bytes], fields: Mapping[str, str]) -> Any:
        """Sends a file as a form, read while it is sent; what answers it."""
        return self._ask("POST", path, _SILENCE_S, data=fields, files={"file": (name, content)})

    def every(self, path: str, **params: Any) -> Iterator[Any]:
        """The objects of a list, page by page."""
        while True:
            page = self.get(path, params)
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            params["after"] = page["data"][-1]["id"]

    def _ask(self, method: str, path: str, wait_s: float, **content: Any) -> Any:
        import httpx2

        timeout = httpx2.Timeout(wait_s, connect=_CONNECT_S)
        with self._gateway._translated():
            response = self._client.request(method, path, timeout=timeout, **content)
            self._gateway._must_be_ok(response)
            try:
                return response.json()
            except ValueError as error:
                raise Unreachable(self._gateway._unreachable(error)) from error


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
