"""llama.cpp through llama-cpp-python's low-level bindings: the only module that imports llama_cpp.

`Model` is a file's weights and vocabulary, `Context` its KV cache and one batch. Nothing here decides anything.
Not thread-safe, except `Model.tokenize` and `Context.abort`, which other threads may call at any time.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from backends.errors import BadModelFile, EngineFailed, InvalidRequest

FLASH_ATTN_DISABLED = 0  # enum llama_flash_attn_type


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _discard_log(level: int, text: bytes, data: Any) -> None:
    """llama.cpp's chatter; errors come back as return values."""


def silence() -> None:
    """Keep llama.cpp from writing to the terminal."""
    llama.llama_log_set(_discard_log, ctypes.c_void_p(0))


def system_info() -> str:
    """The CPU features that this build of llama.cpp uses."""
    return str(llama.llama_print_system_info().decode())


class Model:
    """A model file, mapped into memory."""

    def __init__(self, path: Path, *, vocab_only: bool = False) -> None:
        """Raises `BadModelFile` if llama.cpp refuses the file."""
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.vocab_only = vocab_only
        self._model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise BadModelFile(f"llama.cpp cannot load {path.name}: its architecture or tensors are not supported.")
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.n_vocab = int(llama.llama_vocab_n_tokens(self._vocab))
        self.n_ctx_train = int(llama.llama_model_n_ctx_train(self._model))
        self._pieces: dict[int, bytes] = {}
        self._shown: dict[int, bytes] = {}
        self.eog = frozenset(t for t in range(self.n_vocab) if llama.llama_vocab_is_eog(self._vocab, t))

    @property
    def handle(self) -> Any:
        return self._model

    @property
    def shares_prefixes(self) -> bool:
        """Whether part of a sequence can be copied and removed: not in a recurrent state."""
        return not (llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model))

    @property
    def generates(self) -> bool:
        """Whether it is a decoder: not an encoder (embeddings), encoder-decoder or diffusion model."""
        m = self._model
        return bool(llama.llama_model_has_decoder(m)) and not (
            llama.llama_model_has_encoder(m) or llama.llama_model_is_diffusion(m)
        )

    def chat_template(self) -> str | None:
        """The Jinja source in the file's metadata, if it has one."""
        source = llama.llama_model_chat_template(self._model, None)
        return source.decode("utf-8", "replace") if source else None

    def special_text(self, which: str) -> str:
        """The text of the `bos` or `eos` token, empty if there is none."""
        token = {"bos": llama.llama_vocab_bos, "eos": llama.llama_vocab_eos}[which](self._vocab)
        return self.piece(token).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """Token ids. `special`: control tokens in the text count as such; `begin`: add BOS if the model wants one."""
        raw = text.encode("utf-8")
        size = len(raw) + 8
        while True:
            buffer = (llama.llama_token * size)()
            n = llama.llama_tokenize(self._vocab, raw, len(raw), buffer, size, begin, special)
            if n >= 0:
                return list(buffer[:n])
            if n == -(2**31):
                raise InvalidRequest("The prompt is too long to be tokenised.", code="context_length_exceeded")
            size = -n

    def starts_with_bos(self, text: str) -> bool:
        """Whether rendering already wrote the BOS token that tokenising would add once more."""
        bos = self.special_text("bos")
        return bool(bos) and text.startswith(bos)

    def grammar_tokenizer(self) -> Any:
        """llguidance's tokenizer of this vocabulary; takes 0.4 s for 50,000 tokens."""
        from llguidance import LLTokenizer

        # Its mark for tokens that are no text: in a grammar they can only be named, never spelled.
        words = [b"\xff" + self.piece(t) if self._is_control(t) else self.piece(t) for t in range(self.n_vocab)]
        tokenize = ctypes.cast(llama._lib.llama_tokenize, ctypes.c_void_p).value
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # its stubs leave it out
            tokens=words, vocab_ptr=self._vocab, tokenize_fptr=tokenize, eos_token=sorted(self.eog), slices=None
        )

    def _is_control(self, token: int) -> bool:
        attributes = llama.llama_vocab_get_attr(self._vocab, token)
        if attributes & llama.LLAMA_TOKEN_ATTR_USER_DEFINED:
            piece = self.piece(token)
            return len(piece) > 2 and piece[:1] + piece[-1:] in (b"<>", b"[]")
        return bool(attributes & llama.LLAMA_TOKEN_ATTR_CONTROL)

    def control_token(self, text: str) -> int | None:
        """The token that stands for this text and nothing else, and that no other tokens spell; None: there is none."""
        tokens = self.tokenize(text, special=True, begin=False)
        return tokens[0] if len(tokens) == 1 and self._is_control(tokens[0]) else None

    def start_tokens(self) -> list[int]:
        """What an empty prompt begins with: BOS, or else EOS, which ends a text and so begins one."""
        for token in (llama.llama_vocab_bos(self._vocab), llama.llama_vocab_eos(self._vocab)):
            if token >= 0:
                return [int(token)]
        return []

    def piece(self, token: int) -> bytes:
        """The token's bytes, control tokens spelled out."""
        return self._piece(token, special=True, cache=self._pieces)

    def shown(self, token: int) -> bytes:
        """The token's bytes as a client sees them: none for control tokens."""
        return self._piece(token, special=False, cache=self._shown)

    def _piece(self, token: int, *, special: bool, cache: dict[int, bytes]) -> bytes:
        if (known := cache.get(token)) is not None:
            return known
        size = 64
        buffer = ctypes.create_string_buffer(size)
        n = llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
        if n < 0:
            size = -n
            buffer = ctypes.create_string_buffer(size)
            n = llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
        cache[token] = buffer.raw[: max(n, 0)]
        return cache[token]


class Context:
    """The KV cache of one model, unified over all sequences, and one reusable batch."""

    def __init__(self, model: Model, *, cells: int, max_sequences: int, max_batch: int, threads: int) -> None:
        """Raises `EngineFailed` if the memory for `cells` cannot be had."""
        params = llama.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = max_batch
        params.n_seq_max = max_sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True  # what makes a shared prefix one set of cells
        params.swa_full = True  # a sliding window would lose prefixes
        # Measured on a CPU at depth 3,000, chunks of 24 tokens: 4.2 ms a token without flash attention, 8.1 with it,
        # whose kernel sums in 16 bits as well. It would skip other sequences' cells; `KVCache.spill` keeps those few.
        params.flash_attn_type = FLASH_ATTN_DISABLED
        params.no_perf = True
        self._ctx = llama.llama_init_from_model(model.handle, params)
        if not self._ctx:
            raise EngineFailed(f"llama.cpp cannot make a context of {cells} KV cells: choose fewer with kv_cells.")
        self._memory = llama.llama_get_memory(self._ctx)
        self.n_vocab = model.n_vocab
        self.cells = int(llama.llama_n_ctx(self._ctx))
        self._install_abort()
        self._viewed = (0, 0)
        self._make_batch(max_batch)

    def _install_abort(self) -> None:
        """llama.cpp asks an abort callback at every node of the graph. A Python callback would take the GIL about a
        thousand times a step; libc's strlen on a two-byte buffer says the same (0 or 1) for nothing."""
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        self._abort = ctypes.create_string_buffer(2)
        callback = ctypes.cast(libc.strlen, llama.ggml_abort_callback)
        self._keep_alive = (libc, callback)
        llama.llama_set_abort_callback(self._ctx, callback, ctypes.cast(self._abort, ctypes.c_void_p))

    def _make_batch(self, n: int) -> None:
        self._tokens = np.zeros(n, np.int32)
        self._positions = np.zeros(n, np.int32)
        self._sequences = np.zeros(n, np.int32)
        self._outputs = np.zeros(n, np.int8)
        self._ones = np.ones(n, np.int32)
        base = self._sequences.ctypes.data
        self._seq_pointers = (ctypes.POINTER(ctypes.c_int32) * n)(
            *(ctypes.cast(base + 4 * i, ctypes.POINTER(ctypes.c_int32)) for i in range(n))
        )
        as_int32 = ctypes.POINTER(ctypes.c_int32)
        self._batch = llama.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(as_int32),
            embd=None,
            pos=self._positions.ctypes.data_as(as_int32),
            n_seq_id=self._ones.ctypes.data_as(as_int32),
            seq_id=ctypes.cast(self._seq_pointers, ctypes.POINTER(as_int32)),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def put(self, at: int, tokens: Sequence[int], position: int, seq: int, *, output: bool) -> int:
        """Write the run `tokens` of sequence `seq`, the first at `position`, into the batch from index `at` on.

        `output`: logits of the last one are wanted. Returns the index behind the run.
        """
        end = at + len(tokens)
        if end == at + 1:  # a decoding sequence: plain item assignment is three times as fast as slices
            self._tokens[at], self._positions[at], self._sequences[at] = tokens[0], position, seq
        else:
            self._tokens[at:end] = tokens
            self._positions[at:end] = range(position, position + len(tokens))
            self._sequences[at:end] = seq
            self._outputs[at:end] = 0
        self._outputs[end - 1] = output
        return end

    def decode(self, n: int) -> bool:
        """Compute the first `n` tokens of the batch. False if aborted; the caller then removes the step's cells.

        Raises `EngineFailed` on any other outcome: the process had better start anew.
        """
        self._batch.n_tokens = n
        result = llama.llama_decode(self._ctx, self._batch)
        if result == 0:
            llama.llama_synchronize(self._ctx)
            return True
        if result == 2:
            return False
        raise EngineFailed(f"llama_decode failed with code {result}")

    def logits(self, rows: int) -> NDArray[np.float32]:
        """Logits of the tokens marked as outputs, in batch order: [rows, n_vocab], valid until the next decode."""
        address = ctypes.addressof(llama.llama_get_logits(self._ctx).contents)
        if (address, rows) != self._viewed:  # it stays where it is but for more rows than ever before
            buffer = (ctypes.c_float * (rows * self.n_vocab)).from_address(address)
            self._viewed = (address, rows)
            self._logits: NDArray[np.float32] = np.ctypeslib.as_array(buffer).reshape(rows, self.n_vocab)
        return self._logits

    def abort(self, wanted: bool) -> None:
        """End the decode that is running now (within one graph node), or let the next one run."""
        self._abort[0] = b"x" if wanted else b"\0"

    def set_threads(self, n: int) -> None:
        """Compute threads from the next decode on."""
        llama.llama_set_n_threads(self._ctx, n, n)

    def rm(self, seq: int, p0: int, p1: int) -> None:
        """`kv_cache.Memory`."""
        llama.llama_memory_seq_rm(self._memory, seq, p0, p1)

    def cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """`kv_cache.Memory`."""
        llama.llama_memory_seq_cp(self._memory, src, dst, p0, p1)

    def save(self, seq: int) -> NDArray[np.uint8]:
        """All cells of a sequence as bytes, some 20 KB a token of a small model; 4 ms for 900 tokens."""
        size = llama.llama_state_seq_get_size(self._ctx, seq)
        state = np.empty(size, np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = llama.llama_state_seq_get_data(self._ctx, pointer, size, seq)
        return state[:written]

    def load(self, seq: int, state: Any) -> bool:
        """Fill an empty sequence with what `save` returned; False if there is no room for it."""
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return bool(llama.llama_state_seq_set_data(self._ctx, pointer, len(state), seq))

    def clear(self) -> None:
        """Forget everything; for warm-up only."""
        llama.llama_memory_clear(self._memory, False)
