"""What several commands share: the store, text tables, JSON output."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from backends.models.store import Store
    from gateway.config import Config

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file. Default: $OUTSTATION_CONFIG, ./outstation.toml, then the home's.",
)


def open_store() -> Store:
    """The store under the home folder."""
    from backends.models.store import Store
    from gateway.config import home_dir

    return Store(home_dir())


def read_config(path: Path | None, host: str | None = None, port: int | None = None) -> Config:
    """The configuration. Raises `click.ClickException` with the finished text if it is wrong."""
    from gateway.config import ConfigError, load_config

    try:
        return load_config(path, host=host, port=port)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def echo_json(data: Any) -> None:
    """Print as indented JSON."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """Manifests as they stand in their files; of all else its text."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json", exclude_defaults=True) if dump else str(value)


def echo_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, the same in a terminal and in a pipe; never cut to a width, so that `grep` and `awk` work."""
    table = [columns, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def echo_sections(sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """Facts under titles."""
    for title, facts in sections:
        click.echo(click.style(title, bold=True))
        for key, value in facts:
            click.echo(f"  {key:<16}{printable(value)}")


def size_text(size: int) -> str:
    """Bytes in decimal units: `98.4 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def count_text(count: int) -> str:
    """Parameters: `135M`, `7.6B`."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.0f}M"


def time_text(unix: int) -> str:
    """Unix time as local date and minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))


def parse_since(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """A callback for `--since`: the Unix time (s) of so long ago, for `7d`, `12h`, `30m` or `90s`; None as it is."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is no age. Write a whole number and a unit: 30m, 12h or 7d.")
    return time.time() - int(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]]


def printable(text: str) -> str:
    """Without control characters: what a model or a file says must not drive the terminal."""
    return "".join(char for char in text if char in "\n\t" or not (ord(char) < 32 or 127 <= ord(char) < 160))
