"""The load: what is asked, and how many ask at once."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.client import ask
from bench.stats import Wave

# About 300 tokens of SmolLM2's tokenizer: the one prompt that a kiosk sends all day.
SYSTEM_PROMPT = """\
You are the assistant of a service van. A technician asks you short questions while working on pumps, valves and \
motors, often with one hand and in a noisy place. Answer in at most three sentences of plain words. Say what to check \
first, what to check next, and when to stop and call the control room. Give pressures in bar, temperatures in degrees \
Celsius, torques in newton metres and currents in amperes. Never guess a torque or a pressure: if the manual that you \
were given does not say it, say that you do not know and name the document where it would be found. Before any advice \
about a motor, a heater or a battery, remind the technician once to isolate the supply, to lock the switch and to \
measure that it is dead. Before any advice about a pressurised line, remind the technician once to close the valves \
on both sides and to bleed the pressure. If the technician describes smoke, a smell of burning, a leak of gas or an \
injury, give no other advice than to leave the place, to raise the alarm and to call for help. Use the names of parts \
as the site's own list has them: intake pump, transfer pump, sump pump, check valve, gate valve, relief valve, flow \
meter, level switch, soft starter, control cabinet. Do not apologise, do not praise the question, and do not repeat \
it. End each answer with one line that \
begins with the word Next and says in a few words what the technician should do now."""

# llama-server's own defaults, said aloud so that every server samples alike.
COMMON: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "seed": 7,
}

QUESTIONS = (
    "The intake pump hums but does not turn. What first?",
    "The relief valve drips after the night shift. Why?",
    "The flow meter reads zero while water runs. What is wrong?",
    "The soft starter shows a red light. May I reset it?",
    "The sump pump runs all the time. What should I check?",
    "The level switch sticks in the wet season. How do I free it?",
    "The motor bearing is hot to the touch. Is that normal?",
    "The check valve slams when the pump stops. What helps?",
    "The gate valve turns but nothing closes. What broke?",
    "The control cabinet is damp inside. What do I do?",
    "The transfer pump loses its prime each morning. Why?",
    "A fuse blows whenever the heater starts. Where do I look?",
    "The pressure gauge swings wildly. Is the pump damaged?",
    "The coupling makes a scraping noise. Can I go on?",
    "The seal leaks a few drops an hour. Is that too much?",
    "The battery of the data logger is swollen. What now?",
)

WORDS = (
    "pump valve gauge seal rotor shaft bearing filter hose tank motor relay fuse cable sensor meter clamp bolt "
    "nut spring lever switch panel screen drum pipe joint hook plate frame wheel chain belt gear brake wire"
).split()


@dataclass(slots=True)
class Load:
    """Builds requests, no two alike: a seed and a counter make every question its own.

    Attributes:
        tokens: completion tokens of each answer; the end of generation is ignored, so that all answer equally much.
        extras: fields that one server needs in its own way (see `peers.Peer.extras`).
    """

    tokens: int = 64
    seed: int = 1
    extras: dict[str, Any] = field(default_factory=dict)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def question(self) -> dict[str, Any]:
        """A short question under the shared system prompt."""
        number = next(self._count)
        text = f"{QUESTIONS[number % len(QUESTIONS)]} Job {self.seed}-{number}."
        return self._body(
            [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}], self.tokens
        )

    def long_prompt(self, tokens: int, *, answer_tokens: int = 8) -> dict[str, Any]:
        """A prompt of about `tokens` tokens that shares nothing with any other, from its first word on."""
        words = random.Random(f"{self.seed}-{next(self._count)}")  # each word is one token of SmolLM2's tokenizer
        text = " ".join(words.choice(WORDS) for _ in range(tokens - 20))
        return self._body(
            [{"role": "system", "content": text}, {"role": "user", "content": "Which part is named most often?"}],
            answer_tokens,
        )

    def endless(self, tokens: int = 3000) -> dict[str, Any]:
        """A question whose answer goes on until the client leaves."""
        return self.question() | {"max_tokens": tokens}

    def _body(self, messages: list[dict[str, str]], tokens: int) -> dict[str, Any]:
        return {"messages": messages, "max_tokens": tokens} | COMMON | self.extras


async def wave(port: int, load: Load, streams: int) -> Wave:
    """`streams` questions at once, and the time until the last of them is answered."""
    bodies = [load.question() for _ in range(streams)]
    began = time.perf_counter()
    answers = await asyncio.gather(*(ask(port, body) for body in bodies))
    return Wave(answers, time.perf_counter() - began)
