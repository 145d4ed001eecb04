"""Texts of a given length of the kinds that requests hold, no two alike."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

PROSE = (
    "The intake pump hums but does not turn, and the breaker of rack 3 trips after a minute or two.",
    "I checked the fuse, the supply and the seal ring; nothing looks burnt and nothing smells of it.",
    "Last spring we saw the same on the older unit, where a worn bearing had let water into the motor.",
    "Please tell me what to look at first, and which parts the van should bring along tomorrow.",
    "The operator says that the valve was shut the whole time, but the log of the controller shows otherwise.",
    "It may be that somebody opened it by hand; the lever on the left is easy to reach from the gangway.",
    "Drehen Sie das Handrad langsam zurück, bis der Druck fällt, und prüfen Sie dann die Dichtung.",
)
CODE = (
    "def restart(self, pump: Pump, *, after_s: float = 2.5) -> None:",
    '    """Starts the pump again once the pressure is below the limit."""',
    "    while (pressure := self._sensors[pump.name].read()) > LIMIT_BAR:",
    "        log.debug('%s: %.2f bar, waiting', pump.name, pressure)",
    "        time.sleep(min(after_s, 0.25 * 2 ** attempts))",
    "    if pump.state not in {State.READY, State.STOPPED}:",
    "        raise PumpError(f'{pump.name} is {pump.state.value!r}')",
    "    self._bus.write(0x1F, bytes([pump.address, 0b0000_0001]))",
    "    return next(one for one in self._pumps if one.address == pump.address)",
)
KEYS = ("pressure", "temperature", "state", "valve", "flow_rate", "counter", "error_code", "comment")


def prose(rng: random.Random) -> str:
    """A sentence or two of plain words."""
    return " ".join(rng.choices(PROSE, k=2)) + " "


def code(rng: random.Random) -> str:
    """A line of a program."""
    return rng.choice(CODE) + "\n"


def log_line(rng: random.Random) -> str:
    """A line of an access log, with an address."""
    address = f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"
    at = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
    size, seconds = rng.randint(100, 90_000), rng.random()
    return (
        f'{address} - - [21/Nov/2026:{at} +0100] "GET /pump/{rng.randint(1, 40)} HTTP/1.1" 200 {size} {seconds:.3f}\n'
    )


def json_row(rng: random.Random) -> str:
    """An object of measured values, as a tool gives them."""
    row = {key: rng.choice((rng.randint(0, 9999), round(rng.random() * 100, 2), "open", None, True)) for key in KEYS}
    return json.dumps({"at": f"2026-11-{rng.randint(10, 30)}T08:15:00Z", **row}) + "\n"


def numbers(rng: random.Random) -> str:
    """A row of a table: part numbers, counts, prices, dimensions; digits at almost every place."""
    part = f"{rng.randint(10, 99)}-{rng.randint(1000, 9999)}-{rng.randint(100, 999)}"
    stock, price = rng.randint(1, 5000), rng.random() * 900
    return f"{rng.randint(10**7, 10**8)} {part} {stock} {price:.2f} {rng.randint(10, 90)}x{rng.randint(10, 90)}; "


KINDS: dict[str, Callable[[random.Random], str]] = {
    "prose": prose,
    "code": code,
    "log lines with addresses": log_line,
    "JSON": json_row,
    "numbers": numbers,
}


def text(kind: str, rng: random.Random, size: int) -> str:
    """So many bytes of that kind."""
    parts, length = [], 0
    while length < size:
        parts.append(KINDS[kind](rng))
        length += len(parts[-1].encode())
    return "".join(parts).encode()[:size].decode(errors="ignore")
