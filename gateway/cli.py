"""The `outstation` command. Each command lives in `gateway/commands/`; this file only lists them."""

from __future__ import annotations

from typing import Any

import click

from backends.errors import BackendError
from gateway.commands.audit import audit
from gateway.commands.classifier import classifier
from gateway.commands.doctor import doctor
from gateway.commands.explain import explain
from gateway.commands.ingest import ingest
from gateway.commands.ls import ls
from gateway.commands.models import models
from gateway.commands.optimize import optimize
from gateway.commands.ps import ps
from gateway.commands.pull import pull
from gateway.commands.reindex import reindex
from gateway.commands.replay import replay
from gateway.commands.rm import rm
from gateway.commands.run import run
from gateway.commands.search import search
from gateway.commands.serve import serve
from gateway.commands.show import show


class _Commands(click.Group):
    """In the order of a first use, and with expected errors as one text instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BackendError as error:
            raise click.ClickException(error.message) from error


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        click.echo(f"outstation {metadata.version('outstation')}")
    except metadata.PackageNotFoundError:
        click.echo("outstation, not installed (run from its source)")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Its version."
)
def cli() -> None:
    """An OpenAI-compatible gateway for the box at the site.

    A first use: `outstation pull smollm2-135m-instruct`, `outstation serve`, and in another terminal
    `outstation run auto "Why is the sky blue?"`.
    """


_TALKING = (serve, run, ps, ingest, search, reindex)
_LOOKING_AFTER = (models, ls, pull, rm, show, explain, replay, audit, doctor, classifier)
for _command in (*_TALKING, *_LOOKING_AFTER):
    cli.add_command(_command)
models.add_command(optimize)


def main() -> None:
    """The console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    cli(prog_name="outstation")


if __name__ == "__main__":
    main()
