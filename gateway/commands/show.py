"""`outstation show`: all that is known of a model."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.common import (
    count_text,
    echo_json,
    echo_sections,
    json_option,
    open_store,
    printable,
    size_text,
    time_text,
)

if TYPE_CHECKING:
    from backends.models.catalogue import Entry
    from backends.models.gguf import GGUFInfo
    from backends.models.store import LocalModel


@click.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a model's origin and metadata, an LLM's chat template, a small model's manifest.

    NAME is a model on this box, one of the catalogue, or the path of a GGUF file or of a small model's folder.
    """
    from backends.models.catalogue import load_catalogue
    from backends.models.errors import NotInStore
    from backends.models.gguf import read_gguf
    from backends.onnx.manifest import MANIFEST, read_manifest
    from gateway.commands.show_small import show_small

    entry = load_catalogue().find(name)
    model, path = None, Path(name)
    if not ((path.suffix == ".gguf" and path.exists()) or (path / MANIFEST).exists()):
        try:
            model = open_store().get(name)
            path = model.path
        except NotInStore:
            if entry is None:
                raise
    if path.is_dir() or (model is None and entry and entry.manifest):
        manifest = read_manifest(path) if path.is_dir() else entry.manifest if entry else None
        if manifest:
            show_small(model, manifest, entry, as_json=as_json)
            return
    info = read_gguf(path) if model or path.exists() else None
    if as_json:
        echo_json({"local": _plain(model), "file": _plain(info), "catalogue": _plain(entry)})
        return
    echo_sections(_sections(model, info, entry))
    if info and info.chat_template:
        click.echo(click.style("chat template", bold=True))
        click.echo(textwrap.indent(printable(info.chat_template), "  "))


def _plain(record: Any) -> dict[str, Any] | None:
    return asdict(record) if record is not None else None


def _sections(
    model: LocalModel | None, info: GGUFInfo | None, entry: Entry | None
) -> list[tuple[str, list[tuple[str, str]]]]:
    sections = []
    if model:
        sections.append((model.name, _of_model(model)))
    if info:
        sections.append(("file", _of_file(info)))
    if entry:
        sections.append(("catalogue", _of_entry(entry)))
    return sections


def _of_model(model: LocalModel) -> list[tuple[str, str]]:
    checked = "matches the catalogue or --sha256" if model.verified else "computed, not compared with a known one"
    return [
        ("path", str(model.path)),
        ("source", model.source),
        ("pulled", time_text(model.created)),
        ("sha256", f"{model.sha256} ({checked})"),
        ("licence", model.licence or "not stated"),
        ("sampling", _settings(model.sampling) or "the gateway's defaults"),
    ]


def _of_file(info: GGUFInfo) -> list[tuple[str, str]]:
    return [
        ("title", info.name),
        ("architecture", f"{info.architecture}, {info.n_layers} layers, width {info.n_embd}"),
        ("heads", f"{info.n_head}, for keys and values {info.n_head_kv}"),
        ("parameters", count_text(info.parameters)),
        ("quantisation", info.quantization),
        ("size", size_text(info.size_bytes)),
        ("context", f"{info.context_length} tokens"),
        ("vocabulary", f"{info.n_vocab} tokens"),
        ("KV cache", f"{info.kv_bytes_per_cell} bytes a token, {_kv(info)} for the whole context (f16)"),
        ("licence", info.license or "not stated"),
    ]


def _kv(info: GGUFInfo) -> str:
    return size_text(info.kv_bytes_per_cell * info.context_length)


def _of_entry(entry: Entry) -> list[tuple[str, str]]:
    return [
        ("description", entry.description),
        ("size", size_text(entry.size)),
        ("sha256", entry.sha256),
        ("licence", entry.licence),
        ("sampling", _settings(entry.sampling)),
        *[("source", str(source)) for source in entry.sources],
    ]


def _settings(sampling: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in sampling.items())
