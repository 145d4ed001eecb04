"""One model or several judge the same inputs, each by a request of its own; who is not sure may ask on."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from backends.errors import BackendError
from backends.onnx.manifest import Manifest
from backends.types import Event, Request
from gateway.classify.asking import Answered, Asking, or_error, together
from gateway.classify.escalation import Escalation, Escalator, Unsure
from gateway.classify.inputs import Input
from gateway.classify.verdict import Verdict, doubt, opinion_of
from gateway.dispatch import Dispatcher
from gateway.errors import kind_of
from gateway.outcome import Outcome

SHARE_TO_TELL, TO_TELL_S = 0.1, 0.5
"""Of the time that is left, and in seconds: what is known by then must still be told."""


@dataclass(frozen=True, slots=True)
class Member:
    """A model, what it is asked, and what happens if it is not sure."""

    request: Request
    manifest: Manifest
    inputs: Sequence[Input]
    escalation: Escalation | None


class Panel:
    """Answers a whole HTTP request. The first member's inference is that request's own; the others' go beside it.

    Attributes:
        verdicts: of each member, by input, or why it has none; there once `answer` has ended.
    """

    def __init__(self, dispatcher: Dispatcher, members: Sequence[Member], asking: Asking, escalator: Escalator) -> None:
        self._dispatcher = dispatcher
        self._members = members
        self._asking = asking
        self._escalator = escalator
        self.verdicts: list[list[Verdict] | BackendError] = []

    def bound_s(self, request: Request) -> float:
        """As the dispatcher's."""
        return self._dispatcher.bound_s(request)

    async def answer(self, request: Request, outcome: Outcome) -> AsyncGenerator[Event, None]:
        """The usage of all inferences together, once they have ended; a member's failure is that member's alone.

        Raises:
            BackendError: the first member's, if all have failed.
        """
        with ExitStack() as further:
            outcomes = [outcome, *(further.enter_context(self._asking.besides(outcome)) for _ in self._members[1:])]
            asked = zip(self._members, outcomes, strict=True)
            self.verdicts = await together(or_error(self._asked(member, own, outcome)) for member, own in asked)
            good = [own for own, one in zip(outcomes, self.verdicts, strict=True) if not isinstance(one, BackendError)]
            first = self.verdicts[0]
            if isinstance(first, BackendError) and good:
                # The answer is a 200, and so says the request's own row: with the first model that did answer.
                outcome.trade(good[0])
                good[0].status = kind_of(first).status
        if isinstance(first, BackendError) and not good:
            raise first
        yield self._asking.usage

    async def _asked(self, member: Member, outcome: Outcome, parent: Outcome) -> list[Verdict]:
        try:
            answered = await self._asking.ask(replace(member.request, id=outcome.id), outcome)
        except BackendError as error:
            # Whatever the others say: this is how this one ended, in the audit and in the figures of its model.
            outcome.end("error", error.code)
            if outcome is not parent:
                outcome.status = kind_of(error).status
            raise
        if outcome is not parent:
            outcome.end("success")
        return await self._judged(member, answered, parent)

    async def _judged(self, member: Member, answered: Answered, parent: Outcome) -> list[Verdict]:
        verdicts = []
        for index, choice in enumerate(answered.choices):
            opinion = opinion_of(choice.wire or {}, member.manifest, answered.route)
            verdicts.append(Verdict(index, opinion, opinion, seconds=time.monotonic() - parent.started))
        if member.escalation is not None:
            await self._escalated(member, member.escalation, verdicts, parent)
        return verdicts

    async def _escalated(
        self, member: Member, escalation: Escalation, verdicts: Sequence[Verdict], parent: Outcome
    ) -> None:
        below = member.manifest.confidence if escalation.below is None else escalation.below
        for verdict in verdicts:
            doubt(verdict, below)
        unsure = Unsure(member.request, member.manifest, member.inputs, escalation, verdicts)
        asked = unsure.pending
        if not asked:
            return
        left_s = parent.started + self.bound_s(member.request) - time.monotonic()
        await self._escalator.improve(unsure, parent, left_s - min(left_s * SHARE_TO_TELL, TO_TELL_S))
        for verdict in asked:
            verdict.seconds = time.monotonic() - parent.started
        others = sum(verdict.final is not verdict.edge for verdict in asked)
        parent.reasons.append(f"{len(asked)} of {len(verdicts)} unsure, {others} answered by others")
