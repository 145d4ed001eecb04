"""The prompt of an answer from documents: what changes in a chat, and what does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.types import Request
from gateway.documents.prompt import MOST_QUESTION_CHARS, SHORT_WORDS, instructions, question_of, with_sources
from policies.signals import texts_of
from rag.context import INSTRUCTIONS

TOLD = "Answer only from the documents."
PARTS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=20)),
        st.just({"type": "image_url", "image_url": {"url": "data:,x"}}),
    ),
    min_size=1,
    max_size=3,
)
CONTENT = st.one_of(st.text(max_size=30), PARTS)
MESSAGE = st.one_of(
    st.builds(
        lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "developer"]), CONTENT
    ),
    st.builds(lambda content: {"role": "user", "content": content, "name": "jo"}, CONTENT),
    st.builds(lambda content: {"role": "assistant", "content": content, "tool_calls": []}, st.text(max_size=30)),
    st.builds(lambda content: {"role": "tool", "tool_call_id": "c", "content": content}, st.text(max_size=30)),
)
CHAT = st.lists(MESSAGE, min_size=1, max_size=5)
BLOCKS = st.lists(st.text(min_size=1, max_size=20).map(lambda text: f"<document>\n{text}\n</document>"), max_size=3)


def request(messages, **fields):
    """As a route makes it: a developer's role in the word that templates know, parts of text as one."""
    told = [
        {**message, "role": "system" if message["role"] == "developer" else message["role"], "content": _flat(message)}
        for message in messages
    ]
    return Request("r", "m", "chat", messages=tuple(told), raw={"model": "m", "messages": messages, "n": 1}, **fields)


def _flat(message):
    content = message["content"]
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "\n".join(part["text"] for part in content)


def _whole(content):
    return "\n\n".join(str(part.get("text", part)) for part in parts_of(content))


def parts_of(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


@given(CHAT, BLOCKS)
def test_nothing_but_the_system_and_the_users_last_words_changes(messages, blocks):
    before = request(messages)
    after = with_sources(before, TOLD, blocks)
    assert before == request(messages)
    assert {key: value for key, value in after.raw.items() if key != "messages"} == {"model": "m", "n": 1}
    for was, now in ((before.raw["messages"], after.raw["messages"]), (before.messages, after.messages)):
        led = was[0]["role"] in ("system", "developer")
        rest_was, rest_now = (list(was[1:]), list(now[1:])) if led else (list(was), list(now[1:]))
        assert now[0]["role"] == (was[0]["role"] if led else "system")
        assert _whole(now[0]["content"]) == "\n\n".join([*([_whole(was[0]["content"])] if led else []), TOLD])
        users = [at for at, message in enumerate(rest_was) if message["role"] == "user"]
        for at, (one, other) in enumerate(zip(rest_was, rest_now, strict=True)):
            if not users or at != users[-1] or not blocks:
                assert one == other
            else:
                assert {**one, "content": None} == {**other, "content": None}


@given(CHAT, BLOCKS)
def test_each_source_is_a_part_of_its_own_before_the_question(messages, blocks):
    after = with_sources(request(messages), TOLD, blocks)
    users = [message for message in after.raw["messages"] if message["role"] == "user"]
    given_ = [message for message in messages if message["role"] == "user"]
    if users and blocks:
        parts = users[-1]["content"]
        assert parts[: len(blocks)] == [{"type": "text", "text": block} for block in blocks]
        assert parts[len(blocks) :] == parts_of(given_[-1]["content"])
        assert set(blocks) <= set(texts_of(after).retrieved)
    # Whoever judges texts takes none of them for the user's, nor our own words for the developer's.
    told = texts_of(after).user
    assert TOLD not in "".join(told)
    if not set(blocks) & {part.get("text") for message in given_ for part in parts_of(message["content"])}:
        assert not set(blocks) & set(told)


@given(st.lists(st.text(max_size=30), max_size=3), BLOCKS)
def test_a_local_template_gets_one_text(texts, blocks):
    messages = [{"role": "user", "content": text} for text in texts] or [{"role": "user", "content": "x"}]
    after = with_sources(request(messages), TOLD, blocks)
    assert all(isinstance(message["content"], str) for message in after.messages)
    assert after.messages[-1]["content"] == "\n\n".join([*blocks, messages[-1]["content"]])


@given(CHAT)
def test_the_question_is_the_users_own(messages):
    question = question_of(request(messages))
    said = [_words(message) for message in messages if message["role"] == "user"]
    said = [text for text in said if text]
    if not said:
        assert question == ""
        return
    assert question.endswith(said[-1])
    if len(said[-1].split()) >= SHORT_WORDS or len(said) == 1:
        assert question == said[-1]
    else:
        assert question == f"{said[-2]}\n{said[-1]}"


def _words(message):
    return "\n".join(part["text"] for part in parts_of(message["content"]) if "text" in part).strip()


def test_a_long_question_is_its_end():
    question = question_of(request([{"role": "user", "content": "x" * 5000 + " Which gasket seals the pump?"}]))
    assert len(question) == MOST_QUESTION_CHARS
    assert question.endswith(" Which gasket seals the pump?")


def test_what_the_system_says():
    plain = request([{"role": "user", "content": "x"}])
    able = request([{"role": "user", "content": "x"}], tools=({"type": "function"},))
    never = request([{"role": "user", "content": "x"}], tools=({"type": "function"},), tool_choice="none")
    found = instructions(plain, "Nothing there.", found=True)
    assert found == INSTRUCTIONS
    assert "Nothing there." not in found, "a search has found that they say it"
    assert instructions(never, "Nothing there.", found=True) == found
    assert instructions(able, "Nothing there.", found=True).startswith(f"{found}\n")
    silent = instructions(plain, "", found=False)
    assert "do not say it" in silent
    assert instructions(able, "Nothing there.", found=False).startswith(f"{silent}\n")
    assert instructions(able, "Nothing there.", found=False).endswith(": Nothing there.")
