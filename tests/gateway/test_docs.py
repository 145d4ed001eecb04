"""The docs say what the code does: each setting with its type and default, metric, endpoint and error code."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi.routing import APIRoute
from prometheus_client.core import Metric
from pydantic_core import PydanticUndefined

from backends.fake import FakeBackend
from gateway.app import build_api, build_app
from gateway.config import load_config
from gateway.metrics import Metrics
from gateway.schemas.settings import FileConfig
from gateway.schemas.table import Table

DOCS = Path(__file__).parents[2] / "docs"


def tables(schema: type[Table], place: str = "") -> list[tuple[str, type[Table]]]:
    """Each table of the file with its place, `models` for `[[models]]`."""
    found = [(place, schema)]
    for name, inner in nested(schema).items():
        found += tables(inner, f"{place}.{name}".lstrip("."))
    return found


def nested(schema: type[Table]) -> dict[str, type[Table]]:
    """The tables in a table."""
    found = {}
    for name, field in schema.model_fields.items():
        annotation: Any = field.annotation
        inner = next((arg for arg in getattr(annotation, "__args__", ()) if isinstance(arg, type)), annotation)
        if isinstance(inner, type) and issubclass(inner, Table):
            found[name] = inner
    return found


def kind(field: dict[str, Any]) -> str:
    """A setting's type, for people."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    option = options[0]
    if "enum" in option:
        return " or ".join(f'`"{value}"`' for value in option["enum"])
    return {
        "number": "number",
        "integer": "integer",
        "string": "string",
        "array": "list of strings",
        "object": "table",
        "boolean": "boolean",
    }[option.get("type", "object")]


def shown(field: Any) -> str:
    default = field.default_factory() if field.default_factory else field.default
    if default is PydanticUndefined:
        return "required"
    if default == {}:
        return "`{}`"
    if default is None:
        return "–"
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{value}"' for value in default) + "]`"
    if isinstance(default, bool):
        return f"`{default}`".lower()
    return (
        f'`"{default}"`'
        if isinstance(default, str)
        else f"`{default:g}`"
        if isinstance(default, float)
        else f"`{default}`"
    )


def setting_rows() -> list[str]:
    rows = []
    for place, schema in tables(FileConfig):
        if not place:
            continue
        properties = schema.model_json_schema()["properties"]
        rows += [
            f"| `{place}.{name}` | {kind(properties[name])} | {shown(field)} | {field.description} |"
            for name, field in schema.model_fields.items()
            if name not in nested(schema)
        ]
    return rows


@pytest.mark.parametrize("row", setting_rows(), ids=lambda row: row.split("`")[1])
def test_every_setting_is_documented_with_its_type_and_default(row):
    assert row in (DOCS / "configuration.md").read_text(encoding="utf-8").splitlines()


def test_no_setting_is_documented_that_does_not_exist():
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    known = {row.split("`")[1] for row in setting_rows()}
    assert set(re.findall(r"^\| `([a-z0-9_.]+)` \|", text, re.MULTILINE)) == known


def test_the_documented_file_is_valid(tmp_path):
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for number, example in enumerate(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(example, encoding="utf-8")
        load_config(file, environ={"KIOSK_KEY": "x", "OUTSTATION_HOME": str(tmp_path)})


def metric_rows() -> list[str]:
    with TemporaryDirectory() as home:
        config = load_config(environ={"OUTSTATION_HOME": home})
        families: list[Metric] = list(build_app(config, [FakeBackend()]).shared.metrics.registry.collect())
    suffix = {"counter": "_total"}
    return [f"| `{f.name}{suffix.get(f.type, '')}` | {f.type} | {f.documentation} |" for f in families]


@pytest.mark.parametrize("row", metric_rows(), ids=lambda row: row.split("`")[1])
def test_every_metric_is_documented(row):
    assert row in (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines()


def test_no_metric_is_documented_that_does_not_exist():
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(outstation_\w+)`", text, re.MULTILINE)) == {
        row.split("`")[1] for row in metric_rows()
    }


def test_every_endpoint_is_documented(make_app):
    now = make_app().current
    api = build_api(now.site, Metrics(now.site.states), now.inference)
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for route in api.routes:
        if isinstance(route, APIRoute):
            (method,) = route.methods
            assert f"`{method} {route.path_format}`" in text


def test_every_error_code_is_documented():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    root = Path(__file__).parents[2]
    rooms = [*(root / "gateway").rglob("*.py"), *(root / "policies").rglob("*.py"), *(root / "backends").glob("*.py")]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in rooms if "commands" not in path.parts)
    codes = set(re.findall(r'\bcode="([a-z_]+)"', sources)) | set(
        re.findall(r'^    code = "([a-z_]+)"', sources, re.MULTILINE)
    )
    assert {code for code in codes if f"`{code}`" not in text} == set()
