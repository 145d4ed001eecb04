"""One request in the worker: from its prompts to the rows of runs, and from their results to its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.errors import BackendError, InvalidRequest
from backends.onnx import answers, pictures, spans, tokens
from backends.onnx.batching import Row
from backends.onnx.protocol import check_features
from backends.onnx.sessions import Model
from backends.onnx.tokens import Tokens
from backends.types import Features, Image, Prompt

TOGETHER = 64  # texts tokenised at once, between two looks at whether anybody still wants them
MOST_WINDOWS = 4096
LEAST_WINDOW = 16


@dataclass(slots=True, eq=False)
class Job:
    """A request whose inputs are ready to be computed.

    Attributes:
        pieces: of each prompt, the inputs that make it up: one, or the pieces of a long text.
        refusal: why it cannot be computed: told when it is to run, not when it is counted.
        longest, tokens: of its longest prompt, and of all.
        untold: prompts whose results have not been sent.
    """

    id: str
    folder: str
    model: Model
    options: Mapping[str, Any]
    pieces: list[list[Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    longest: int = 0
    tokens: int = 0
    refusal: BackendError | None = None
    untold: int = 0
    _parts: list[list[Any]] = field(default_factory=list)
    _missing: list[int] = field(default_factory=list)

    @property
    def numbers(self) -> int:
        """How much it holds: token ids, and values of pictures and vectors."""
        return sum(len(one) if isinstance(one, Tokens) else one.size for some in self.pieces for one in some)

    def rows(self) -> list[Row]:
        """What is to be computed. `work` of each: (the job, prompt, piece, input)."""
        self.untold = len(self.pieces)
        self._parts = [[None] * len(some) for some in self.pieces]
        self._missing = [len(some) for some in self.pieces]
        return [
            Row(self.id, self.folder, self.model.length(one), (self, i, k, one))
            for i, some in enumerate(self.pieces)
            for k, one in enumerate(some)
        ]

    def put(self, prompt: int, piece: int, value: Any) -> dict[str, Any] | None:
        """The result of a prompt, once its last piece has come."""
        self._parts[prompt][piece] = value
        self._missing[prompt] -= 1
        if self._missing[prompt]:
            return None
        found, self._parts[prompt] = self._parts[prompt], []
        return self._result(prompt, found)

    def _result(self, prompt: int, parts: list[Any]) -> dict[str, Any]:
        manifest = self.model.manifest
        if manifest.task == "embed":
            return answers.embedding(parts[0], manifest, self.options)
        if manifest.task == "rerank":
            return {"score": max(float(part[0]) for part in parts)}
        if manifest.task == "classify":
            return answers.highest([answers.labelled(part, manifest) for part in parts])
        text, seen = self.texts[prompt], self.pieces[prompt]
        if self.options.get("tokens"):
            rows = [part.tolist() for part in parts]
            kinds = [spans.kinds(p.offsets, row, manifest.labels) for p, row in zip(seen, rows, strict=True)]
            return {"spans": [span for piece in kinds for span in piece]}
        found = [
            spans.decode(text, spans.words(piece.offsets, piece.words, part.tolist(), manifest.labels))
            for piece, part in zip(seen, parts, strict=True)
        ]
        return {"spans": spans.merge(found)}


def prepare(
    model: Model, message: Mapping[str, Any], prompts: Sequence[Prompt], wanted: Callable[[], bool]
) -> Job | None:
    """A job of an `ask`; None once nobody wants it.

    Raises:
        InvalidRequest: an input that the model cannot take, named by its place.
    """
    job = Job(message["id"], message["folder"], model, message["options"])
    if model.manifest.task == "embed":
        answers.check_dimensions(model.manifest, job.options)
    reading = _Reading(job, message["kind"], many=len(prompts) > 1)
    for at in range(0, len(prompts), TOGETHER):
        if not wanted():
            return None
        reading.add(prompts[at : at + TOGETHER])
    return job


class _Reading:
    """Makes a job's inputs from its prompts."""

    def __init__(self, job: Job, kind: str, *, many: bool) -> None:
        self._job = job
        self._kind = kind
        self._manifest = job.model.manifest
        self._param = "documents" if kind == "rerank" else "input"
        self._places = self._manifest.task == "find"
        self._many = many
        self._allowance = pictures.Allowance()
        self._query = self._find_query()
        below = job.model.reads.manifest
        self._prefix = below.query_prefix if job.options.get("input_type") == "query" else below.document_prefix

    def _find_query(self) -> str | None:
        if self._manifest.task != "rerank":
            return None
        query = self._job.options.get("query")
        if not isinstance(query, str):
            raise InvalidRequest("A reranker needs a `query`.", param="query")
        return query

    def add(self, prompts: Sequence[Prompt]) -> None:
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        read = iter(self._encode(texts))
        for prompt in prompts:
            self._job.texts.append(prompt if isinstance(prompt, str) and self._places else "")
            if isinstance(prompt, str):
                self._take(next(read))
            elif isinstance(prompt, tuple):
                self._take(self._wrap(prompt))
            else:
                self._job.pieces.append([self._numbers(prompt)])

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        if not texts:
            return []
        tokenizer = self._job.model.reads.tokenizer
        if tokenizer is None:
            raise self._wrong("text")
        return tokenizer.encode(texts, query=self._query, prefix=self._prefix, places=self._places)

    def _wrap(self, ids: tuple[int, ...]) -> Tokens:
        tokenizer = self._job.model.reads.tokenizer
        if tokenizer is None or self._places or self._query is not None:
            raise self._wrong("token ids")
        return tokenizer.wrap(ids, self._prefix)

    def _take(self, found: Tokens) -> None:
        """Count it, and fit it to the model's length as far as that is allowed."""
        job = self._job
        pieces = self._pieces(found)
        job.longest = max(job.longest, *map(len, pieces))
        job.tokens += sum(map(len, pieces))
        job.pieces.append(list(pieces))

    def _pieces(self, found: Tokens) -> list[Tokens]:
        settings = self._job.model.reads.manifest.tokenizer
        assert settings is not None
        most, window = settings.max_tokens, self._window(settings.max_tokens)
        if len(found) <= (window or most):
            return [found]
        if len(found) - (found.end - found.start) >= most:
            raise InvalidRequest(
                f"The query alone has more tokens than {self._manifest.name} takes ({most}).",
                param="query",
                code="context_length_exceeded",
            )
        if self._job.options.get("truncate"):
            return [tokens.fit(found, settings)]
        if window:
            pieces = tokens.windows(found, window)
            if len(pieces) <= MOST_WINDOWS:
                return pieces
        self._job.refusal = self._job.refusal or self._too_long(len(found), most)
        return [found]

    def _window(self, most: int) -> int:
        """Tokens of the pieces that a longer text is judged in; 0: it is not. Nothing of what is moderated or searched
        may go unseen."""
        asked = self._job.options.get("windows")
        if self._manifest.task == "embed":
            return 0
        if isinstance(asked, int) and not isinstance(asked, bool):
            return min(most, max(LEAST_WINDOW, asked))
        return most if asked or self._manifest.task == "find" or self._kind == "moderation" else 0

    def _too_long(self, n: int, most: int) -> InvalidRequest:
        place = f"Input {len(self._job.pieces)}" if self._param == "input" else f"Document {len(self._job.pieces)}"
        return InvalidRequest(
            f"{place} has {n} tokens; {self._manifest.name} takes {most}. Shorten it, or allow it to be cut with "
            "`truncate`.",
            param=self._param,
            code="context_length_exceeded",
            extra={"n_prompt_tokens": n, "n_ctx": most},
        )

    def _numbers(self, prompt: Image | Features) -> Any:
        place = f"input[{len(self._job.pieces)}]" if self._many else "input"
        if isinstance(prompt, Features):
            return self._vector(prompt, f"{place}.features")
        if self._manifest.image is None or self._manifest.input != "image":
            raise self._wrong("pictures")
        try:
            return pictures.tensor(prompt.data, self._manifest.image, self._allowance)
        except InvalidRequest as error:
            error.param = place
            raise

    def _vector(self, prompt: Features, place: str) -> Any:
        import numpy as np

        if self._manifest.input not in ("features", "embedding"):
            raise self._wrong("feature vectors")
        below = self._job.model.base
        wide = len(self._manifest.features) or (below.manifest.dimensions if below else 0)
        if wide and len(prompt.values) != wide:
            raise InvalidRequest(
                f"{self._manifest.name} takes {wide} features; input {len(self._job.pieces)} has {len(prompt.values)}.",
                param=place,
                code="invalid_features",
            )
        check_features(prompt.values, place)
        return np.asarray(prompt.values, np.float32)

    def _wrong(self, what: str) -> InvalidRequest:
        takes = {"text": "text", "image": "pictures", "features": "feature vectors", "embedding": "text"}
        return InvalidRequest(
            f"The model {self._manifest.name} takes {takes[self._manifest.input]}, not {what}.",
            param=self._param,
            code="wrong_input",
        )
