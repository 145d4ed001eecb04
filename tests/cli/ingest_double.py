"""A gateway's files and vector stores in memory, as `Connection` shows them: it can break off at any request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from gateway.commands.client import Refused, Unreachable


class Killed(BaseException):
    """Nothing may handle it, as nothing handles a kill."""


@dataclass
class Double:
    """What the gateway keeps.

    Attributes:
        broken_at: the number of the changing request at which it breaks off, before (x.0) or after (x.5) it worked.
        by: what is raised then.
        down: connections are refused.
        looks: how often a file is asked for until it is read in.
        largest: bytes of a file at most.
        sent: names of the files that were uploaded.
    """

    broken_at: float | None = None
    by: BaseException = field(default_factory=Killed)
    down: bool = False
    looks: int = 1
    largest: int = 1000
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    stores: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    changes: int = 0
    made: int = 0

    def store(self, name: str, **own: Any) -> str:
        """A new one."""
        self.made += 1
        store_id = f"vs_{self.made}"
        self.stores[store_id] = {"id": store_id, "name": name, "status": "completed", "outstation": own, "members": {}}
        return store_id

    def file(self, name: str, content: bytes) -> dict[str, Any]:
        """A new one."""
        self.made += 1
        own = {"sha256": hashlib.sha256(content).hexdigest()}
        self.files[f"file-{self.made}"] = one = {
            "id": f"file-{self.made}", "filename": name, "purpose": "assistants", "outstation": own, "content": content
        }  # fmt: skip
        return one

    def member(self, store_id: str, file_id: str, attributes: Mapping[str, Any], status: str = "in_progress") -> Any:
        """Puts a file into a store."""
        self.made += 1
        self.stores[store_id]["members"].pop(file_id, None)
        self.stores[store_id]["members"][file_id] = one = {
            "id": file_id, "status": status, "attributes": dict(attributes), "created_at": self.made,
            "last_error": None, "outstation": self.files[file_id]["outstation"], "looks": 0,
        }  # fmt: skip
        return one

    def paths(self, store_id: str) -> list[tuple[str, bytes]]:
        """What is in the store, in whatever state, with what it says that it is."""
        members = self.stores[store_id]["members"].values()
        return sorted((one["attributes"].get("path", ""), self.files[one["id"]]["content"]) for one in members)

    def found(self, store_id: str) -> dict[str, str]:
        """What a search could find: paths by file."""
        members = self.stores[store_id]["members"].values()
        return {one["id"]: one["attributes"].get("path", "") for one in members if one["status"] == "completed"}

    # What follows is the interface of `Connection`.

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, wait_s: float = 60.0) -> Any:
        self._up()
        match path.strip("/").split("/")[1:]:
            case ["vector_stores", store_id, "files", file_id]:
                one = self._one(self._one(self.stores, store_id)["members"], file_id)
                if one["status"] == "in_progress":
                    one["looks"] += 1
                    if one["looks"] > self.looks:
                        self._read(store_id, one)
                return dict(one)
            case ["vector_stores", store_id]:
                return self._one(self.stores, store_id)
        raise AssertionError(path)

    def every(self, path: str, **params: Any) -> Iterator[Any]:
        self._up()
        match path.strip("/").split("/")[1:]:
            case ["vector_stores", store_id, "files"]:
                found = self._one(self.stores, store_id)["members"]
            case ["vector_stores"]:
                found = self.stores
            case ["files"]:
                found = self.files
            case _:
                raise AssertionError(path)
        yield from [dict(one) for one in found.values()]

    def post(self, path: str, body: Mapping[str, Any], *, wait_s: float = 60.0) -> Any:
        def work() -> Any:
            match path.strip("/").split("/")[1:]:
                case ["vector_stores"]:
                    return self.stores[self.store(body["name"], **body.get("outstation", {}))]
                case ["vector_stores", store_id, "files"]:
                    self._one(self.files, body["file_id"])
                    return self.member(store_id, body["file_id"], body["attributes"])
                case ["vector_stores", store_id, "files", file_id]:
                    one = self._one(self._one(self.stores, store_id)["members"], file_id)
                    one["attributes"] = dict(body["attributes"])
                    return one
            raise AssertionError(path)

        return self._change(work)

    def upload(self, path: str, name: str, content: IO[bytes], fields: Mapping[str, str]) -> Any:
        def work() -> Any:
            data = content.read()
            if len(data) > self.largest:
                raise Refused("The file is too large.", 413, "body_too_large")
            if not data:
                raise Refused("The file is empty.", 400, None)
            self.sent.append(name)
            return self.file(name, data)

        return self._change(work)

    def delete(self, path: str) -> bool:
        def work() -> bool:
            match path.strip("/").split("/")[1:]:
                case ["files", file_id]:
                    for store in self.stores.values():
                        store["members"].pop(file_id, None)
                    return self.files.pop(file_id, None) is not None
                case ["vector_stores", store_id, "files", file_id]:
                    return self.stores[store_id]["members"].pop(file_id, None) is not None
            raise AssertionError(path)

        return bool(self._change(work))

    def _up(self) -> None:
        if self.down:
            raise Unreachable("No gateway answers.")

    def _change(self, work: Any) -> Any:
        self._up()
        self.changes += 1
        if self.broken_at == self.changes:
            raise self.by
        done = work()
        if self.broken_at == self.changes + 0.5:
            raise self.by
        return done

    def _one(self, found: Mapping[str, Any], id_: str) -> Any:
        if id_ not in found:
            raise Refused(f"There is no {id_}.", 404, None)
        return found[id_]

    def _read(self, store_id: str, one: dict[str, Any]) -> None:
        content = self.files[one["id"]]["content"]
        one["status"] = "completed"
        for word, code in ((b"bad", "invalid_file"), (b"flaky", "server_error")):
            if content.startswith(word):
                one["status"], one["last_error"] = "failed", {"code": code, "message": f"It is {word.decode()}."}
