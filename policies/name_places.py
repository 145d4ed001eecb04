"""Which strings of a body may hold names: all, but for the few that the wire knows by their exact place. Pure.

A field that we do not know travels to providers like any other, so its name says nothing of what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from policies.detect_body import is_media, said_in

WORDS = frozenset(
    "system user assistant tool developer function custom text image_url input_audio video_url audio_url file refusal "
    "input_text input_image input_file output_text json_schema json_object grammar string number integer boolean array "
    "object null date time date-time duration email uri uuid hostname ipv4 ipv6 wav mp3 flac opus aac pcm16 base64 "
    "float auto none required any minimal low medium high xhigh original default flex priority list query document "
    "only_local prefer_local prefer_remote only_remote".split()
)
"""Of the wire itself; nobody is called so, wherever they stand."""

ID = re.compile(r"[\w.:/@+#-]+")
URL = re.compile(r"https?://\S+|data:[\w.+/;=-]{0,200};base64,[A-Za-z0-9+/_-]*={0,2}")
DATA = re.compile(r"(?:data:[\w.+/;=-]{0,200};base64,)?[A-Za-z0-9+/_-]{16,}={0,2}")
REF = re.compile(r"#[\w/$.~%-]*")
PLACES: Mapping[re.Pattern[str], str] = {
    ID: "model models[] messages[].tool_call_id messages[].tool_calls[].id messages[].tool_calls[].function.name "
    "messages[].tool_calls[].custom.name messages[].function_call.name messages[].content[].file.file_id "
    "tools[].name tools[].function.name tools[].custom.name functions[].name function_call.name tool_choice.name "
    "tool_choice.function.name tool_choice.custom.name response_format.json_schema.name",
    URL: "messages[].content[].image_url messages[].content[].image_url.url messages[].content[].video_url.url "
    "messages[].content[].audio_url.url input.image input[].image",
    DATA: "messages[].content[].input_audio.data messages[].content[].file.file_data",
}
"""Where what has that form holds no words. What has another form there is searched."""
EACH = "[]"
SCHEMAS = frozenset({"tools", "functions", "response_format"})


class Place(NamedTuple):
    """A place of a body that lies on the way to some of `PLACES`; `holds`: the form, where it is one of them."""

    holds: re.Pattern[str] | None
    below: Mapping[str, Place]


def _tree(paths: list[tuple[list[str], re.Pattern[str]]]) -> Place:
    """`paths`: the steps that are left to each place."""
    holds = next((form for steps, form in paths if not steps), None)
    steps = {steps[0] for steps, _ in paths if steps}
    return Place(
        holds, {step: _tree([(rest[1:], form) for rest, form in paths if rest[:1] == [step]]) for step in steps}
    )


ELSEWHERE = Place(None, {})
ROOT = _tree(
    [(path.replace(EACH, f".{EACH}").split("."), form) for form, all_ in PLACES.items() for path in all_.split()]
)
MESSAGE = ROOT.below["messages"].below[EACH]
OF_A_TOOL = Place(None, {**MESSAGE.below, "name": Place(ID, {})})
REFERENCE = Place(REF, {})


def strings_in(raw: Mapping[str, Any]) -> Iterator[str]:
    """Every string of a body that may hold a name, as it stands there; names of fields are none.

    Raises:
        TypeError: the body is no JSON; what is not looked into must not pass for clean.
    """
    waiting: list[tuple[Any, Place, bool, bool]] = [(raw, ROOT, False, False)]
    while waiting:
        value, place, schema, media = waiting.pop()
        if isinstance(value, str):
            if value not in WORDS and not (place.holds and place.holds.fullmatch(value)):
                yield from (said.text for said in said_in(value, set(), media))
        elif isinstance(value, dict):
            media = media or is_media(value)
            if place is MESSAGE and value.get("role") in ("tool", "function"):
                place = OF_A_TOOL
            for name, item in value.items():
                below = place.below.get(name, ELSEWHERE) if name != EACH else ELSEWHERE
                below = REFERENCE if schema and name == "$ref" else below
                waiting.append((item, below, schema or (place is ROOT and name in SCHEMAS), media))
        elif isinstance(value, list | tuple):
            below = place.below.get(EACH, ELSEWHERE)
            waiting.extend((item, below, schema, media) for item in value)
        elif value is not None and not isinstance(value, bool | int | float):
            raise TypeError(f"no JSON: {type(value).__name__}")
