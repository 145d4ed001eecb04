"""What `doctor` finds out about the installation: configuration, home, models, port, engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from backends.memory import memory_need, small_memory_need
from backends.models.local import LLM
from gateway.commands.common import size_text
from gateway.commands.machine import Finding
from gateway.commands.ports import in_use

if TYPE_CHECKING:
    from backends.models.store import LocalModel, Store
    from gateway.config import Config

DEFAULT_CONTEXT: Final = 8192  # cells of the KV cache that a model gets if the configuration does not say
_ENGINE_S: Final = 60.0
_PROBE: Final = """
import json, llama_cpp
info = llama_cpp.llama_print_system_info().decode()
print("\\n" + json.dumps({"version": llama_cpp.__version__, "info": info}))
"""


def check_config(path: Path | None) -> tuple[Finding, Config | None]:
    """The configuration, and what to say of it: whatever `serve` would refuse."""
    from gateway.app import build_app
    from gateway.config import ConfigError, load_config

    config = None
    try:
        config = load_config(path)
        build_app(config)  # loads nothing; finds models and aliases that lead nowhere
    except ConfigError as error:
        return Finding(
            "configuration", "fail", str(error), "Correct it; docs/configuration.md lists every key."
        ), config
    return Finding("configuration", "ok", str(config.source or "none found: the defaults hold")), config


def check_home(home: Path) -> Finding:
    """Whether the home can be written, and has room."""
    todo = "Set OUTSTATION_HOME to a folder that this user may write."
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
        free = shutil.disk_usage(home).free
    except OSError as error:
        return Finding("home", "fail", f"{home}: {error.strerror or error}", todo)
    if free < 500_000_000:
        return Finding("home", "warn", f"{home}, {size_text(free)} free", "Free some space: models and logs need it.")
    return Finding("home", "ok", f"{home}, {size_text(free)} free")


def check_models(store: Store, *, deep: bool) -> Iterator[tuple[Finding, int]]:
    """A finding for each model, with the bytes of memory that it needs (0 if it is unusable)."""
    from backends.errors import BadModelFile

    for problem in store.problems():
        yield Finding("model", "fail", problem.split(". ", 1)[0], problem.partition(". ")[2]), 0
    models = store.list()
    for model in models:
        try:
            need = _checked(model, deep=deep)
        except (BadModelFile, OSError) as error:
            todo = f"Fetch it again: `outstation pull --force {model.name}`."
            yield Finding(f"model {model.name}", "fail", str(error).rstrip("."), todo), 0
            continue
        kind = model.quantization if model.role == LLM else f"{model.role} {model.quantization}".strip()
        checked = "files and hashes are right" if deep else "its files are whole (--deep hashes them again)"
        yield Finding(f"model {model.name}", "ok", f"{size_text(model.size)}, {kind}, {checked}"), need
    if not models:
        todo = "`outstation pull smollm2-135m-instruct` fetches the default one."
        yield Finding("models", "warn", f"none in {store.folder}", todo), 0


def _checked(model: LocalModel, *, deep: bool) -> int:
    """Bytes of memory that it needs. Raises `BadModelFile`, `OSError`."""
    from backends.errors import BadModelFile
    from backends.models.folders import check_files
    from backends.models.store import verify
    from backends.onnx.manifest import read_manifest

    if model.role == LLM:
        info = verify(model)
        if deep and (found := _hash(model.path)) != model.sha256:
            raise BadModelFile(f"its SHA-256 is {found}, not {model.sha256}")
        return memory_need(info.size_bytes, info.kv_bytes_per_cell, min(info.context_length, DEFAULT_CONTEXT))
    manifest = read_manifest(model.path)
    for name, known in manifest.files.items():
        if deep and (found := _hash(model.path / name)) != known.sha256:
            raise BadModelFile(f"{name}: its SHA-256 is {found}, not {known.sha256}")
    if deep:
        check_files(model.path, manifest)
    return small_memory_need(model.size)


def check_configured_files(config: Config) -> Iterator[tuple[Finding, int]]:
    """As `check_models`, for the files that the configuration names outside the store."""
    from backends.errors import BadModelFile
    from backends.models.gguf import read_gguf

    for model in config.models:
        if not model.file:
            continue
        path = Path(model.file).expanduser()
        path = path if path.is_absolute() or config.source is None else config.source.parent / path
        try:
            info = read_gguf(path)
        except BadModelFile as error:
            yield Finding(f"model {model.name}", "fail", str(error).rstrip("."), "Replace the file."), 0
            continue
        cells = model.kv_cells or min(info.context_length, DEFAULT_CONTEXT)
        text = f"{size_text(info.size_bytes)}, {info.quantization}, its file {path} is whole"
        yield Finding(f"model {model.name}", "ok", text), memory_need(info.size_bytes, info.kv_bytes_per_cell, cells)


def check_port(host: str, port: int, key: str | None, *, wait_s: float = 3.0) -> Finding:
    """Whether the port is free, or it is our gateway that has it."""
    place = f"{host}:{port}"
    reason = in_use(host, port)
    if not reason:
        return Finding("port", "ok", f"{place} is free")
    from gateway.commands.client import Gateway

    target = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    try:
        Gateway(f"http://{target}:{port}", key).get("/healthz", wait_s=wait_s)
        return Finding("port", "ok", f"{place} is in use by a running gateway")
    except click.ClickException:
        todo = "Stop what runs there, or choose another port ([server] port, or --port)."
        return Finding("port", "fail", f"{place} cannot be listened on: {reason}", todo)


def check_engine(command: Sequence[str] = (sys.executable, "-c", _PROBE), flags: str | None = None) -> Finding:
    """Whether llama.cpp can be loaded (in a process of its own: a build for another processor kills it)."""
    todo = "Install it again for this processor: pip install --force-reinstall --no-cache-dir llama-cpp-python==0.3.36."
    try:
        done = subprocess.run(command, capture_output=True, timeout=_ENGINE_S, check=False, text=True)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return Finding("engine", "fail", f"llama.cpp did not load within {_ENGINE_S:.0f} s", todo)
    except (OSError, ValueError, IndexError) as error:
        return Finding("engine", "fail", f"llama.cpp cannot be asked: {error}", todo)
    if done.returncode < 0:
        reason = f"killed by signal {-done.returncode}"
        return Finding("engine", "fail", f"llama.cpp does not run on this processor ({reason})", todo)
    if not found:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Finding("engine", "fail", f"llama.cpp cannot be loaded: {lines[-1]}", todo)
    features = built_features(found["info"])
    text = f"llama-cpp-python {found['version']}, built with {', '.join(features) or 'no vector instructions'}"
    missing = _unused(features, _cpu_flags() if flags is None else flags)
    if missing:
        return Finding("engine", "warn", text, f"The processor also has {missing}: a build for it would be faster.")
    return Finding("engine", "ok", text)


def built_features(info: str) -> list[str]:
    """The names in llama.cpp's system info (`... | AVX2 = 1 | ...`) that are on and are instruction sets."""
    pairs = (part.rpartition(":")[2].partition("=") for part in info.split("|"))
    on = [name.strip() for name, _, value in pairs if value.strip() == "1"]
    return [name for name in on if name not in ("LLAMAFILE", "OPENMP", "REPACK", "ACCELERATE")]


def _unused(features: Sequence[str], flags: str) -> str:
    """Instruction sets that matter, that the processor has and the build has not."""
    has = set(flags.split())
    wanted = (("avx2", "AVX2"), ("avx512f", "AVX512"), ("asimddp", "DOTPROD"), ("i8mm", "MATMUL_INT8"))
    return ", ".join(name for flag, name in wanted if flag in has and name not in features)


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")


def _hash(path: Path) -> str:
    from backends.models.download import hash_file

    steps = hash_file(path)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return str(end.value)


def gateway_key() -> str | None:
    """The key from the environment, if there is one."""
    return os.environ.get("OUTSTATION_API_KEY")
