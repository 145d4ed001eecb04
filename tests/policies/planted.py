"""Makes valid values of every data class, and bodies with them in all kinds of places."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from policies import checksums

IBAN_LETTERS = {country: length for country, length in checksums.IBAN_LENGTHS.items() if country not in ("RU", "SC")}
ALNUM = string.ascii_letters + string.digits


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def until(check: Callable[[str], bool], make: Callable[[], str]) -> str:
    """The first that is valid."""
    while True:
        if check(value := make()):
            return value


def day(rng: random.Random) -> str:
    return f"{rng.randint(1, 28):02d}"


def month(rng: random.Random) -> str:
    return f"{rng.randint(1, 12):02d}"


def iban(rng: random.Random) -> str:
    country = rng.choice(sorted(IBAN_LETTERS))
    rest = digits(rng, IBAN_LETTERS[country] - 4)
    if country in ("GB", "NL", "MT", "IE"):
        rest = "".join(rng.choices(string.ascii_uppercase, k=4)) + rest[4:]
    number = int("".join(str(int(char, 36)) for char in rest + country + "00"))
    return f"{country}{98 - number % 97:02d}{rest}"


def card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        [("4", 16), ("51", 16), ("2300", 16), ("37", 15), ("6011", 16), ("36", 14), ("3530", 16)]
    )
    start = prefix + digits(rng, length - len(prefix) - 1)
    return next(start + last for last in string.digits if checksums.luhn(start + last))


def tax_id(rng: random.Random) -> str:
    def make() -> str:
        kinds = rng.sample(string.digits, 9)
        ten = [*kinds, rng.choice(kinds)]
        rng.shuffle(ten)
        return "".join(ten) + rng.choice(string.digits)

    return until(lambda text: text[0] != "0" and checksums.german_tax_id(text), make)


def nir(rng: random.Random) -> str:
    first = rng.choice("12") + digits(rng, 2) + month(rng) + rng.choice(["75", "13", "2A", "2B", "69"]) + digits(rng, 6)
    number = int(first.replace("2A", "19").replace("2B", "18"))
    return f"{first}{97 - number % 97:02d}"


NATIONAL: dict[str, Callable[[random.Random], str]] = {
    "german_tax_id": tax_id,
    "german_insurance": lambda rng: until(
        checksums.german_insurance,
        lambda: (
            digits(rng, 2)
            + day(rng)
            + month(rng)
            + digits(rng, 2)
            + rng.choice(string.ascii_uppercase)
            + digits(rng, 3)
        ),
    ),
    "spanish_dni": lambda rng: (n := digits(rng, 8)) + "TRWAGMYFPDXBNJZSQVHLCKE"[int(n) % 23],
    "italian": lambda rng: until(
        checksums.italian_tax_code,
        lambda: (
            "".join(rng.choices(string.ascii_uppercase, k=6))
            + digits(rng, 2)
            + rng.choice("ABCDEHLMPRST")
            + day(rng)
            + rng.choice("ABCDEFGHIL")
            + digits(rng, 3)
            + rng.choice(string.ascii_uppercase)
        ),
    ),
    "french_nir": nir,
    "dutch_bsn": lambda rng: "BSN " + until(checksums.dutch_bsn, lambda: digits(rng, 9)),
    "swedish": lambda rng: until(
        lambda text: checksums.swedish(text.replace("-", "")),
        lambda: digits(rng, 2) + month(rng) + day(rng) + "-" + digits(rng, 4),
    ),
    "finnish": lambda rng: (
        (d := day(rng) + month(rng) + digits(rng, 2))
        + rng.choice("-A+")
        + (n := digits(rng, 3))
        + "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(d + n) % 31]
    ),
    "norwegian": lambda rng: until(
        checksums.norwegian, lambda: day(rng) + month(rng) + digits(rng, 5) + digits(rng, 2)
    ),
    "polish": lambda rng: until(
        checksums.polish_pesel, lambda: digits(rng, 2) + month(rng) + day(rng) + digits(rng, 5)
    ),
    "belgian": lambda rng: (n := digits(rng, 2) + month(rng) + day(rng) + digits(rng, 3)) + f"{97 - int(n) % 97:02d}",
    "swiss": lambda rng: until(checksums.swiss_ahv, lambda: "756" + digits(rng, 10)),
    "brazilian": lambda rng: until(checksums.brazilian_cpf, lambda: digits(rng, 11)),
    "nhs": lambda rng: "NHS number: " + until(checksums.british_nhs, lambda: digits(rng, 10)),
    "ssn": lambda rng: f"{rng.randint(100, 599)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}",
}
NAMED = {"dutch_bsn", "nhs"}
"""Ids that a word beside them names."""


def email(rng: random.Random) -> str:
    name = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 12)))
    host = "".join(rng.choices(string.ascii_lowercase, k=6))
    return f"{name}.{digits(rng, 2)}@{host}.{rng.choice(['org', 'de', 'co.uk'])}"


def phone(rng: random.Random) -> str:
    return rng.choice(
        [
            lambda: f"+49 {rng.randint(150, 179)} {digits(rng, 7)}",
            lambda: f"+1 ({rng.randint(200, 999)}) {rng.randint(200, 999)}-{digits(rng, 4)}",
            lambda: f"({rng.randint(200, 999)}) {rng.randint(200, 999)}-{digits(rng, 4)}",
            lambda: f"{rng.randint(200, 999)}-{rng.randint(200, 999)}-{digits(rng, 4)}",
            lambda: "06 " + " ".join(digits(rng, 2) for _ in range(4)),
            lambda: f"+44 20 {digits(rng, 4)} {digits(rng, 4)}",
            lambda: f"0{rng.randint(150, 179)} {digits(rng, 7)}",
        ]
    )()


def ip(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return f"{rng.choice([10, 85, 192, 203])}." + ".".join(str(rng.randint(0, 255)) for _ in range(3))
    return "2001:db8:" + ":".join(f"{rng.randint(1, 65535):x}" for _ in range(6))


def secret(rng: random.Random) -> str:
    def chars(count: int) -> str:
        return "".join(rng.choices(ALNUM, k=count))

    return rng.choice(
        [
            lambda: "AKIA" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=16)),
            lambda: "ghp_" + chars(36),
            lambda: "github_pat_" + chars(50),
            lambda: "sk-proj-" + chars(40),
            lambda: "sk-ant-api03-" + chars(40),
            lambda: f"xoxb-{digits(rng, 12)}-{chars(24)}",
            lambda: "AIza" + chars(35),
            lambda: "sk_live_" + chars(24),
            lambda: "hf_" + chars(34),
            lambda: f"eyJ{chars(20)}.eyJ{chars(30)}.{chars(40)}",
            lambda: f"-----BEGIN PRIVATE KEY-----\n{chars(64)}\n{chars(64)}\n-----END PRIVATE KEY-----",
        ]
    )()


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "secret": secret,
    "payment_card": card,
    "iban": iban,
    "national_id": lambda rng: NATIONAL[rng.choice(sorted(set(NATIONAL) - NAMED))](rng),
    "email": email,
    "phone": phone,
    "ip": ip,
}

WORDS = (
    "the pump delivers 12.5 m3/h at 3.2 bar and valve V12 stays shut until restart of the PLC at rack 3 see table 4 "
    "after 2025-11-21 alarm E-4021 remains torque 45 Nm für Größe über naïve 部品 , . : ; – “quoted” (maybe)"
).split()


def prose(rng: random.Random, least: int = 0, most: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def disguised(rng: random.Random, value: str) -> str:
    """The same to a reader: with characters nobody sees, wide digits, other spaces and hyphens."""
    trick = rng.randrange(5)
    at = rng.randint(1, len(value) - 1)
    if trick == 0:
        return value[:at] + rng.choice("\u200b\u200c\u200d\u2060\ufeff\u00ad") + value[at:]
    if trick == 1:
        return "".join(chr(ord(char) + 0xFEE0) if char.isdigit() else char for char in value)
    if trick == 2:
        return value.replace(" ", "\u00a0").replace("-", "\u2011")
    return value


def sentence(rng: random.Random, value: str) -> str:
    return f"{prose(rng)} {rng.choice(['', '(', ': ', '“'])}{value}{rng.choice(['', ')', ',', '.', '”'])} {prose(rng)}"


def grouped(rng: random.Random, cls: str, value: str) -> str:
    """As people write it."""
    if cls == "iban" or (cls == "payment_card" and len(value) == 16):
        sep = rng.choice(["", " ", "-"] if cls == "payment_card" else ["", " "])
        return sep.join(value[i : i + 4] for i in range(0, len(value), 4))
    return value


def body(rng: random.Random, texts: Iterator[str]) -> dict[str, Any]:
    """A request with the texts in it, each somewhere."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": prose(rng)}]
    for number, text in enumerate(texts):
        arguments = orjson.dumps({"to": text, "n": [number, {"note": prose(rng)}]}).decode()
        if rng.random() < 0.5:
            arguments = "".join(char if char.isascii() else f"\\u{ord(char):04x}" for char in arguments)
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "send", "arguments": arguments}}
        nested = orjson.dumps({"inner": orjson.dumps({"deep": [text]}).decode()}).decode()
        bare = {**call, "function": {"name": "send", "arguments": "{}"}}
        result = {"role": "tool", "tool_call_id": f"call_{number}", "content": "sent"}
        places: list[list[dict[str, Any]]] = [
            [{"role": "user", "content": text}],
            [{"role": "user", "content": [{"type": "text", "text": prose(rng)}, {"type": "text", "text": text}]}],
            [{"role": "assistant", "content": None, "tool_calls": [call]}, result],
            [{"role": "assistant", "content": None, "tool_calls": [bare]}, {**result, "content": nested}],
            [{"role": "assistant", "content": "ok", "unknown_field": {"list": [{"deep": text}]}}],
        ]
        messages += rng.choice(places)
    return {"model": "m", "messages": messages, "temperature": 0.5, "metadata": {"site": prose(rng, 1, 3)}}
