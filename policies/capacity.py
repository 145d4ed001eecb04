"""Whether the box can answer in time: here now, wait here, spill to a provider, or refuse with a true `Retry-After`."""

from __future__ import annotations

from dataclasses import dataclass

from backends.errors import BackendError, DeadlineExceeded, InvalidRequest
from backends.types import ModelState, Request
from policies.base import Drop, Estimate, Learned, Route, Snapshot, Verdict

NOTHING_LEARNED = Learned()
RESERVE_CELLS = 16  # that a newcomer leaves free
MARGIN = 1.25  # of a deadline: one answer in ten is later than estimated, but few of those that were to be this early
IDLE_MARGIN = 1.5  # likewise, of the plain formula on an idle box: what was learned in a crowd says nothing of it
SHARED = 2.0  # beside sequences that decode, a step has about half of its time for prompts


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks of a model: prompt tokens to compute, sequences, and completion tokens of each."""

    prompt: int
    sequences: int
    completion: int


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, before what was learned corrects them.

    Attributes:
        ttft_s, total_s: until the first token, until the end.
        idle_s: until the end, if nobody else were there.
        alone: nobody else is.
    """

    ttft_s: float
    total_s: float
    idle_s: float
    alone: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """Estimates when a local route would begin and end, drops those that miss the request's deadline, and moves those
    that miss the site's objectives behind the remote routes. docs/capacity.md has the formula.

    A route whose rates have not been measured yet has no estimate and stays where it is.

    Attributes:
        first_token_objective_s, total_objective_s: seconds from now in which a local answer should begin and end.
        load_s: what loading a model takes that is not loaded; a guess, since nothing is known of it then.
    """

    first_token_objective_s: float
    total_objective_s: float
    load_s: float = 5.0

    def __call__(self, request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
        """Drops with the code `capacity`."""
        estimates: dict[str, Estimate] = {}
        drops: list[Drop] = []
        late: list[Route] = []
        for route in routes:
            state = snapshot.states.get(route.name)
            if route.location != "local" or state is None or not (state.prefill_rate and state.decode_rate):
                continue
            learned = snapshot.learned.get(route.name, NOTHING_LEARNED)
            times = self._times(state, _work(request, route, snapshot, learned))
            estimate = Estimate(times.ttft_s * learned.ttft_factor, _total(times, learned))
            estimates[route.name] = estimate
            if drop := _missed(request, route, snapshot, estimate, times, learned.total_factor):
                drops.append(drop)
            elif self._late(estimate):
                late.append(route)
        if not estimates:
            return Verdict(routes)
        kept = _ordered(routes, {drop.route.name for drop in drops}, late)
        return Verdict(kept, tuple(drops), self._reason(kept, routes, late, estimates), estimates=estimates)

    def _late(self, estimate: Estimate) -> bool:
        return estimate.ttft_s > self.first_token_objective_s or estimate.total_s > self.total_objective_s

    def _reason(
        self, kept: tuple[Route, ...], routes: tuple[Route, ...], late: list[Route], estimates: dict[str, Estimate]
    ) -> str:
        """About the route in front; or why a local one no longer is."""
        if not kept:
            return ""
        front = estimates.get(kept[0].name)
        if front is None:
            if kept is routes or not late:
                return ""
            return f"spill: {self._when(estimates[late[0].name])} here"
        if kept[0] in late:
            return f"wait: {self._when(front)}"
        return f"local in {front.ttft_s:.1f} s"

    def _when(self, estimate: Estimate) -> str:
        if estimate.ttft_s > self.first_token_objective_s:
            return f"first token in {estimate.ttft_s:.0f} s"
        return f"answer in {estimate.total_s:.0f} s"

    def _times(self, state: ModelState, work: Work) -> Times:
        """The formula of docs/capacity.md."""
        load_s = 0.0 if state.status == "ready" else self.load_s
        prompt_s = work.prompt / state.prefill_rate
        alone = _token_seconds(state, work.sequences)
        idle_s = load_s + prompt_s + work.completion * alone
        others = state.running + state.waiting
        if not others:
            return Times(load_s + prompt_s, idle_s, idle_s, alone=True)
        together = _token_seconds(state, others + work.sequences)
        ahead_s = min(state.backlog_tokens, (work.prompt * others * state.backlog_tokens) ** 0.5) / state.prefill_rate
        queue_s = ahead_s * SHARED + _admission_seconds(state, work, together)
        ttft_s = load_s + queue_s + prompt_s * SHARED
        return Times(ttft_s, ttft_s + work.completion * together, idle_s, alone=False)


def _work(request: Request, route: Route, snapshot: Snapshot, learned: Learned) -> Work:
    """Each of several prompts is counted as long as the longest; the choices of a prompt share it."""
    prompts = max(1, len(request.prompts))
    tokens = snapshot.tokens(route) * prompts
    prompt = max(0, tokens - snapshot.cached_tokens.get(route.name, 0))
    asked = request.sampling.max_tokens
    completion = learned.completion_tokens if asked is None else min(asked, learned.completion_tokens)
    if route.context_length:
        completion = min(completion, max(1, route.context_length - tokens // prompts))
    return Work(prompt, request.choices, completion)


def _token_seconds(state: ModelState, sequences: int) -> float:
    """Seconds from one token to the next of `sequences` that decode together.

    A step costs something whatever it carries, and what a prompt's token costs for each token. The former is what the
    measured rate leaves of it, with as many sequences as run now (one, if none does: the last to end was alone).
    """
    at_once = min(sequences, max(1, state.max_sequences))
    running = max(1, state.running)
    base = max(0.0, running / state.decode_rate - running / state.prefill_rate)
    return (base + at_once / state.prefill_rate) * sequences / at_once


def _admission_seconds(state: ModelState, work: Work, token_s: float) -> float:
    """Seconds until enough sequences and cells are free, as the running ones end one by one."""
    missing = state.running + state.waiting + work.sequences - (state.max_sequences or state.running + 1 << 30)
    short = work.prompt + RESERVE_CELLS - (state.kv_cells - state.kv_cells_used + state.kv_cells_kept)
    if state.kv_cells and short > 0 and state.running:
        missing = max(missing, -(-short * state.running // max(1, state.kv_cells_used - state.kv_cells_kept)))
    if missing <= 0:
        return 0.0
    # They are half done on average, and end evenly spread over what is left.
    return missing / max(1, state.running) * work.completion * token_s


def _total(times: Times, learned: Learned) -> float:
    """Never before the first token."""
    return max(times.total_s * learned.total_factor, times.ttft_s * learned.ttft_factor)


def _ordered(routes: tuple[Route, ...], dropped: set[str], late: list[Route]) -> tuple[Route, ...]:
    """Without the dropped ones, and with the late ones last if there is a remote one; the same object if unchanged."""
    kept = tuple(route for route in routes if route.name not in dropped) if dropped else routes
    if late and any(route.location == "remote" for route in kept):
        moved = (*(route for route in kept if route not in late), *late)
        return kept if moved == kept else moved
    return kept


def _missed(
    request: Request, route: Route, snapshot: Snapshot, estimate: Estimate, times: Times, factor: float
) -> Drop | None:
    """The drop of a route that would miss the request's deadline; waiting helps if the box alone would make it."""
    deadline = request.deadline_s
    if deadline is None:
        return None
    left_s, idle_s = deadline - snapshot.elapsed_s, times.idle_s * min(IDLE_MARGIN, factor * MARGIN)
    if estimate.total_s * MARGIN <= left_s or (times.alone and idle_s <= left_s):
        return None
    error: BackendError
    if idle_s > deadline:
        error = InvalidRequest(
            f"The model {route.model} may need {idle_s:.1f} s for this request even when nothing else runs, but its "
            f"deadline is {deadline:g} s. Allow more time, ask for fewer tokens or shorten the prompt.",
            code="capacity",
            param="outstation.deadline_ms",
        )
    else:
        # By when it would have been answered itself, those before it have been: then the box is as good as idle.
        error = DeadlineExceeded(
            f"The model {route.model} would answer in about {estimate.total_s:.1f} s, after the request's deadline of "
            f"{deadline:g} s. Try again when others are done, or allow more time.",
            code="capacity",
            retry_after=max(1.0, estimate.total_s),
        )
    return Drop(route, "capacity", f"answer in {estimate.total_s:.1f} s", error)
