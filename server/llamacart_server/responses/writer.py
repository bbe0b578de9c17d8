"""Writes an answer as items of a response, and the events that tell how they come about."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacart_server.answers.doses import TokenDose
from llamacart_server.bodies.answers import Telemetry
from llamacart_server.constraints.tools import ToolReader
from llamacart_server.responses.objects import (
    ArgumentsDelta,
    ArgumentsDone,
    ErrorEvent,
    IncompleteDetails,
    ItemEvent,
    OutputCall,
    OutputMessage,
    OutputText,
    PartEvent,
    ResponseEvent,
    ResponseFailure,
    ResponseUsage,
    TextDelta,
    TextDone,
)

if TYPE_CHECKING:
    from llamacart.errors import LlamacartError
    from llamacart.values.tokenizer import Tokenizer
    from llamacart_server.answers.answer import Piece
    from llamacart_server.bodies.answers import Usage
    from llamacart_server.responses.objects import (
        ItemStatus,
        OutputItem,
        ResponseObject,
        StreamedEvent,
    )


@dataclass
class _OpenItem:
    """The item that is being written: as it began, and its text or arguments so far."""

    begun: OutputItem
    text: str = ""

    def ended(self, status: ItemStatus) -> OutputItem:
        if isinstance(self.begun, OutputCall):
            return self.begun.model_copy(update={"status": status, "arguments": self.text})
        content = [OutputText(text=self.text)]
        return self.begun.model_copy(update={"status": status, "content": content})


class ResponseWriter:
    """Turns the pieces of one answer into a response, and says what happened at each.

    Args:
        response: What is known before the first piece.
        tokenizer: For the names of tokens.
        has_tools: Whether the answer may hold calls.

    Attributes:
        response: As it stands; complete after `finish` or `fail`.
    """

    def __init__(self, response: ResponseObject, tokenizer: Tokenizer, *, has_tools: bool) -> None:
        self.response = response
        self._reader = ToolReader() if has_tools else None
        self._open: _OpenItem | None = None
        self._held = ""
        self._tokenizer = tokenizer
        self._doses: list[TokenDose] = []
        self._last: Piece | None = None
        self._n_events = 0

    def begin(self) -> list[StreamedEvent]:
        """The events before the first piece."""
        return [
            ResponseEvent(type=kind, sequence_number=self._number(), response=self.response)
            for kind in ("response.created", "response.in_progress")
        ]

    def push(self, piece: Piece) -> list[StreamedEvent]:
        """Add a piece; returns the events that it makes."""
        self._last = piece
        self._doses += TokenDose.list_of(piece.doses, self._tokenizer)
        if self._reader is None:
            return self._say(piece.text)
        content, parts = self._reader.push(piece.text)
        events = self._say(content)
        for part in parts:
            if part.name is not None:
                events += self._close("completed") + self._begin_call(part.name)
            events += self._argue(part.arguments)
        if self._is_call and not self._reader.in_arguments:
            events += self._close("completed")
        return events

    def finish(self, usage: Usage) -> list[StreamedEvent]:
        """The events after the last piece."""
        is_cut = self._last is not None and self._last.finish_reason == "length"
        events = self._say(self._reader.finish()) if self._reader else []
        if not self.response.output and self._open is None:
            events += self._begin_message() + self._add_text(self._held)
        events += self._close("incomplete" if is_cut or self._is_call else "completed")
        self._set(
            status="incomplete" if is_cut else "completed",
            completed_at=None if is_cut else int(time.time()),
            incomplete_details=IncompleteDetails() if is_cut else None,
            usage=ResponseUsage.of(usage),
            telemetry=Telemetry.of(self._last.report if self._last else None, self._doses),
        )
        kind = "response.incomplete" if is_cut else "response.completed"
        event = ResponseEvent(type=kind, sequence_number=self._number(), response=self.response)
        return [*events, event]

    def fail(self, error: LlamacartError) -> list[StreamedEvent]:
        """The events that end an answer which cannot go on."""
        events = self._close("incomplete")
        self._set(status="failed", error=ResponseFailure(message=error.message))
        failed = ResponseEvent(
            type="response.failed", sequence_number=self._number(), response=self.response
        )
        return [*events, failed, ErrorEvent.of(error, self._number())]

    # --- messages ---------------------------------------------------------------------------

    def _say(self, content: str) -> list[StreamedEvent]:
        if not content:
            return []
        if self._open is not None:
            return self._add_text(content)
        self._held += content
        # Models like to write a line break before a call, which is no message.
        if self._reader is not None and not self._held.strip():
            return []
        content, self._held = self._held, ""
        return self._begin_message() + self._add_text(content)

    def _begin_message(self) -> list[StreamedEvent]:
        message = OutputMessage(id=f"msg_{uuid.uuid4().hex}")
        events = self._add(message)
        part = PartEvent(
            type="response.content_part.added",
            sequence_number=self._number(),
            **self._place(message),
            part=OutputText(),
        )
        return [*events, part]

    def _add_text(self, text: str) -> list[StreamedEvent]:
        if self._open is None or not text:
            return []
        self._open.text += text
        place = self._place(self._open.begun)
        return [TextDelta(sequence_number=self._number(), **place, delta=text)]

    # --- calls ------------------------------------------------------------------------------

    @property
    def _is_call(self) -> bool:
        return self._open is not None and isinstance(self._open.begun, OutputCall)

    def _begin_call(self, name: str) -> list[StreamedEvent]:
        unique = uuid.uuid4().hex
        return self._add(OutputCall(id=f"fc_{unique}", call_id=f"call_{unique[:24]}", name=name))

    def _argue(self, arguments: str) -> list[StreamedEvent]:
        if self._open is None or not arguments:
            return []
        self._open.text += arguments
        place = self._place(self._open.begun)
        return [ArgumentsDelta(sequence_number=self._number(), **place, delta=arguments)]

    # --- both -------------------------------------------------------------------------------

    def _add(self, item: OutputItem) -> list[StreamedEvent]:
        self._open = _OpenItem(item)
        index = len(self.response.output)
        added = ItemEvent(
            type="response.output_item.added",
            sequence_number=self._number(),
            output_index=index,
            item=item,
        )
        return [added]

    def _close(self, status: ItemStatus) -> list[StreamedEvent]:
        if self._open is None:
            return []
        item = self._open.ended(status)
        place = self._place(item)
        events: list[StreamedEvent] = []
        if isinstance(item, OutputCall):
            events.append(
                ArgumentsDone(
                    sequence_number=self._number(),
                    **place,
                    name=item.name,
                    arguments=item.arguments,
                )
            )
        else:
            (part,) = item.content
            events += [
                TextDone(sequence_number=self._number(), **place, text=part.text),
                PartEvent(
                    type="response.content_part.done",
                    sequence_number=self._number(),
                    **place,
                    part=part,
                ),
            ]
        events.append(
            ItemEvent(
                type="response.output_item.done",
                sequence_number=self._number(),
                output_index=len(self.response.output),
                item=item,
            )
        )
        self._set(output=[*self.response.output, item])
        self._open = None
        return events

    def _place(self, item: OutputItem) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": len(self.response.output)}

    def _set(self, **fields: object) -> None:
        # A copy: events that were returned go on showing what was true then.
        self.response = self.response.model_copy(update=fields)

    def _number(self) -> int:
        self._n_events += 1
        return self._n_events - 1
