"""What people read is true: links lead somewhere, lists are whole, the commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    return {slug(m) for m in re.findall(r"^#+ (.+)$", without_code(path.read_text()), flags=re.MULTILINE)}


def name_of(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_every_document_is_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [
        str(p.relative_to(ROOT)) for p in DOCUMENTS if p.parent == ROOT / "docs" and f"docs/{p.name}" not in readme
    ] == []


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert [h for h in headings[1:] if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", h)] == []
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE)) <= kinds


def test_each_dependency_is_explained() -> None:
    groups = PROJECT["dependency-groups"]
    listed = [*PROJECT["project"]["dependencies"], *groups["build"], *groups["dev"], *groups["frameworks"]]
    wanted = {name_of(r) for r in listed}
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "dependencies.md").read_text(), flags=re.MULTILINE)
    assert sorted(set(rows)) == sorted(wanted)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_pin_and_hash_and_name_no_index(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?://|^-", text, flags=re.MULTILINE)
    for entry in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        assert re.match(r"[a-z0-9.\-\[\],]+==\S+", entry)
        assert "--hash=sha256:" in entry


def test_locks_agree() -> None:
    """But for the frameworks': they never share an environment with ours, and instructor wants older packages."""
    pins: dict[str, set[str]] = {}
    for lock in (lock for lock in LOCKS if lock.name != "requirements-frameworks.lock"):
        for name, version in re.findall(
            r"^([a-z0-9.\-]+)(?:\[[^\]]*\])?==(\S+)[^\n]*$", lock.read_text(), re.MULTILINE
        ):
            pins.setdefault(name, set()).add(f"{lock.name} {version}")
    wanted = {name_of(r) for r in PROJECT["project"]["dependencies"]}
    assert wanted <= pins.keys()
    runtime = {n: {v.split()[1] for v in vs if v.startswith("requirements.lock ")} for n, vs in pins.items()}
    for name, versions in pins.items():
        if runtime[name]:
            assert {v.split()[1] for v in versions} == runtime[name], name


def test_commands_that_are_promised_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    texts = "".join(document.read_text() for document in DOCUMENTS if document.name != "CHANGELOG.md")
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)\b(?=`|\s*$|  )", texts, flags=re.MULTILINE))
    assert {"serve", "test", "install", "check", "bench"} <= targets
    assert named <= targets


def test_ci_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make test" in (ROOT / "README.md").read_text()
    assert script[-2:] == ["make test", "make check"]
