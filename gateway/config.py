"""Finds, reads and checks `outstation.toml`. Every mistake is named with its file, line and place."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.schemas.settings import AccessKey, Config, FileConfig, KeySettings
from gateway.schemas.table import PlacedError, Table

__all__ = ["Config", "ConfigError", "check_exposure", "home_dir", "load_config"]

KEY_VARIABLE = "OUTSTATION_API_KEY"
Place = tuple[int | str, ...]


class ConfigError(Exception):
    """The configuration cannot be used. Its text is finished: print it and leave."""


def home_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where models and state live: `$OUTSTATION_HOME`, else the platform's data directory."""
    home = environ.get("OUTSTATION_HOME") or platformdirs.user_data_dir("outstation")
    return Path(home).expanduser().absolute()


def load_config(
    path: Path | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    environ: Mapping[str, str] = os.environ,
    to_serve: bool = True,
) -> Config:
    """The configuration from `path`, or from the first file found, or the defaults; `host` and `port` override it.

    Args:
        to_serve: False reads no key: the configuration is only looked at, perhaps far from the box it is for.

    Raises:
        ConfigError: a file that is missing or wrong, a key that cannot be read, or an open port without a key.
    """
    home = home_dir(environ)
    source = _find(path, home, environ)
    text = _read(source) if source else ""
    config = _parse(text, source, {"host": host, "port": port})
    if not to_serve:
        return Config(**vars(config), source=source, home=home)
    lines = line_numbers(text)
    access = tuple(
        _resolve(key, _where(source or "", lines, ("keys", index)), source, environ)
        for index, key in enumerate(config.keys)
    )
    if environ.get(KEY_VARIABLE):
        access += (AccessKey(name=KEY_VARIABLE, digest=_digest(environ[KEY_VARIABLE])),)
    document_key = _document_key(config, _where(source or "", lines, ("documents",)), source, environ)
    found = Config(**vars(config), source=source, home=home, access=access, document_key=document_key)
    check_exposure(found)
    return found


def check_exposure(config: Config) -> None:
    """Refuses an address that others can reach while nobody needs a key.

    Raises:
        ConfigError: says which ways there are to make one.
    """
    if config.access or is_loopback(config.server.host):
        return
    raise ConfigError(
        f"Refusing to listen on {config.server.host} without an API key: anyone on the network could use this box.\n"
        f"Set {KEY_VARIABLE}, or add to {config.source or 'outstation.toml'}:\n\n"
        '  [[keys]]\n  name = "kiosk"\n  env = "KIOSK_KEY"\n\nor listen on 127.0.0.1.'
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Any name but `localhost` may resolve to anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def place_of(config: Config, *place: int | str) -> str:
    """`FILE, line N: rules[0].when`, for what only turns out to be wrong when it is put to use."""
    try:
        lines = line_numbers(config.source.read_text(encoding="utf-8")) if config.source else {}
    except (OSError, UnicodeDecodeError):
        lines = {}
    return f"{_where(config.source or 'outstation.toml', lines, place)}{_dotted(place)}"


def _where(source: Path | str, lines: Mapping[Place, int], place: Place) -> str:
    """`FILE, line N: `; the line of the table around it, if the place has none."""
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    return f"{source}{f', line {line}' if line else ''}: "


def _find(path: Path | None, home: Path, environ: Mapping[str, str]) -> Path | None:
    named = path or (Path(environ["OUTSTATION_CONFIG"]) if environ.get("OUTSTATION_CONFIG") else None)
    if named:
        return named.expanduser().absolute()
    for place in (Path.cwd() / "outstation.toml", home / "outstation.toml"):
        if place.is_file():
            return place
    return None


def _read(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{source} does not exist. Check --config and $OUTSTATION_CONFIG.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} cannot be read: {error}.") from error


def _parse(text: str, source: Path | None, overrides: Mapping[str, Any]) -> FileConfig:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}.") from error
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        config = FileConfig.model_validate(data)  # the file by itself: an option must not hide what is wrong in it
        return FileConfig.model_validate({**data, "server": data.get("server", {}) | given}) if given else config
    except ValidationError as error:
        lines = line_numbers(text)
        details = error.errors(include_url=False)
        problems = [_explain(detail, source, lines) for detail in details if not _follows(detail, details)]
        raise ConfigError("\n".join(problems)) from None


def _follows(detail: ErrorDetails, others: Sequence[ErrorDetails]) -> bool:
    """Whether a list is called too short only because what is in it was found wrong."""
    place = detail["loc"]
    return detail["type"] == "too_short" and any(o["loc"][: len(place)] == place != o["loc"] for o in others)


def _explain(detail: ErrorDetails, source: Path | None, lines: Mapping[Place, int]) -> str:
    """One problem in a sentence: `FILE, line N: server.port: expected …, found …`."""
    place = tuple(part for part in detail["loc"] if part != "[key]")
    if detail["type"] == "value_error" and isinstance(detail["ctx"]["error"], PlacedError):
        place += detail["ctx"]["error"].place
    where = _where(source or "command line", lines, place)
    if detail["type"] == "extra_forbidden":
        allowed = sorted(_table_at(place[:-1]).model_fields)
        close = difflib.get_close_matches(str(place[-1]), allowed, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        return f"{where}unknown key `{_dotted(place)}`.{hint} Allowed here: {', '.join(allowed)}."
    if detail["type"] == "missing":
        what = _table_at(place[:-1]).model_fields[str(place[-1])].description
        return f"{where}`{_dotted(place)}` is missing{f': {what}' if what else '.'}"
    if detail["type"] == "too_short":
        return f"{where}{_dotted(place)}: needs at least {detail['ctx']['min_length']}."
    if detail["type"] == "value_error":
        return f"{where}{_dotted(place)}: {detail['ctx']['error']}." if place else f"{where}{detail['ctx']['error']}."
    found = "" if place[:1] == ("keys",) else f", found {_shown(detail['input'])}"
    wanted = (
        detail["msg"].removeprefix("Input should be ").replace("String should match pattern", "a string that matches")
    )
    return f"{where}{_dotted(place)}: expected {wanted}{found}."


def _table_at(place: Place) -> type[Table]:
    """The schema of the table at `place`."""
    table: Any = FileConfig
    for part in place:
        if isinstance(part, int):
            continue
        annotation: Any = table.model_fields[part].annotation
        table = next((arg for arg in getattr(annotation, "__args__", ()) if isinstance(arg, type)), annotation)
    return table if isinstance(table, type) and issubclass(table, Table) else FileConfig


def _dotted(place: Place) -> str:
    """`models[0].sampling.top_p`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _shown(value: object) -> str:
    text = repr(value).replace("True", "true").replace("False", "false")
    text = text if len(text) <= 60 else text[:57] + "…"
    return f"the string {text}" if isinstance(value, str) else text


def line_numbers(text: str) -> dict[Place, int]:
    """Line (from 1) of each table and key that is written plainly; unusual spellings are left out."""
    lines: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line.startswith("["):
            array = line.startswith("[[")
            parts = [part.strip().strip("\"'") for part in line.split("]")[0].strip("[").split(".")]
            table = ()
            for depth, part in enumerate(parts):
                table += (part,)
                if array and depth == len(parts) - 1:
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table += (counts[table],)
            lines.setdefault(table, number)
        elif "=" in line and not line.startswith("#"):
            lines.setdefault((*table, line.split("=")[0].strip().strip("\"'")), number)
    return lines


def _resolve(key: KeySettings, where: str, source: Path | None, environ: Mapping[str, str]) -> AccessKey:
    if key.sha256:
        return AccessKey(name=key.name, digest=bytes.fromhex(key.sha256))
    secret = _secret(f"{where}the key {key.name!r}", key.env, key.file, source, environ)
    return AccessKey(name=key.name, digest=_digest(secret))


def _document_key(config: FileConfig, where: str, source: Path | None, environ: Mapping[str, str]) -> str:
    asked = config.documents
    if not asked.key_env and not asked.key_file:
        return ""
    return _secret(f"{where}the key of the documents", asked.key_env, asked.key_file, source, environ)


def _secret(what: str, env: str | None, file: str | None, source: Path | None, environ: Mapping[str, str]) -> str:
    """From the environment, or else from a file. `what`: begins an error."""
    if env:
        secret, origin = environ.get(env, ""), f"the environment variable {env}"
    else:
        path = Path(file or "").expanduser()
        path = path if path.is_absolute() or source is None else source.parent / path
        origin = str(path)
        try:
            secret = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{what} cannot be read from {path}: {error}.") from error
    if not secret:
        raise ConfigError(f"{what} is empty: {origin} holds nothing. Put the key there.")
    return secret


def _digest(secret: str) -> bytes:
    """API keys are long and random, so a plain hash keeps them: there is no dictionary to try."""
    return hashlib.sha256(secret.encode()).digest()
