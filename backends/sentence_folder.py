"""A model's folder as sentence-transformers or Hugging Face's transformers save it: what it is, by its own settings,
and what is refused before a library opens it. Weights are read from safetensors only: other formats can run code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.errors import BadModelFile
from backends.onnx.manifest import Task

MOST_JSON_BYTES = 16 << 20
MOST_TOKENS = 1 << 20
_MODULES = {"Transformer", "Pooling", "Normalize"}
_SERVED = _MODULES | {"Dense"}
"""Others than these are not exported; the library itself can serve more."""
_QUERY, _DOCUMENT = ("query", "search_query"), ("document", "passage", "search_document")

Pooling = Literal["cls", "mean"]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a folder holds.

    Attributes:
        pooling: how an embedder's tokens become one vector; None: the folder does not say.
        dimensions: of an embedder's vectors.
        labels: of a classifier, in the order of its outputs.
        exclusive: exactly one of them is right.
        licence: as its model card says; empty: it does not.
    """

    path: Path
    task: Task
    max_tokens: int
    pooling: Pooling | None = None
    normalize: bool = False
    dimensions: int = 0
    labels: tuple[str, ...] = ()
    exclusive: bool = True
    query_prefix: str = ""
    document_prefix: str = ""
    licence: str = ""


def read_folder(path: Path, *, serve: bool = False) -> ModelFolder:
    """What the folder holds; loads no weights.

    Args:
        serve: the library itself will run it, which knows more kinds of modules and poolings than are exported.

    Raises:
        BadModelFile: it is none of the known layouts, or would have to be trusted with more than numbers.
    """
    if not path.is_dir():
        raise BadModelFile(f"{path} is no folder.")
    modules = _modules(path)
    _check_modules(path, modules, _SERVED if serve else _MODULES)
    inner = _inner(path, modules)
    config = _json(inner / "config.json")
    _check_code(inner, config)
    _check_weights(inner)
    if not (inner / "tokenizer.json").is_file():
        raise BadModelFile(f"{inner} has no tokenizer.json. Save the model with its fast tokenizer.")
    pooling = None if serve else _pooling(path, modules)
    task = _task(config, bool(modules))
    labels = _labels(config) if task == "classify" else ()
    query, document = _prefixes(path)
    return ModelFolder(
        path=path,
        task=task,
        max_tokens=_max_tokens(path, inner, config),
        pooling=pooling,
        normalize=any(_type(module) == "Normalize" for module in modules),
        dimensions=_dimensions(path, modules, config) if task == "embed" else 0,
        labels=labels,
        exclusive=config.get("problem_type") != "multi_label_classification",
        query_prefix=query,
        document_prefix=document,
        licence=_licence(path),
    )


def inner_folder(folder: ModelFolder) -> Path:
    """Where the transformer itself lies: the folder, or one in it."""
    return _inner(folder.path, _modules(folder.path))


def _inner(path: Path, modules: Sequence[Mapping[str, Any]]) -> Path:
    return path / next((str(module.get("path", "")) for module in modules if _type(module) == "Transformer"), "")


def _modules(path: Path) -> list[Mapping[str, Any]]:
    """Of sentence-transformers; none in a plain folder of transformers."""
    if not (path / "modules.json").is_file():
        return []
    modules = _json(path / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise BadModelFile(f"{path / 'modules.json'} is no list of modules.")
    return modules


def _check_modules(path: Path, modules: Sequence[Mapping[str, Any]], known: Set[str]) -> None:
    for module in modules:
        # The library imports what is named here: any class of its own, and of older versions any class at all.
        if not str(module.get("type", "")).startswith("sentence_transformers.") or _type(module) not in known:
            raise BadModelFile(f"{path}: its module {module.get('type')!r} is not one of {', '.join(sorted(known))}.")
        if ".." in Path(place := str(module.get("path", ""))).parts or Path(place).is_absolute():
            raise BadModelFile(f"{path}: its module {place!r} lies outside of it.")
        if _type(module) == "Dense":
            _check_weights(path / place)


def _type(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _check_code(path: Path, config: Any) -> None:
    if not isinstance(config, dict):
        raise BadModelFile(f"{path / 'config.json'} is no object.")
    if "auto_map" in config:
        raise BadModelFile(f"{path} needs Python code of its own ('auto_map'), which is never run.")


def _check_weights(path: Path) -> None:
    if (path / "model.safetensors").is_file() or (path / "model.safetensors.index.json").is_file():
        return
    others = sorted(
        file.name for file in path.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
    )
    if others:
        raise BadModelFile(
            f"{path} has its weights only as {others[0]}, a format that can run code when it is read. "
            "Only model.safetensors is read: fetch that one, or convert it where you trust it "
            "(`model.save_pretrained(folder, safe_serialization=True)`)."
        )
    raise BadModelFile(f"{path} has no model.safetensors.")


def _dimensions(path: Path, modules: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> int:
    if dense := [str(module.get("path", "")) for module in modules if _type(module) == "Dense"]:
        return int(_json(path / dense[-1] / "config.json").get("out_features") or 0)
    return int(config.get("hidden_size") or config.get("dim") or 0)


def _task(config: Mapping[str, Any], sentences: bool) -> Task:
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        return "rerank" if len(_labels(config)) == 1 else "classify"
    if sentences or architecture.endswith(("Model", "ForMaskedLM", "ForPreTraining")):
        return "embed"
    raise BadModelFile(f"A model of the kind {architecture or 'that config.json does not name'} cannot be served.")


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    if isinstance(named, dict) and named:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    count = int(config.get("num_labels") or 2)
    return tuple(f"LABEL_{index}" for index in range(count))


def _pooling(path: Path, modules: list[Mapping[str, Any]]) -> Pooling | None:
    place = next((str(module.get("path", "")) for module in modules if _type(module) == "Pooling"), None)
    if place is None:
        return None
    config = _json(path / place / "config.json")
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    modes = modes or [
        key.removeprefix("pooling_mode_") for key, on in config.items() if on is True and "pooling_mode_" in key
    ]
    match [mode.removesuffix("_token").removesuffix("_tokens") for mode in modes]:
        case ["cls"]:
            return "cls"
        case ["mean"]:
            return "mean"
    raise BadModelFile(f"{path}: its pooling is {' and '.join(modes) or 'none'}; only cls and mean are known.")


def _max_tokens(path: Path, inner: Path, config: Mapping[str, Any]) -> int:
    positions = int(config.get("max_position_embeddings") or 512)
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # their positions begin behind the padding's
    files = (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length"))
    said = [_json(place / name).get(key) for name, key in files for place in {path, inner} if (place / name).is_file()]
    limits = [int(min(value, MOST_TOKENS)) for value in said if isinstance(value, int | float)]
    return max(1, min([positions, *limits]))


def _prefixes(path: Path) -> tuple[str, str]:
    """Of queries and of documents."""
    file = path / "config_sentence_transformers.json"
    prompts = _json(file).get("prompts") if file.is_file() else None
    if not isinstance(prompts, dict):
        return "", ""

    def first(names: tuple[str, ...]) -> str:
        return next((str(prompts[name]) for name in names if prompts.get(name)), "")

    return first(_QUERY), first(_DOCUMENT)


def _licence(path: Path) -> str:
    card = path / "README.md"
    if not card.is_file():
        return ""
    with card.open(encoding="utf-8", errors="replace") as file:
        head = file.read(1 << 16)
    front = re.match(r"---\n(.*?)\n---", head, re.DOTALL)
    found = re.search(r"^license:\s*([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise BadModelFile(f"{path} is too large for settings.")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadModelFile(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError:
        raise BadModelFile(f"{path} is no JSON.") from None
