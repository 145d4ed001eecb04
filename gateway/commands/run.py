"""`outstation run`: ask a model, once or in a conversation."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import click

from gateway.commands.client import Gateway, gateway_options
from gateway.commands.common import printable

_MAX_PIPED: Final = 10 << 20  # bytes; the gateway's own limit on a body
_HELP: Final = """/bye    leave (also Ctrl-D)
/clear  forget the conversation
/help   this
Ctrl-C stops an answer. A text in triple quotes may have several lines."""


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", help="Instructions for the whole conversation.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--verbose", "-v", is_flag=True, help="Tell tokens and times after each answer.")
@gateway_options
def run(
    model: str,
    prompt: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    verbose: bool,
    url: str,
) -> None:
    """Ask MODEL (`auto` lets the gateway choose) in the terminal.

    With PROMPT, or with text from a pipe, one answer; with both, the piped text follows the prompt. Otherwise a
    conversation: /bye leaves it, Ctrl-C stops an answer.
    """
    settings: dict[str, Any] = {"model": model}
    settings |= {"temperature": temperature} if temperature is not None else {}
    settings |= {"max_completion_tokens": max_tokens} if max_tokens is not None else {}
    messages = [{"role": "system", "content": system}] if system else []
    talk = Talk(Gateway(url, os.environ.get("OUTSTATION_API_KEY")), settings, verbose, messages)
    asked = "\n\n".join(part for part in (prompt, _piped()) if part)
    if asked:
        try:
            talk.ask(asked)
        except KeyboardInterrupt:
            click.echo()
            sys.exit(130)
    elif sys.stdin.isatty():
        _converse(talk, model)
    else:
        raise click.UsageError("There is nothing to ask: give a PROMPT, or pipe some text in.")


@dataclass(slots=True)
class Talk:
    """A conversation with one model; `messages` is its history."""

    gateway: Gateway
    settings: dict[str, Any]
    verbose: bool
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Stream the answer to the terminal. An answer that was stopped stays in the history as far as it came."""
        body = {**self.settings, "messages": [*self.messages, {"role": "user", "content": text}]}
        body["stream_options"] = {"include_usage": True}
        answer: list[str] = []
        began, first = time.perf_counter(), 0.0
        last: dict[str, Any] = {}
        ended_by = ""
        try:
            for chunk in self._with_patience(body):
                last = chunk
                for choice in chunk.get("choices", ()):
                    ended_by = choice.get("finish_reason") or ended_by
                    if piece := choice.get("delta", {}).get("content"):
                        first = first or time.perf_counter()
                        answer.append(piece)
                        _write(piece)
        finally:
            if answer:
                _write("\n")
                self.messages.append({"role": "user", "content": text})
                self.messages.append({"role": "assistant", "content": "".join(answer)})
        if ended_by == "length":
            click.echo("(cut at the token limit: --max-tokens, or the model's context)", err=True)
        if self.verbose:
            click.echo(_figures(last, began, first or began, time.perf_counter()), err=True)

    def _with_patience(self, body: dict[str, Any]) -> Iterator[Any]:
        """The chunks, with a sign of life in the terminal until the first one (a model may have to load)."""
        with contextlib.ExitStack() as waiting, contextlib.closing(self.gateway.chat(body)) as chunks:
            if sys.stderr.isatty() and sys.stdout.isatty():
                from rich.console import Console

                waiting.enter_context(Console(stderr=True).status("waiting for the model"))
            for chunk in chunks:
                if any(choice.get("delta", {}).get("content") for choice in chunk.get("choices", ())):
                    waiting.close()
                yield chunk


def _converse(talk: Talk, model: str) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its editing keys and history)
    click.echo(f"Talking with {model}. /bye leaves, /help tells more.")
    opening = list(talk.messages)
    while (line := _read_turn()) is not None:
        match line.strip():
            case "":
                continue
            case "/bye" | "/exit" | "/quit":
                return
            case "/help" | "/?":
                click.echo(_HELP)
            case "/clear":
                talk.messages[:] = opening
                click.echo("Forgotten.")
            case word if word.startswith("/") and " " not in word:
                click.echo(f"There is no {printable(word)}. /help tells what there is.")
            case _:
                _answer(talk, line)


def _answer(talk: Talk, line: str) -> None:
    try:
        talk.ask(line)
    except KeyboardInterrupt:
        click.echo("(stopped)")
    except click.ClickException as error:  # the conversation goes on: the gateway may be back in a moment
        error.show()


def _read_turn() -> str | None:
    """What the user says next; None to leave."""
    try:
        line = input(">>> ")
        if not line.startswith('"""'):
            return line
        lines = [line[3:]]
        while not lines[-1].rstrip().endswith('"""'):
            lines.append(input("... "))
        return "\n".join(lines).rstrip().removesuffix('"""')
    except EOFError:
        click.echo()
        return None
    except KeyboardInterrupt:
        click.echo("\n/bye or Ctrl-D leaves.")
        return ""


def _piped() -> str:
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    data = sys.stdin.buffer.read(_MAX_PIPED + 1)
    if len(data) > _MAX_PIPED:
        raise click.ClickException(f"The piped text is longer than {_MAX_PIPED >> 20} MiB. Send less of it.")
    return data.decode("utf-8", errors="replace").strip()


def _write(text: str) -> None:
    # Control characters only matter where a terminal would obey them.
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _figures(last: dict[str, Any], began: float, first: float, ended: float) -> str:
    usage = last.get("usage") or {}
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    rate = (completion - 1) / (ended - first) if completion > 1 and ended > first else 0.0
    return (
        f"{last.get('model', '')}: {prompt} prompt tokens ({cached} cached), first token after {first - began:.2f} s, "
        f"{completion} tokens at {rate:.0f}/s"
    )
