"""The families of models, one file each: whatever it tells in `FAMILIES` is known. Pure.

To add one: its file here, and what its models really write as `tests/llama/recorded/NAME.json`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from backends.llama.families.generic import Generic
from backends.llama.family import Family

FAMILIES: tuple[Family, ...] = tuple(
    family for module in iter_modules(__path__) for family in import_module(f"{__name__}.{module.name}").FAMILIES
)


def family_of(template: str) -> Family:
    """The family that a chat template tells; whoever speaks none of these is told of tools in words."""
    return next((family for family in FAMILIES if family.speaks(template)), Generic())
