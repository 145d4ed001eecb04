"""Check digits: what tells a card or a national id from any other number of its length. Pure.

Each function takes the bare characters (ASCII, capitals, no separators) and says whether they can be one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType

_DOUBLED = str.maketrans("0123456789", "0246813579")
_IN_DIGITS = {ord(char): str(int(char, 36)) for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_LENGTHS = """
    AD24 AE23 AL28 AO25 AT20 AZ28 BA20 BE16 BF28 BG22 BH22 BI27 BJ28 BR29 BY28 CF27 CG27 CH21 CI28 CM27 CR22 CV25 CY28
    CZ24 DE22 DJ27 DK18 DO28 DZ26 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GA27 GB22 GE22 GI23 GL18 GQ27 GR27 GT28 GW25 HN28
    HR21 HU28 IE22 IL23 IQ23 IR26 IS26 IT27 JO30 KM27 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MA28 MC27 MD24 ME22
    MG27 MK19 ML28 MN20 MR27 MT31 MU30 MZ25 NE28 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31
    SD18 SE24 SI19 SK24 SM27 SN28 SO23 ST25 SV28 TD27 TG28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
IBAN_LENGTHS = MappingProxyType({word[:2]: int(word[2:]) for word in _LENGTHS.split()})
"""Characters of a whole IBAN, by country (the SWIFT registry, and the countries that use one without being in it)."""

_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:30[0-59]|3[689]\d)\d{11,16}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d{2}|6[02]\d{2}|8[12]\d{2}|508\d|35(?:2[89]|[3-8]\d)|220[0-4])\d{12,15}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{8,15}"  # Maestro
)
_LETTERS_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"
_LETTERS_HETU = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_ODD_CF = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21),
            2,
            4,
            18,
            20,
            11,
            3,
            6,
            8,
            12,
            14,
            16,
            10,
            22,
            25,
            24,
            23,
        ),
        strict=True,
    )
)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1."""
    codes = (digits[-1::-2] + digits[-2::-2].translate(_DOUBLED)).encode()
    return (sum(codes) - 48 * len(codes)) % 10 == 0


def payment_card(digits: str) -> bool:
    """12 to 19 digits that begin as an issuer's do, and pass Luhn."""
    return _ISSUERS.fullmatch(digits) is not None and luhn(digits)


def iban(text: str) -> bool:
    """ISO 13616: as long as its country says, and 1 modulo 97."""
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not text[2:4].isdigit() or not "02" <= text[2:4] <= "98":
        return False
    return int((text[4:] + text[:4]).translate(_IN_DIGITS)) % 97 == 1


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum([int(digit) * weight for digit, weight in zip(digits, weights, strict=False)])


def _day(day: int, month: int) -> bool:
    return 1 <= day <= 31 and 1 <= month <= 12


def german_tax_id(digits: str) -> bool:
    """Steuer-ID, 11 digits: of the first ten one comes twice or three times; ISO 7064 MOD 11,10."""
    if digits[0] == "0" or sorted(map(digits[:10].count, set(digits[:10])))[-2:] not in ([1, 2], [1, 3]):
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def german_insurance(text: str) -> bool:
    """Sozialversicherungsnummer, 12 characters: area, birthday, letter, serial, check digit (VKVV section 4)."""
    if not _day(int(text[2:4]), int(text[4:6])):
        return False
    digits = text[:8] + f"{ord(text[8]) - 64:02d}" + text[9:11]
    products = (int(d) * w for d, w in zip(digits, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1), strict=True))
    return sum([p // 10 + p % 10 for p in products]) % 10 == int(text[11])


def spanish_dni(text: str) -> bool:
    """DNI (8 digits, letter) or NIE (X, Y or Z, 7 digits, letter)."""
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return _LETTERS_DNI[int(number) % 23] == text[-1]


def italian_tax_code(text: str) -> bool:
    """Codice fiscale, 16 characters; the last is a check letter (DM 23/12/1976)."""
    odd = sum([_ODD_CF[char] for char in text[0:15:2]])
    even = sum([int(char, 36) - (10 if char.isalpha() else 0) for char in text[1:15:2]])
    return chr(65 + (odd + even) % 26) == text[15]


def french_nir(text: str) -> bool:
    """Numéro de sécurité sociale, 13 characters and a key of 2; 2A and 2B are Corsica."""
    department = {"2A": "19", "2B": "18"}.get(text[5:7], text[5:7])
    if not department.isdigit():
        return False
    number = int(text[:5] + department + text[7:13])
    month = int(text[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) and 97 - number % 97 == int(text[13:])


def dutch_bsn(digits: str) -> bool:
    """9 digits, the test of eleven."""
    return digits != "000000000" and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def swedish(digits: str) -> bool:
    """Personnummer, 10 digits (a century before them left out), or a samordningsnummer, whose day is 60 more."""
    day = int(digits[4:6])
    return _day(day - 60 if day > 60 else day, int(digits[2:4])) and luhn(digits)


def finnish(text: str) -> bool:
    """Henkilötunnus: DDMMYY, 3 digits, a check character; the sign of the century between them left out."""
    return len(text) == 10 and _day(int(text[:2]), int(text[2:4])) and _LETTERS_HETU[int(text[:9]) % 31] == text[9]


def norwegian(digits: str) -> bool:
    """Fødselsnummer or D-nummer (its day is 40 more), 11 digits, two check digits."""
    day = int(digits[:2])
    return (
        _day(day - 40 if day > 40 else day, int(digits[2:4]))
        and _weighted(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
        and _weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    )


def polish_pesel(digits: str) -> bool:
    """11 digits; the month carries the century."""
    return (
        _day(int(digits[4:6]), int(digits[2:4]) % 20) and _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0
    )


def belgian(digits: str) -> bool:
    """Rijksregisternummer, 11 digits, modulo 97; born from 2000 on with a 2 before them."""
    if int(digits[2:4]) % 20 > 12 or int(digits[4:6]) > 31:
        return False
    check = int(digits[9:])
    return check in (97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97)


def swiss_ahv(digits: str) -> bool:
    """13 digits that begin with 756; EAN-13."""
    return digits.startswith("756") and _weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


def brazilian_cpf(digits: str) -> bool:
    """11 digits, two check digits."""
    if len(set(digits)) == 1:
        return False
    first = _weighted(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2)) * 10 % 11 % 10
    return int(digits[9]) == first and (
        int(digits[10]) == _weighted(digits, (11, 10, 9, 8, 7, 6, 5, 4, 3, 2)) * 10 % 11 % 10
    )


def british_nhs(digits: str) -> bool:
    """10 digits, modulo 11."""
    return digits != "0000000000" and _weighted(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0


def american_ssn(digits: str) -> bool:
    """9 digits; there is no check digit, only numbers that are never given."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


BY_LENGTH: MappingProxyType[int, tuple[Callable[[str], bool], ...]] = MappingProxyType(
    {
        11: (german_tax_id, polish_pesel, brazilian_cpf, belgian, norwegian),
        13: (swiss_ahv,),
        15: (lambda digits: digits[0] in "123478" and french_nir(digits),),
    }
)
"""Ids of digits alone whose check is strong enough to need no word beside them, by their number of digits."""
