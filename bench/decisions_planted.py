"""Valid numbers of people, as people write them. Their check digits are reckoned here from the published rules, by code
that shares nothing with what searches for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IBANS = (
    ("DE", 18, ""), ("FR", 23, ""), ("ES", 20, ""), ("AT", 16, ""), ("CH", 17, ""), ("BE", 12, ""),
    ("PL", 24, ""), ("SE", 20, ""), ("NO", 11, ""), ("IT", 23, "letter"), ("GB", 18, "bank"), ("NL", 14, "bank"),
)  # fmt: skip
"""Country, characters after the check digits, and what letters they begin with."""
CARDS = (("4", 16), ("4", 13), ("51", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16), ("36", 14), ("3530", 16))
ODD_LETTERS = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
"""What letters (and digits as A to J) in odd places count in a codice fiscale."""

PLACES = (
    "Hello, please book the repair on {} and call me when the van is on its way.",
    "The customer's number is {}.",
    "Kunde {} hat gestern angerufen, die Pumpe steht wieder still.",
    "- pressure 3.2 bar\n- customer: {}\n- valve V12 shut",
    "Invoice 2025-118, 14.50 EUR, account {}, due on 2025-12-01.",
    "order;site;holder\n4711;van 3;{}\n",
    "Il cliente ({}) ha chiesto un preventivo per la nuova valvola.",
    "He read it to me twice: {}, then the line broke.",
)
"""Sentences of a working day with a place for a number."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of number.

    Attributes:
        cls: the class under which it has to be found.
        make: one of them, in one of its written forms.
        named: the word before it without which it is not to be told from others.
    """

    name: str
    cls: str
    make: Callable[[random.Random], str]
    named: str = ""


def kinds() -> tuple[Kind, ...]:
    """All that have check digits."""
    return (
        Kind("IBAN", "iban", iban),
        Kind("payment card", "payment_card", card),
        *(
            Kind(name, "national_id", make, named)
            for name, make, named in (
                ("Steuer-ID (DE)", steuer_id, ""),
                ("Sozialversicherung (DE)", sozialversicherung, ""),
                ("DNI, NIE (ES)", dni, ""),
                ("codice fiscale (IT)", codice_fiscale, ""),
                ("NIR (FR)", nir, ""),
                ("personnummer (SE)", personnummer, ""),
                ("henkilötunnus (FI)", henkilotunnus, ""),
                ("fødselsnummer (NO)", fodselsnummer, ""),
                ("PESEL (PL)", pesel, ""),
                ("rijksregisternummer (BE)", rijksregister, ""),
                ("AHV (CH)", ahv, ""),
                ("CPF (BR)", cpf, ""),
                ("BSN (NL), named", bsn, "BSN "),
                ("NHS number (GB), named", nhs, "NHS number "),
            )
        ),
    )


def planted(kind: Kind, rng: random.Random) -> tuple[str, str]:
    """A sentence with one in it, and the number as it stands there."""
    value = kind.make(rng)
    return rng.choice(PLACES).format(kind.named + value), value


def iban(rng: random.Random) -> str:
    """ISO 13616; in fours, or without spaces."""
    country, length, form = rng.choice(IBANS)
    letters = 4 if form == "bank" else 1 if form == "letter" else 0
    account = "".join(rng.choices(LETTERS, k=letters)) + digits(rng, length - letters)
    number = "".join(str(int(char, 36)) for char in f"{account}{country}00")
    whole = f"{country}{98 - int(number) % 97:02d}{account}"
    return " ".join(whole[at : at + 4] for at in range(0, len(whole), 4)) if rng.random() < 0.5 else whole


def card(rng: random.Random) -> str:
    """ISO/IEC 7812; in the groups that its issuer prints, or without."""
    prefix, length = rng.choice(CARDS)
    body = prefix + digits(rng, length - len(prefix) - 1)
    whole = body + luhn_digit(body)
    shape = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}.get(length, (length,))
    return rng.choice((" ", "-", "")).join(groups(whole, shape))


def steuer_id(rng: random.Random) -> str:
    """Ten digits of which one comes twice and one never; ISO 7064 MOD 11,10."""
    chosen = rng.sample("0123456789", 9)
    ten = [*chosen, rng.choice(chosen)]
    rng.shuffle(ten)
    while ten[0] == "0":
        rng.shuffle(ten)
    rest = 10
    for char in ten:
        total = (int(char) + rest) % 10
        rest = 2 * (total or 10) % 11
    whole = "".join(ten) + str((11 - rest) % 10)
    return rng.choice((whole, " ".join(groups(whole, (2, 3, 3, 3)))))


def sozialversicherung(rng: random.Random) -> str:
    """Area, birthday, initial, serial; products of two digits count the sum of both."""
    letter = rng.choice(LETTERS)
    body = digits(rng, 2) + birthday(rng, "{d}{m}{y}"), letter, digits(rng, 2)
    number = f"{body[0]}{LETTERS.index(letter) + 1:02d}{body[2]}"
    products = [int(char) * weight for char, weight in zip(number, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1), strict=True)]
    last = sum(sum(divmod(product, 10)) for product in products) % 10
    separator = rng.choice(("", " "))
    return separator.join((body[0][:2], body[0][2:], letter, f"{body[2]}{last}"))


def dni(rng: random.Random) -> str:
    """Eight digits or a letter and seven, and a check letter."""
    first = rng.choice(("", "", "X", "Y", "Z"))
    rest = digits(rng, 7 if first else 8)
    number = int(f"{'XYZ'.index(first)}{rest}" if first else rest)
    letter = "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]
    return f"{first}{rest}{rng.choice(('', '-'))}{letter}"


def codice_fiscale(rng: random.Random) -> str:
    """Sixteen characters, the last a check letter."""
    day = rng.randint(1, 28) + rng.choice((0, 40))
    body = "".join(rng.choices("BCDFGLMNPRSTVZ", k=6)) + digits(rng, 2) + rng.choice("ABCDEHLMPRST") + f"{day:02d}"
    body += rng.choice("ABCDEFGHILZ") + digits(rng, 3)
    places = [int(char) if char.isdigit() else LETTERS.index(char) for char in body]
    total = sum(ODD_LETTERS[place] for place in places[0::2]) + sum(places[1::2])
    return body + LETTERS[total % 26]


def nir(rng: random.Random) -> str:
    """Thirteen digits (Corsica with a letter) and 97 less their rest."""
    department = rng.choice(("75", "13", "69", "31", "2A", "2B"))
    body = rng.choice("12") + birthday(rng, "{y}{m}") + department + digits(rng, 6)
    key = 97 - int(body.replace("2A", "19").replace("2B", "18")) % 97
    whole = f"{body}{key:02d}"
    return rng.choice((whole, " ".join(groups(whole, (1, 2, 2, 2, 3, 3, 2)))))


def personnummer(rng: random.Random) -> str:
    """A birthday, a hyphen, three digits and Luhn's."""
    body = birthday(rng, "{y}{m}{d}") + digits(rng, 3)
    return f"{rng.choice(('', '19'))}{body[:6]}-{body[6:]}{luhn_digit(body)}"


def henkilotunnus(rng: random.Random) -> str:
    """A birthday, the sign of the century, three digits and a check character."""
    born, number = birthday(rng, "{d}{m}{y}"), f"{rng.randint(2, 899):03d}"
    return f"{born}{rng.choice('-A')}{number}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(born + number) % 31]}"


def fodselsnummer(rng: random.Random) -> str:
    """A birthday, three digits, two check digits modulo 11; neither may be ten."""
    while True:
        body = birthday(rng, "{d}{m}{y}") + digits(rng, 3)
        first = -weighted(body, (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11
        second = -(weighted(body, (5, 4, 3, 2, 7, 6, 5, 4, 3)) + 2 * first) % 11
        if first < 10 and second < 10:
            whole = f"{body}{first}{second}"
            return rng.choice((whole, f"{whole[:6]} {whole[6:]}"))


def pesel(rng: random.Random) -> str:
    """A birthday whose month tells the century, four digits and a check digit."""
    body = birthday(rng, "{y}{m}{d}")
    body = f"{body[:2]}{int(body[2:4]) + rng.choice((0, 20)):02d}{body[4:]}{digits(rng, 4)}"
    return f"{body}{-weighted(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10}"


def rijksregister(rng: random.Random) -> str:
    """A birthday, three digits, and 97 less the rest; those born since 2000 with a 2 before them."""
    body = birthday(rng, "{y}{m}{d}") + f"{rng.randint(1, 997):03d}"
    whole = f"{body}{97 - int(rng.choice(('', '2')) + body) % 97:02d}"
    return rng.choice((whole, "{}.{}.{}-{}.{}".format(*groups(whole, (2, 2, 2, 3, 2)))))


def ahv(rng: random.Random) -> str:
    """EAN-13 that begins with 756."""
    body = "756" + digits(rng, 9)
    whole = f"{body}{-weighted(body, (1, 3) * 6) % 10}"
    return rng.choice((whole, ".".join(groups(whole, (3, 4, 4, 2)))))


def cpf(rng: random.Random) -> str:
    """Nine digits and two check digits."""
    body = digits(rng, 9)
    for _ in range(2):
        rest = weighted(body, range(len(body) + 1, 1, -1)) % 11
        body += str(0 if rest < 2 else 11 - rest)
    return rng.choice((body, "{}.{}.{}-{}".format(*groups(body, (3, 3, 3, 2)))))


def bsn(rng: random.Random) -> str:
    """Nine digits that pass the test of eleven."""
    while True:
        body = digits(rng, 8)
        last = weighted(body, (9, 8, 7, 6, 5, 4, 3, 2)) % 11
        if last < 10 and int(body):
            return f"{body}{last}"


def nhs(rng: random.Random) -> str:
    """Ten digits, modulo 11; in the groups of a letter from the clinic, or without."""
    while True:
        body = digits(rng, 9)
        last = -weighted(body, range(10, 1, -1)) % 11
        if last < 10 and int(body):
            return rng.choice((" ", "")).join(groups(f"{body}{last}", (3, 3, 4)))


def luhn_digit(body: str) -> str:
    """What has to follow so that Luhn's sum ends in 0."""
    total = 0
    for place, char in enumerate(reversed(body)):
        value = int(char) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def weighted(body: str, weights: Sequence[int]) -> int:
    """The sum of the digits, each so many times."""
    return sum(int(char) * weight for char, weight in zip(body, weights, strict=True))


def digits(rng: random.Random, count: int) -> str:
    """Any."""
    return "".join(rng.choices("0123456789", k=count))


def birthday(rng: random.Random, form: str) -> str:
    """Day, month and year of two digits each."""
    return form.format(d=f"{rng.randint(1, 28):02d}", m=f"{rng.randint(1, 12):02d}", y=digits(rng, 2))


def groups(text: str, sizes: Sequence[int]) -> list[str]:
    """The text in pieces of these lengths."""
    ends = [sum(sizes[: count + 1]) for count in range(len(sizes))]
    return [text[end - size : end] for end, size in zip(ends, sizes, strict=True)]
