"""What `doctor` finds out about small models: what computes them, and that heads have what they stand on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.commands.machine import Finding

if TYPE_CHECKING:
    from backends.models.store import Store

_RUNTIME_S: Final = 60.0
_PROBE: Final = """
import json, onnxruntime
print("\\n" + json.dumps({"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}))
"""


def check_runtime(wanted: Sequence[str], command: Sequence[str] = (sys.executable, "-c", _PROBE)) -> Finding:
    """Whether onnxruntime can be loaded (in a process of its own), and has the execution providers that are wanted.

    Args:
        wanted: as `[small_models] execution_providers` names them.
    """
    from gateway.schemas.small_models import RUNTIME_NAMES

    todo = "Install it again: pip install --force-reinstall onnxruntime."
    try:
        done = subprocess.run(command, capture_output=True, timeout=_RUNTIME_S, check=False, text=True)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return Finding("runtime", "fail", f"onnxruntime did not load within {_RUNTIME_S:.0f} s", todo)
    except (OSError, ValueError, IndexError) as error:
        return Finding("runtime", "fail", f"onnxruntime cannot be asked: {error}", todo)
    if done.returncode < 0:
        return Finding("runtime", "fail", f"onnxruntime does not run here (killed by signal {-done.returncode})", todo)
    if not found:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Finding("runtime", "fail", f"onnxruntime cannot be loaded: {lines[-1]}", todo)
    there = [name for name, own in RUNTIME_NAMES.items() if own in found["providers"]]
    text = f"onnxruntime {found['version']} with {', '.join(there) or 'no execution provider'}"
    if missing := [name for name in wanted if name not in there]:
        todo = (
            f"Install the build of onnxruntime for {missing[0]}, or take it out of [small_models] execution_providers."
        )
        return Finding("runtime", "fail", f"{text}; not {', '.join(missing)}, which the configuration wants", todo)
    return Finding("runtime", "ok", text)


def check_bases(store: Store) -> Iterator[Finding]:
    """A finding for each head whose base, the model that makes its embeddings, is not there."""
    from backends.models.store import LLM
    from backends.onnx.manifest import read_manifest

    models = {model.name: model for model in store.list()}
    for model in models.values():
        base = "" if model.role == LLM else read_manifest(model.path).base
        if base and (base not in models or models[base].role != "embed"):
            text = f"the model that it stands on, {base}, is not here"
            yield Finding(f"model {model.name}", "fail", text, f"`outstation pull {base}` fetches it.")
