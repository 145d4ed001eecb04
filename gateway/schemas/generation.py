"""The fields that inference requests share: all of them, and those that generate text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from backends.types import Grammar, Locality, Sampling
from gateway.schemas.parse import FieldError, Many, Wire
from gateway.schemas.structure import ResponseFormat, Structure, grammar_of

StopText = Annotated[str, Field(min_length=1, max_length=1000)]
DataClass = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


MAX_BIASES = 1024


def _few(value: Any) -> Any:
    """Counted before each entry is looked at: a million wrong ones would each become an error of their own."""
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens, got {len(value)}")
    return value


def _stop_tag(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<text>"


class StreamOptions(Wire):
    """What a stream carries besides the deltas."""

    include_usage: bool | None = Field(default=None, description="Ends the stream with a chunk that carries `usage`.")


class Controls(Wire):
    """Outstation's own controls; the first three also as headers: `x-outstation-locality`, `x-outstation-deadline-ms`,
    `x-outstation-data-classes`."""

    model_config = ConfigDict(extra="forbid")

    locality: Locality | None = Field(default=None, description="Where the request may be answered.")
    deadline_ms: int | None = Field(default=None, ge=1, le=86_400_000, description="Bound on the whole answer.")
    data_classes: Annotated[Many[DataClass], Field(max_length=32)] | None = Field(
        default=None, description='What the request holds, besides what is found in its text: `["health"]`.'
    )
    continue_on_break: bool | None = Field(
        default=None,
        description="If a provider breaks off, a local model goes on from the text so far; a comment marks the seam.",
    )


class Asked(Wire):
    """What every inference request may say. `null` anywhere means: as if left out."""

    user: str | None = None
    outstation: Controls | None = None


class Named(Asked):
    """One that names a model."""

    model: str = Field(min_length=1, max_length=300, description="A name from `/v1/models`, `auto`, or an alias.")


class Generation(Named):
    """What both dialects of generation accept."""

    stream: bool | None = Field(default=None, description="Server-sent events, one a delta, ended by `[DONE]`.")
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, description="Choices for each prompt.")
    max_tokens: int | None = Field(default=None, ge=1, description="Completion tokens at most.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000, description="0 keeps all tokens.")
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="The same seed, the same answer.")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repeat_penalty: float | None = Field(default=None, gt=0, le=10, description="1 is off.")
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, description="The same as `repeat_penalty`.")
    logit_bias: Annotated[dict[TokenId, Bias], BeforeValidator(_few)] | None = Field(
        default=None, description=f"Token id to bias; at most {MAX_BIASES}."
    )
    stop: (
        Annotated[
            Annotated[StopText, Tag("<text>")] | Annotated[Many[StopText], Field(max_length=16), Tag("<list>")],
            Discriminator(_stop_tag),
        ]
        | None
    ) = Field(default=None, description="Up to 16 strings that end the completion and are never part of it.")
    ignore_eos: bool | None = Field(default=None, description="Go on to `max_tokens`; for measurements.")
    response_format: ResponseFormat | None = Field(
        default=None, description="JSON, or JSON of a schema: enforced by the decoder of a local model."
    )
    grammar: Structure = Field(
        default=None, description="What the completion must be: GBNF or Lark, or a regular expression as an object."
    )
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Generation:
        structured = self.response_format is not None and self.response_format.type != "text"
        if self.grammar is not None and structured:
            raise FieldError("grammar", "it and `response_format` both say what the completion must be")
        if self.ignore_eos and (self.grammar is not None or structured):
            raise FieldError("ignore_eos", "a completion that must have a form ends where that does")
        return self

    @model_validator(mode="after")
    def _one_penalty(self) -> Generation:
        both = (self.repeat_penalty, self.repetition_penalty)
        if None not in both and both[0] != both[1]:
            raise FieldError(
                "repetition_penalty",
                "it is another name of `repeat_penalty`, and the two differ",
            )
        return self

    def sampling(self, max_tokens: int | None, top_logprobs: int | None) -> Sampling:
        """The domain's sampling parameters."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        penalty = self.repeat_penalty if self.repeat_penalty is not None else self.repetition_penalty
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repeat_penalty=penalty,
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            top_logprobs=top_logprobs,
            max_tokens=max_tokens,
            stop=tuple(stop),
            ignore_eos=bool(self.ignore_eos),
        )

    def form(self, raw: Mapping[str, Any]) -> tuple[Grammar | None, dict[str, str]]:
        """What the decoder has to enforce, and the need that it gives rise to, with the field at fault."""
        if self.grammar is not None:
            return grammar_of(None, None, self.grammar), {"grammar": "grammar"}
        grammar = grammar_of(self.response_format, raw.get("response_format"), None)
        return grammar, {"structured_output": "response_format"} if grammar else {}
