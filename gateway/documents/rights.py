"""What each API key may do with the site's documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gateway.errors import RefusedError

Right = Literal["manage", "read", "none"]
Deed = Literal["manage", "read"]


class Rights:
    """By the names of the keys; a key without an entry, and a gateway without keys, may do everything."""

    def __init__(self, of_key: Mapping[str, Right] | None = None) -> None:
        self._of_key = of_key or {}

    def check(self, key: str, deed: Deed) -> None:
        """Raises `RefusedError` (403) where the key may not do it."""
        right = self._of_key.get(key, "manage")
        if right == "manage" or right == deed:
            return
        what = "may only read and search" if right == "read" else "may not use"
        raise RefusedError(
            403, f"This API key {what} the site's documents (`documents` in `[[keys]]`).", code="documents_forbidden"
        )
