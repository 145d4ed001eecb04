"""Tiny vocabularies as real GGUF files, so that llama.cpp itself says what their control tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.models.gguf_writer import ARRAY, BOOL, I32, STRING, U32, gguf, replaced

NORMAL, CONTROL = 1, 3


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte, as GPT-2's vocabulary has them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def write_vocabulary(path: Path, control: Sequence[str], end: str, template: str = "") -> Path:
    """A vocabulary of single bytes and control tokens; `end` is the one that ends a completion."""
    tokens = [*byte_letters(), *control]
    pairs = (
        *replaced("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["a b"])),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [NORMAL] * 256 + [CONTROL] * len(control))),
        ("tokenizer.ggml.eos_token_id", U32, tokens.index(end)),
        ("tokenizer.ggml.bos_token_id", U32, tokens.index(end)),
    )
    replaced_too = ("tokenizer.ggml.scores", "tokenizer.ggml.add_bos_token", "tokenizer.chat_template")
    kept = [pair for pair in pairs if pair[0] not in replaced_too]
    rest = [("tokenizer.ggml.add_bos_token", BOOL, 0), ("tokenizer.chat_template", STRING, template)]
    path.write_bytes(gguf([*kept, *rest]))
    return path
