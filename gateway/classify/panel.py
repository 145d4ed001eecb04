"""One model or several judge the same inputs, each by a request of its own; who is not sure may ask on."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from backends.errors import BackendError
from backends.onnx.manifest import Manifest
from backends.types import Event, Request
from gateway.classify.asking import Answered, Asking, or_error, together
from gateway.classify.escalation import Escalation, Escalator, Unsure
from gateway.classify.inputs import Input
from gateway.classify.verdict import Verdict, doubt, opinion_of
from gateway.dispatch import Dispatcher
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
        first, *others = self._members
        calls = [self._first(first, outcome), *(self._besides(member, outcome) for member in others)]
        self.verdicts = await together(or_error(call) for call in calls)
        failed = [one for one in self.verdicts if isinstance(one, BackendError)]
        if len(failed) == len(self._members):
            raise failed[0]
        yield self._asking.usage

    async def _first(self, member: Member, outcome: Outcome) -> list[Verdict]:
        try:
            answered = await self._asking.ask(member.request, outcome)
        except BackendError as error:
            # Whatever the others say: this is how this one ended, in the audit and in the figures of its model.
            outcome.end("error", error.code)
            raise
        return await self._judged(member, answered, outcome)

    async def _besides(self, member: Member, parent: Outcome) -> list[Verdict]:
        return await self._judged(member, await self._asking.ask_besides(member.request, parent), parent)

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
