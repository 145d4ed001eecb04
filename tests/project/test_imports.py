"""Who may import what: the layers of the design, and a start of the gateway that loads nothing heavy."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"backends", "bench", "gateway", "policies", "rag"}
HEAVY = {
    "PIL", "llama_cpp", "numpy", "onnx", "onnxruntime", "sentence_transformers", "sklearn", "tokenizers", "torch",
    "transformers",
}  # fmt: skip


def imports_of(path: Path, *, at_top_only: bool = False) -> Iterator[str]:
    """The top-level names that a file imports, those inside functions too unless told otherwise."""
    tree = ast.parse(path.read_text(), str(path))
    for node in tree.body if at_top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py") if "node_modules" not in p.parts)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_layers() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = run(str(lint), "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


def test_only_the_bindings_import_llama_cpp() -> None:
    importers = [p.relative_to(ROOT) for p in sources("backends", "gateway", "policies", "rag") if importing_llama(p)]
    # The doctor asks whether it can be imported at all, in a process of its own.
    assert importers in ([], [Path("backends/llama/bindings.py")])


def importing_llama(path: Path) -> bool:
    return "llama_cpp" in set(imports_of(path))


@pytest.mark.parametrize("folder", ["gateway", "policies"])
def test_the_gateway_imports_no_heavy_package(folder: str) -> None:
    found = {str(p.relative_to(ROOT)): HEAVY & set(imports_of(p)) for p in sources(folder)}
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


def test_clients_import_nothing_of_ours() -> None:
    found = {str(p.relative_to(ROOT)): OURS & set(imports_of(p)) for p in sources("clients")}
    assert {name: ours for name, ours in found.items() if ours} == {}


# The room of documents computes in the gateway's process once it is used; until then it costs nothing either.
@pytest.mark.parametrize(
    "module", ["gateway.app", "gateway.cli", "rag.store.base", "rag.store.sqlite", "rag.store.postgres"]
)
def test_what_starts_with_the_gateway(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = run("-W", "error", "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def test_a_gateway_with_small_models_loads_nothing_heavy(tmp_path: Path) -> None:
    """Their manifests are read, and the process that computes them is another."""
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(ROOT)!r})\n"
        "from gateway.app import build_app; from gateway.config import load_config\n"
        f"home = Path({str(tmp_path)!r}); app = build_app(load_config(environ={{'OUTSTATION_HOME': str(home)}}))\n"
        "print(app.current.site.names(), [app.current.site.kinds(name) for name in app.current.site.names()])\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    for name in ("toxic-bilstm", "jailguard"):
        shutil.copytree(ROOT / "backends" / "models" / "bundled" / name, tmp_path / "models" / name)
    result = run("-W", "error", "-c", code)
    assert result.returncode == 0, result.stderr
    names, heavy = result.stdout.splitlines()
    assert names == "['jailguard', 'toxic-bilstm'] [['classification'], ['classification', 'moderation']]"
    assert heavy == ""


def test_the_command_line_starts_without_the_web_stack() -> None:
    result = run("-c", "import sys, gateway.cli; print(*sorted({'fastapi', 'uvicorn', 'rich'} & set(sys.modules)))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "", "heavy imports belong inside the commands"


def test_each_top_level_name_has_one_owner() -> None:
    """Two distributions with a `policies` of their own would overwrite each other without a word."""
    owners: dict[str, set[str]] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"].lower().replace("_", "-")
        for file in distribution.files or ():
            if file.suffix == ".py" and ".." not in file.parts and (len(file.parts) > 1 or file.stem != "__init__"):
                owners.setdefault(file.parts[0].removesuffix(".py"), set()).add(name)
    shared = {top: names for top, names in owners.items() if top in OURS and names - {"outstation"}}
    assert shared == {}
