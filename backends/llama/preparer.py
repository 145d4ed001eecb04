"""From a request's messages or prompts to token ids, in the worker."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from backends.errors import BackendError, ContextLengthExceeded, InvalidRequest
from backends.llama import protocol
from backends.llama.bindings import Model
from backends.llama.constraint import Constraint
from backends.llama.family import Opening
from backends.llama.grammar import Grammars
from backends.llama.jobs import Job
from backends.llama.talk import Talk
from backends.llama.template import ChatTemplate
from backends.llama.trials import Trials
from backends.types import Grammar

MAX_PREPARED = 512


class Prompts(NamedTuple):
    """What was prepared for one request."""

    tokens: tuple[list[int], ...]
    constraint: Constraint | None
    spelled: frozenset[int]


class Preparer:
    """Requests to token ids: the model's template and tokenizer, and what cannot be answered at all."""

    def __init__(self, model: Model, n_ctx: int, provided: Callable[[list[int]], int]) -> None:
        """`provided` says how many leading tokens of a prompt need no computing; asked in the listener's threads."""
        self._model = model
        self._n_ctx = n_ctx
        self._provided = provided
        self._lock = threading.Lock()
        self._prepared: OrderedDict[str, Prompts] = OrderedDict()
        source = model.chat_template()
        bos, eos = model.special_text("bos"), model.special_text("eos")
        self._talk = Talk.of(source)
        self._grammars = Grammars(
            model.grammar_tokenizer, model.n_vocab, model.control_token, self._talk, trial=Trials(source).survives
        )
        self._template = ChatTemplate(source, bos_token=bos, eos_token=eos) if source else None

    def warm(self) -> None:
        """Makes what the first grammar needs."""
        self._grammars.warm()

    def quick(self, message: Mapping[str, Any]) -> bool:
        """Whether the request's grammar, if it has one, takes little time."""
        grammar = message.get("grammar")
        return not grammar or self._grammars.quick(Grammar(**grammar))

    def prepare(self, message: Mapping[str, Any]) -> protocol.Prepared:
        """Tokenise and keep. Raises `InvalidRequest`."""
        opening: Opening = "answer"
        if message["kind"] == "chat":
            tokens, opening = self._chat(message)
            prompts: tuple[list[int], ...] = (tokens,)
        else:
            prompts = tuple(map(self._completion, message["prompts"]))
        longest = max(map(len, prompts))
        if longest >= self._n_ctx:
            raise ContextLengthExceeded(
                longest, self._n_ctx, param="messages" if message["kind"] == "chat" else "prompt"
            )
        grammar = message.get("grammar")
        constraint = self._grammars.compile(Grammar(**grammar), opening) if grammar else None
        ready = Prompts(prompts, constraint, self._spelled(message))
        with self._lock:
            self._prepared[message["id"]] = ready
            while len(self._prepared) > MAX_PREPARED:
                self._prepared.popitem(last=False)
        cached = sum(map(self._provided, prompts))
        return protocol.Prepared(longest, cached, sum(map(len, prompts)) - cached, opening == "thinking")

    def job(self, message: Mapping[str, Any]) -> Job:
        """The prepared request, ready for the engine. Raises `InvalidRequest`."""
        params = protocol.sampling(message["sampling"])
        if any(not 0 <= token < self._model.n_vocab for token, _ in params.logit_bias):
            raise InvalidRequest(
                f"logit_bias names a token that the model does not have: ids go from 0 to {self._model.n_vocab - 1}.",
                param="logit_bias",
            )
        with self._lock:
            prepared = self._prepared.pop(message["id"], None)
        if prepared is None:
            raise BackendError("The request was not prepared, or too long ago.", code="not_prepared")
        generated = {int(i): list(tokens) for i, tokens in message.get("generated", {}).items()}
        return Job(
            message["id"], prepared.tokens, message["n"], params, generated, prepared.constraint, prepared.spelled
        )

    def _spelled(self, message: Mapping[str, Any]) -> frozenset[int]:
        """Control tokens, not shown otherwise, that tell the parts of an answer apart."""
        if message["kind"] != "chat":
            return frozenset()
        marks = self._talk.control_marks(tools=bool(message.get("grammar")) and message["grammar"]["kind"] == "tools")
        tokens = map(self._model.control_token, marks)
        return frozenset(token for token in tokens if token is not None)

    def forget(self, request_id: str) -> None:
        """The client went away before its request was submitted."""
        with self._lock:
            self._prepared.pop(request_id, None)

    def _chat(self, message: Mapping[str, Any]) -> tuple[list[int], Opening]:
        """Its tokens, and where a completion of them begins."""
        if self._template is None:
            raise InvalidRequest(
                "This model has no chat template, so it cannot chat. Use /v1/completions with a prompt.", param="model"
            )
        text = self._template.render(message["messages"], message["template_kwargs"])
        said = message.get("continuation", "")
        opening, before = self._talk.opening(text, said)
        tokens = self._model.tokenize(text + before, special=True, begin=not self._model.starts_with_bos(text))
        if said:
            # Another model's words: whatever they look like, they are text and no control tokens.
            tokens += self._model.tokenize(said, special=False, begin=False)
        return tokens, opening

    def _completion(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            tokens = self._model.tokenize(prompt, special=True, begin=True)
        else:
            tokens = prompt
            if any(not 0 <= t < self._model.n_vocab for t in tokens):
                raise InvalidRequest(
                    f"The prompt has a token id that the model lacks: ids go from 0 to {self._model.n_vocab - 1}.",
                    param="prompt",
                )
        if not tokens:
            tokens = self._model.start_tokens()
        if not tokens:
            raise InvalidRequest("The prompt is empty, and this model has no token to begin with.", param="prompt")
        return tokens
