"""Finds keys, tokens and passwords: by the shapes their issuers gave them, or by the word before them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from math import log2

from policies.detect_numbers import Span
from policies.detect_text import Plain

LONGEST_NAME = 256
"""Characters of a field's name that are looked at: it may be over a list of many values."""

_B = r"(?<![A-Za-z0-9])"
_SHAPES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("AKIA", "ASIA", "ABIA", "ACCA"), r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[opusr]_[A-Za-z0-9]{30,255}"),
    (("github_pat_",), r"github_pat_[A-Za-z0-9_]{30,255}"),
    (("glpat-", "gldt-", "glrt-"), r"gl(?:pat|dt|rt)-[A-Za-z0-9_-]{16,255}"),
    (("xox",), r"xox[abcdeoprs](?:-[A-Za-z0-9]{4,255}){1,8}"),
    (("xapp-",), r"xapp-[A-Za-z0-9-]{20,255}"),
    (("hooks.slack.com/",), r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,255}"),
    (("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    (("GOCSPX-",), r"GOCSPX-[A-Za-z0-9_-]{20,255}"),
    (("ya29.",), r"ya29\.[A-Za-z0-9_-]{20,2048}"),
    (("sk-",), r"sk-[A-Za-z0-9_-]{20,512}"),
    (("k_live_", "k_test_"), r"[srp]k_(?:live|test)_[A-Za-z0-9]{10,255}"),
    (("whsec_",), r"whsec_[A-Za-z0-9+/=]{20,255}"),
    (("hf_",), r"hf_[A-Za-z0-9]{30,255}"),
    (("npm_",), r"npm_[A-Za-z0-9]{30,255}"),
    (("pypi-",), r"pypi-[A-Za-z0-9_-]{40,512}"),
    (("SG.",), r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,128}"),
    (("xai-", "pplx-", "nvapi-"), r"(?:xai|pplx|nvapi)-[A-Za-z0-9_-]{30,255}"),
    (("gsk_", "r8_"), r"(?:gsk|r8)_[A-Za-z0-9_-]{30,255}"),
    (("dop_v1_",), r"dop_v1_[0-9a-f]{64}"),
    (("dapi",), r"dapi[0-9a-f]{32}(?:-[0-9]{1,2})?"),
    (("shp",), r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    (("hvs.",), r"hvs\.[A-Za-z0-9_-]{24,255}"),
    (("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-1[A-Z0-9]{40,80}"),
    (("eyJ",), r"eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,16384}\.[A-Za-z0-9_-]{0,4096}"),
    ((":AA",), r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"),
    (("AccountKey=",), r"AccountKey=[A-Za-z0-9+/]{40,128}={0,2}"),
)
_COMPILED = tuple((triggers, re.compile(_B + shape)) for triggers, shape in _SHAPES)
_WITHOUT_UNDERSCORE = tuple(row for row in _COMPILED if not all("_" in trigger for trigger in row[0]))
_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----(?:[^-]|-(?!----))*+(?:-----END [A-Z0-9 ]{0,60}-----)?"
)
_URL = re.compile(r"://(?P<user>[^\s/:@\"'<>?#]{0,128}):(?P<password>[^\s\"'<>/?#]{1,256})@")

_PASSWORD = (
    "password",
    "passwd",
    "passphrase",
    "passwort",
    "pwd",
    "kennwort",
    "contraseña",
    "mot de passe",
    "wachtwoord",
)
_STRONG = ("secret", "token", "key", "credential")
_IS = re.compile(r"[\"'`*]{0,3}[ \t]{0,4}(?::=|=>|[:=]|\bis\b|\bist\b|\blautet\b|\bes\b|\best\b)[ \t]{0,4}[\"'`*]{0,3}")
_VALUE = re.compile(r"[^\s\"'`,;<>(){}\[\]\ufffc]{4,256}")
_AUTHORIZATION = re.compile(
    r"(?:(?:proxy-)?authorization[\"']?[ \t]{0,4}[:=][ \t]{0,4}[\"']?(?:bearer|basic|token|apikey|digest)?|bearer)"
    r"[ \t]{1,4}"
)
_CREDENTIAL = re.compile(r"[A-Za-z0-9._~+/=:-]{8,4096}")
_NO_VALUE = re.compile(
    r"(?i)(?:\*+|\.+|x+|null|none|nil|true|false|undefined|string|required|optional|unset|empty|\$[A-Z_]+|%[A-Z_]+%"
    r"|os\..*|process\..*|env\..*|getenv.*|self\..*|settings\..*|config\..*)"
)


def secrets(plain: Plain) -> Iterator[Span]:
    """Keys, tokens and passwords, as they come; they may overlap."""
    text, lower = plain.text, plain.lower
    for triggers, shape in _COMPILED if "_" in text else _WITHOUT_UNDERSCORE:
        for trigger in triggers:
            if trigger in text:
                yield from (("secret", match.start(), match.end()) for match in shape.finditer(text))
                break
    if "-----BEGIN" in text:
        yield from (("secret", match.start(), match.end()) for match in _PEM.finditer(text))
    if "@" in text and "://" in text:
        yield from (("secret", match.start("user"), match.end("password")) for match in _URL.finditer(text))
    for word in _PASSWORD if "pass" in lower else _PASSWORD[4:]:
        yield from _assigned(text, lower, word, _password)
    for word in _STRONG:
        yield from _assigned(text, lower, word, _random)
    if "bearer" in lower or "authorization" in lower:
        yield from _authorized(text, lower)


def named(key: str, value: str) -> bool:
    """Whether a whole text, which may hold signs that end a value in prose, is a secret by what it is called."""
    lower = key[:LONGEST_NAME].lower()
    if not 4 <= len(value) <= 256 or any(map(str.isspace, value)):
        return False
    return (any(word in lower for word in _PASSWORD) and _password(value)) or (
        any(word in lower for word in _STRONG) and _random(value)
    )


def _authorized(text: str, lower: str) -> Iterator[Span]:
    for match in _AUTHORIZATION.finditer(lower):
        if (value := _CREDENTIAL.match(text, match.end())) and (_random(value[0]) or match[0][0] != "b"):
            yield "secret", value.start(), value.end()


def _assigned(text: str, lower: str, word: str, check: Callable[[str], bool]) -> Iterator[Span]:
    """Values after `word:`, `word=`, `word is` and the like."""
    at = lower.find(word)
    while at >= 0:
        if (said := _IS.match(lower, at + len(word))) and (value := _VALUE.match(text, said.end())):
            end = value.end() - (value[0][-1] in ".!?:" and len(value[0]) > 8)
            inner = lower[value.start() : end]
            if f"{word}:" not in inner and f"{word}=" not in inner and check(text[value.start() : end]):
                yield "secret", value.start(), end
        at = lower.find(word, at + 1)


def _password(value: str) -> bool:
    """No plain word, which prose has there too: it has a digit, a sign or a capital in its midst."""
    if len(value) < 4 or "\ufffc" in value or _NO_VALUE.fullmatch(value):
        return False
    odd = any(char.isdigit() or char in "!@#$%^&*+=|~?" for char in value[:-1]) or value[-1].isdigit()
    return odd or (value[1:] != value[1:].lower() and value != value.upper())


def _random(value: str) -> bool:
    """At least 12 characters, letters and digits among them, of 3 bits each (Shannon) or more."""
    if len(value) < 12 or _NO_VALUE.fullmatch(value) or value.isalpha() or not any(map(str.isalpha, value)):
        return False
    counts = Counter(value).values()
    bits = -sum([count / len(value) * log2(count / len(value)) for count in counts])
    return bits >= 3.0 and any(map(str.isdigit, value))
