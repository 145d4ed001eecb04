"""Requests under way in the engine: a `Job` becomes a `Running` of one or more `Choice`s."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.llama import sampling
from backends.llama.bindings import Model
from backends.llama.constraint import Constraint
from backends.llama.sampling import Sampler
from backends.llama.scheduler import Sequence
from backends.llama.text import TextAssembler
from backends.types import Chunk, FinishReason, Sampling, TokenLogprob


@dataclass(frozen=True, slots=True)
class Job:
    """A tokenised request.

    Attributes:
        generated: for each choice, tokens that another engine already produced.
        constraint: what each choice must be, at its beginning.
        spelled: control tokens that are text here, since they tell where a call begins.
    """

    id: str
    prompts: tuple[list[int], ...]
    n: int
    params: Sampling
    generated: dict[int, list[int]] = field(default_factory=dict)
    constraint: Constraint | None = None
    spelled: frozenset[int] = frozenset()


@dataclass(eq=False, slots=True)
class Choice:
    """One completion under way."""

    index: int
    sequence: Sequence
    sampler: Sampler
    text: TextAssembler
    last: int  # length of prompt and completion together at which the context is full
    constraint: Constraint | None = None
    spelled: frozenset[int] = frozenset()

    @classmethod
    def begin(cls, model: Model, job: Job, index: int, n_ctx: int, now: float) -> Choice:
        """Choice `index` of the job, before its first step."""
        prompt, generated = job.prompts[index // job.n], job.generated.get(index, [])
        room = n_ctx - len(prompt)
        limit = room if job.params.max_tokens is None else min(job.params.max_tokens, room)
        sequence = Sequence((job.id, index), prompt + generated, len(prompt), limit, now)
        banned = sorted(model.eog) if job.params.ignore_eos else ()
        sampler = Sampler(job.params, choice=index, prompt=prompt, banned=banned)
        constraint = job.constraint.copy() if job.constraint else None
        choice = cls(index, sequence, sampler, TextAssembler(job.params.stop), n_ctx, constraint, job.spelled)
        sampler.resume(generated)
        if constraint and generated:
            constraint.take(generated)
        for token in generated:
            choice.text.push(choice._shown(model, token))
        return choice

    def sample(self, logits: sampling.Logits) -> sampling.Choice:
        """The next token from its row of logits. Raises ArithmeticError: there is none."""
        if self.constraint is None:
            return self.sampler.sample(logits)
        chosen = self.sampler.sample(logits, self.constraint.allowed())
        self.constraint.take([chosen.token])
        return chosen

    def take(self, model: Model, chosen: sampling.Choice) -> Chunk:
        """The sampled token joins the sequence: to text, and to the end of the choice if it is one."""
        s, token = self.sequence, chosen.token
        s.tokens.append(token)
        reason: FinishReason | None = None
        text, stopped = "", False
        ready: tuple[TokenLogprob, ...] = ()
        if token in model.eog:
            reason = "stop"
        else:
            text, ready, stopped = self.text.push(self._shown(model, token), self._logprobs(model, chosen))
            if stopped or (self.constraint and self.constraint.done):
                reason = "stop"
            elif s.generated >= s.max_tokens or len(s.tokens) >= self.last:
                reason = "length"
        if reason and not stopped:
            rest, more = self.text.flush()
            text, ready = text + rest, ready + more
        return Chunk(self.index, text, (token,), ready, reason, stopped_by=self.text.stopped_by)

    def _shown(self, model: Model, token: int) -> bytes:
        return model.piece(token) if token in self.spelled else model.shown(token)

    def _logprobs(self, model: Model, chosen: sampling.Choice) -> TokenLogprob | None:
        if self.sampler.params.top_logprobs is None:
            return None
        top = tuple(_logprob(model, token, logprob) for token, logprob in chosen.top)
        return _logprob(model, chosen.token, chosen.logprob, top)


def _logprob(model: Model, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    raw = model.piece(token)
    return TokenLogprob(raw.decode("utf-8", "replace"), logprob, tuple(raw), top)


@dataclass(eq=False, slots=True)
class Running:
    """A job's choices that are not finished, and what all of them have used."""

    job: Job
    choices: dict[int, Choice]
    began: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Counters:
    """Totals since the process started; `decode_rate` is an exponential average."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    decode_rate: float = 0.0
    steps: int = 0
    step_seconds: float = 0.0
    python_seconds: float = 0.0
