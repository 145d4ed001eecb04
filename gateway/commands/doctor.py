"""`outstation doctor`: what is wrong on this box, and what to do about it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import click

from gateway.commands.common import config_option, echo_json, json_option, printable
from gateway.commands.installation import (
    check_config,
    check_configured_files,
    check_engine,
    check_home,
    check_models,
    check_port,
    gateway_key,
)
from gateway.commands.machine import (
    Finding,
    check_clock,
    check_cores,
    check_limit,
    check_memory,
    check_processor,
    measured_memory,
)
from gateway.commands.small import check_bases, check_runtime

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@config_option
@json_option
@click.option("--deep", is_flag=True, help="Also hash every model file again.")
def doctor(config_path: Path | None, as_json: bool, deep: bool) -> None:
    """Check the box: processor, memory, models, port, clock, engines. Exit code 1 if anything fails."""
    findings = []
    for finding in examine(config_path, deep=deep):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    sys.exit(any(finding.level == "fail" for finding in findings))


def examine(config_path: Path | None, *, deep: bool) -> Iterator[Finding]:
    """Every check, one after another."""
    from backends.models.store import Store
    from gateway.config import home_dir

    yield check_processor()
    yield check_cores()
    finding, config = check_config(config_path)
    yield finding
    home = config.home if config else home_dir()
    yield check_home(home)
    needs: dict[str, int] = {}
    configured = check_configured_files(config) if config else ()
    for finding, need in chain(check_models(Store(home), deep=deep), configured):
        yield finding
        if need:
            needs[finding.subject.removeprefix("model ")] = need
    yield from check_bases(Store(home))
    yield check_memory(*measured_memory(), needs)
    if config and config.limits.memory_mb:
        yield check_limit(config.limits.memory_mb, needs)
    if config:
        yield check_port(config.server.host, config.server.port, gateway_key())
    yield check_clock(time.time(), {model.name: model.created for model in Store(home).list()})
    yield check_engine()
    yield check_runtime(config.small_models.execution_providers if config else ("cpu",))


def _print(finding: Finding) -> None:
    level = click.style(f"{finding.level:<5}", fg=_COLOURS[finding.level], bold=finding.level != "ok")
    click.echo(f"{level} {printable(finding.subject)}: {printable(finding.text)}")
    if finding.todo:
        click.echo(f"      {printable(finding.todo)}")
