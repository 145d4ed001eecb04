"""The few types that every room speaks. A leaf: imports nothing of ours.

One wire dialect is parsed into one `Request`; every backend answers it with `Chunk`s and, last, one `Usage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
Kind = Literal["chat", "completion", "embedding", "rerank", "moderation", "classification"]
GENERATES: frozenset[Kind] = frozenset({"chat", "completion"})
"""What a language model does; each of the others is a task of its own, for models made for it."""
Locality = Literal["only_local", "prefer_local", "prefer_remote", "only_remote"]


@dataclass(frozen=True, slots=True)
class Image:
    """A picture as its file's bytes, checked and decoded by the backend."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Features:
    """A vector of numbers that a classifier was trained on, in its order."""

    values: tuple[float, ...]


Prompt = str | tuple[int, ...] | Image | Features
"""Text, the token ids of a text (already tokenised by the caller), or what a classifier sees in place of text."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `None` means: as the model's own defaults say.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest.
        repeat_penalty: divides the logit (multiplies, if negative) of tokens seen before (Keskar et al. 2019); 1: off.
        logit_bias: (token id, value added to its logit) pairs.
        top_logprobs: None: no log-probabilities; n: the chosen token's and the n likeliest alternatives'.
        max_tokens: completion tokens at most; None: as many as the context holds.
        stop: strings that end the completion and are never part of it.
        ignore_eos: end-of-generation tokens cannot be chosen; for measurements.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the completion must be, exactly.

    Attributes:
        source: a JSON schema as JSON; a regular expression; a grammar in Lark's or llama.cpp's own notation; of a local
            model's tool calls, how they are written.
        param: the field of the request that brought it.
    """

    kind: Literal["json_schema", "regex", "lark", "gbnf", "tools"]
    source: str
    param: str = "response_format"


class NamedTool(NamedTuple):
    """The function that must be called."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request, whatever dialect it came in.

    Attributes:
        id: the request id that the client sees in `x-request-id`.
        model: the name that the client asked for (`auto`, an alias, a local name, `provider/model`).
        messages: chat only: role/content mappings; content is text once the dialect has flattened text parts.
        prompts: all but chat: each prompt yields `n` choices, choice index = prompt index * n + k. Of an embedding,
            a moderation or a classification each input is one, of a rerank each document.
        options: what a task needs besides: `query` of a rerank (text), `truncate` (bool: cut inputs that are too long,
            in place of an error), `input_type` of an embedding (`query` or `document`), `dimensions`,
            `tokens` of a model that finds spans (bool: all that each token may be, in place of what stands where).
        needs: capabilities that a route must have (`vision`, `audio`, `tools`, ...).
        template_kwargs: extra variables for the chat template.
        deadline_s: seconds from arrival within which the client wants the whole answer; None: the site's limit.
        raw: the body as received, so that fields we do not know still reach a provider.
        stream: whether the client wants deltas; a provider is asked in the same way.
        key: name of the API key that it came with; empty: none.
        declared: data classes that its header, its body or its key names, besides what is found in its text.
        continue_on_break: after a provider broke off, a local model may go on from the text so far.
        grammar: what the completion must be; None: anything.
        tools: functions that may be called, as OpenAI's chat has them; `parallel_tools`: several at once.
        continuation: that text: the completion goes on from it, and does not repeat it.
        trusted: texts that the gateway wrote itself; a part of a message that is exactly one of them is neither judged
            nor searched for names. No client can set it.
        retrieved: texts that came from documents; a part of a message that is exactly one of them is judged as such.
    """

    id: str
    model: str
    kind: Kind
    messages: tuple[Mapping[str, Any], ...] = ()
    prompts: tuple[Prompt, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    needs: frozenset[str] = frozenset()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    locality: Locality | None = None
    deadline_s: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    key: str = ""
    declared: frozenset[str] = frozenset()
    continue_on_break: bool = False
    continuation: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    grammar: Grammar | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tools: bool = True
    trusted: frozenset[str] = frozenset()
    retrieved: frozenset[str] = frozenset()

    @property
    def choices(self) -> int:
        """How many choices the answer has."""
        return self.n * max(1, len(self.prompts))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (natural logarithm, of the model's own distribution at temperature 1)."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A piece of a tool call: `id` and `name` once, in its first piece; `arguments` is JSON text, in pieces."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one choice. `text` may be empty (bytes of an unfinished character, a possible stop string).

    Attributes:
        index: which choice.
        tokens: ids of the tokens computed for this piece, for exact resumption; not always the tokens of `text`.
        logprobs: of the tokens whose text this piece completes, when asked for.
        finish_reason: set on the last chunk of a choice, and only there.
        wire: a provider's own choice object (`{"index", "delta" or "message" or "text", …}`), whole, with all that
            `text` cannot say; None from a local language model. From a model of another task its result: see `Result`.
        comment: what a stream says in an SSE comment before this piece; empty: nothing.
        reasoning: text that the model thought rather than said.
        tools: pieces of tool calls.
        stopped_by: the one of `Sampling.stop` that ended the choice; empty where none did, or nobody can tell.
    """

    index: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    wire: Mapping[str, Any] | None = None
    comment: str = ""
    reasoning: str = ""
    tools: tuple[ToolDelta, ...] = ()
    stopped_by: str = ""


class Result(TypedDict, total=False):
    """`Chunk.wire` of a local model that does not generate text: one for each prompt, with `finish_reason` "stop".

    Attributes:
        embedding: little-endian float32 in base64.
        score: relevance of a document, between 0 and 1.
        probabilities: of each label that the model knows, by label.
        spans: what was found in the text: (start, end) in characters, label, probability.
    """

    embedding: str
    score: float
    probabilities: Mapping[str, float]
    spans: list[tuple[int, int, str, float]]


@dataclass(frozen=True, slots=True)
class PromptCount:
    """Prompt tokens of the longest prompt, exact; `cached` of all prompts' tokens need no computing now."""

    tokens: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the whole request: always the last item of an answer.

    `cached_tokens` of the `prompt_tokens` were found in the KV cache and not computed.

    Attributes:
        wire: what else a provider said of the answer as a whole (its own `usage` object, `system_fingerprint`, …).
        reasoning_tokens: of the completion's, those of thoughts.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    wire: Mapping[str, Any] | None = None
    reasoning_tokens: int = 0


Event = Chunk | Usage

ModelStatus = Literal["stopped", "starting", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a backend's model is doing now. Rates are measured, 0.0 while unknown.

    Attributes:
        detail: why it failed, or what it waits for; empty otherwise.
        memory_bytes: resident memory of its process.
        kv_cells_used: cells of live sequences and of kept prefixes together.
        prefill_rate, decode_rate: tokens/s of one prompt's prefill, and of all sequences' decode together.
        threads: compute threads in use at present.
        backlog_tokens: prompt tokens that are admitted or queued and not computed yet, cached prefixes not counted.
    """

    name: str
    status: ModelStatus
    detail: str = ""
    pid: int | None = None
    memory_bytes: int = 0
    context_length: int = 0
    waiting: int = 0
    running: int = 0
    max_sequences: int = 0
    kv_cells: int = 0
    kv_cells_used: int = 0
    kv_cells_kept: int = 0
    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    completion_tokens_total: int = 0
    preemptions_total: int = 0
    restarts_total: int = 0
    threads: int = 0
    step_seconds: float = 0.0
    python_seconds: float = 0.0
    backlog_tokens: int = 0
