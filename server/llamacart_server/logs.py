"""The log: one line a record, as text or as JSON, with the id of the request it is about."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Literal, TextIO

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is being answered; set by `RequestMiddleware`."""

FIELDS = "fields"
"""Attribute of a log record that holds its structured fields, given by `extra=fields(...)`."""

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Structured fields of a record, for `extra`."""
    return {FIELDS: values}


class TextFormatter(logging.Formatter):
    """`INFO:     [id] message key=value`; a message cannot begin a line or steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """One record; a traceback follows on lines of its own."""
        request_id = REQUEST_ID.get()
        parts = [f"{record.levelname + ':':<9}"]
        if request_id is not None:
            parts.append(f"[{request_id}]")
        parts.append(record.getMessage().translate(_ESCAPES))
        parts += (f"{k}={json.dumps(v)}" for k, v in getattr(record, FIELDS, {}).items())
        text = " ".join(parts)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, request_id, its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, on one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        body = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = REQUEST_ID.get()
        if request_id is not None:
            body["request_id"] = request_id
        body |= getattr(record, FIELDS, {})
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body)


def configure_logging(form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send the log of the process to `stream`, by default stderr.

    The server's records from INFO on are shown, all others from WARNING on.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("llamacart_server").setLevel(logging.INFO)
