"""The tables, one text for SQLite and PostgreSQL. A later version adds a text to `VERSIONS` and never edits one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Times are Unix times (s). {serial}, {int}, {real}, {bytes}, {text}: the dialect's words; {strict}: its end of a table.
_FIRST: Final = """
-- Counters: what a process holds in memory is of this count or of the past.
CREATE TABLE state (name {text} PRIMARY KEY, value {int} NOT NULL){strict};
INSERT INTO state VALUES ('docs', 0), ('members', 0);
CREATE TABLE embedders (
    n {serial}, name {text} NOT NULL, sha256 {text} NOT NULL, dimensions {int} NOT NULL,
    pieces {int} NOT NULL DEFAULT 0, UNIQUE (name, sha256, dimensions)
){strict};
-- What files contain, once for each content, in parts that fit into memory.
CREATE TABLE contents (n {serial}, sha256 {text} NOT NULL UNIQUE){strict};
CREATE TABLE content_parts (
    content {int} NOT NULL REFERENCES contents (n), place {int} NOT NULL, data {bytes} NOT NULL,
    PRIMARY KEY (content, place)
){strict};
CREATE TABLE files (
    n {serial}, id {text} NOT NULL UNIQUE, name {text} NOT NULL, purpose {text} NOT NULL, size {int} NOT NULL,
    created {real} NOT NULL, content {int} NOT NULL REFERENCES contents (n)
){strict};
CREATE INDEX files_content ON files (content);
CREATE TABLE stores (
    n {serial}, id {text} NOT NULL UNIQUE, name {text} NOT NULL, embedder {int} NOT NULL REFERENCES embedders (n),
    next_embedder {int} REFERENCES embedders (n), metadata {text} NOT NULL, settings {text} NOT NULL,
    data_class {text} NOT NULL, expires_after {int}, expired {int} NOT NULL DEFAULT 0, created {real} NOT NULL,
    last_active {real} NOT NULL
){strict};
CREATE TABLE batches (
    n {serial}, id {text} NOT NULL UNIQUE, store {int} NOT NULL REFERENCES stores (n), created {real} NOT NULL,
    cancelled {int} NOT NULL DEFAULT 0
){strict};
CREATE INDEX batches_store ON batches (store);
-- A content, cut and embedded: whole, or not there. Shared by all files that have it.
CREATE TABLE docs (
    n {serial}, sha256 {text} NOT NULL, chunking {text} NOT NULL, embedder {int} NOT NULL REFERENCES embedders (n),
    pieces {int} NOT NULL, bytes {int} NOT NULL, UNIQUE (sha256, chunking, embedder)
){strict};
CREATE INDEX docs_embedder ON docs (embedder);
-- Their ids say the document: rag/store/engine.py.
CREATE TABLE chunks (
    id {int} PRIMARY KEY, body {text} NOT NULL, first {int} NOT NULL,
    behind {int} NOT NULL, tokens {int} NOT NULL, headings {text} NOT NULL, page {int}
){strict};
-- A file in a store. In progress, it is the work that is left as well: `owner` has it until `until`.
CREATE TABLE members (
    n {serial}, store {int} NOT NULL REFERENCES stores (n), file {int} NOT NULL REFERENCES files (n),
    batch {int} REFERENCES batches (n), status {text} NOT NULL, created {real} NOT NULL, attributes {text} NOT NULL,
    chunking {text} NOT NULL, doc {int} REFERENCES docs (n), next_doc {int} REFERENCES docs (n),
    next_failed {int} NOT NULL DEFAULT 0, error_code {text}, error {text}, owner {text} NOT NULL DEFAULT '',
    until {real} NOT NULL DEFAULT 0, attempts {int} NOT NULL DEFAULT 0, UNIQUE (store, file)
){strict};
CREATE INDEX members_file ON members (file);
CREATE INDEX members_doc ON members (doc, store);
CREATE INDEX members_next_doc ON members (next_doc);
CREATE INDEX members_status ON members (store, status, doc);
CREATE INDEX members_batch ON members (batch);
CREATE INDEX members_open ON members (n) WHERE status = 'in_progress';
-- One row for each attribute of a file in a store: what filters ask. One of the last three is not NULL.
CREATE TABLE attributes (
    member {int} NOT NULL REFERENCES members (n), store {int} NOT NULL, name {text} NOT NULL, number {real},
    text {text}, flag {int}, PRIMARY KEY (member, name)
){strict};
CREATE INDEX attributes_number ON attributes (store, name, number, member) WHERE number IS NOT NULL;
CREATE INDEX attributes_text ON attributes (store, name, text, member) WHERE text IS NOT NULL;
CREATE INDEX attributes_flag ON attributes (store, name, flag, member) WHERE flag IS NOT NULL;
"""
# When a file is removed by itself, if its client said so.
_SECOND: Final = """
ALTER TABLE files ADD COLUMN expires {real};
CREATE INDEX files_expires ON files (expires) WHERE expires IS NOT NULL;
"""
_THIRD: Final = """
ALTER TABLE stores ADD COLUMN description {text} NOT NULL DEFAULT '';
"""
# Pages that begin inside a piece: [[number, place in the file], ...].
_FOURTH: Final = """
ALTER TABLE chunks ADD COLUMN pages {text} NOT NULL DEFAULT '[]';
"""
# Data classes, with commas between: that a file was sent with or has been beside; that a store's files brought.
_FIFTH: Final = """
ALTER TABLE files ADD COLUMN classes {text} NOT NULL DEFAULT '';
ALTER TABLE stores ADD COLUMN classes {text} NOT NULL DEFAULT '';
"""
VERSIONS: Final = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH)


def statements(version: int, words: Mapping[str, str]) -> list[str]:
    """The statements that make a version (from 1) of the one before it."""
    text = VERSIONS[version - 1].format_map(words)
    return [part.strip() for part in text.split(";\n") if part.strip()]
