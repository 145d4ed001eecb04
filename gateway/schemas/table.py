"""What the tables of `outstation.toml` are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
AliasName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=200)]
ClassName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Price = Annotated[float, Field(ge=0)]
DataAction = Literal["allow", "redact", "deny"]


class PlacedError(ValueError):
    """Something wrong between tables, with its place: `("rules", 1, "name")`."""

    def __init__(self, message: str, *place: int | str) -> None:
        super().__init__(message)
        self.place = place


class Table(BaseModel):
    """A table of the file: no unknown keys, no conversions, never changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
