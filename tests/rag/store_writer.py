"""A process that indexes until it is killed. Says each file that is done."""

from __future__ import annotations

import sys

from rag.store.base import open_store
from rag.store.records import Claim
from tests.rag.stores import index


def main(where: str, owner: str) -> None:
    """Works until all is done."""
    store = open_store(where)
    claim: Claim | None
    while claim := store.work.claim(owner, 0.0):
        index(store, claim)
        print(claim.file.file_id, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
