"""An e-mail: who wrote to whom and when, what it says, and what was attached."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart

from rag.extract.builder import Builder, squeeze
from rag.extract.decoding import decode
from rag.extract.source import Source
from rag.types import Extracted

_FIELDS = ("From", "To", "Cc", "Date")
_MOST_FIELD_CHARS = 2000
_MOST_ATTACHMENTS = 200


def warm() -> None:
    """Load the library for messages in HTML."""
    from rag.extract import html

    html.warm()


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    message = message_from_bytes(source.data(), policy=policy.default)
    builder = source.builder("email")
    subject = _field(message, "Subject")
    builder.title = subject
    builder.heading(1, subject)
    for name in _FIELDS:
        value = _field(message, name)
        if value:
            builder.row(f"{name}: {value}")
    builder.gap()
    _write_body(builder, message)
    _write_attachments(builder, message)
    return builder.finish()


def _field(message: EmailMessage, name: str) -> str:
    try:
        return squeeze(str(message.get(name) or ""))[:_MOST_FIELD_CHARS]
    except Exception:  # noqa: BLE001 - the library's parser of headers raises anything for a malformed one
        return squeeze(str(dict(message.raw_items()).get(name, "")))[:_MOST_FIELD_CHARS]


def _write_body(builder: Builder, message: EmailMessage) -> None:
    """The plain text; the HTML where there is none."""
    from rag.extract.html import write_html

    plain = message.get_body(("plain",))
    text = _content(plain) if plain is not None else ""
    if text.strip():
        builder.paragraph(text.strip("\n"))
        return
    page = message.get_body(("html",))
    if page is not None:
        builder.gap()
        write_html(builder, _content(page))


def _content(part: MIMEPart) -> str:
    payload = part.get_payload(decode=True)
    return decode(payload, part.get_content_charset()) if isinstance(payload, bytes) else ""


def _write_attachments(builder: Builder, message: EmailMessage) -> None:
    names: list[str] = []
    for part in message.iter_attachments():
        if len(names) == _MOST_ATTACHMENTS:
            break
        payload = part.get_payload(decode=True)
        size = f", {len(payload):,} bytes" if isinstance(payload, bytes) else ""
        names.append(f"{squeeze(part.get_filename() or 'without a name')} ({part.get_content_type()}{size})")
    if names:
        builder.gap()
        builder.line("Attachments:")
        for name in names:
            builder.row(f"- {re.sub(r'[<>]', '', name)}")
        builder.notes.append(f"Attachments are named and not read ({len(names)}). Send them as files of their own.")
