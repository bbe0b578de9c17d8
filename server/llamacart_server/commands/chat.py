"""`llamacart chat`: a chat in the terminal that changes cartridges between two lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacart.cartridge import check_alpha
from llamacart.commands.terminal import plain_console
from llamacart.errors import InputError, LlamacartError
from llamacart_server.commands.remote import DEFAULT_URL, Remote, RemoteError
from llamacart_server.commands.turns import read_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

HELP = """\
/use <cartridge> [alpha]   answer with a cartridge, at its own alpha or this one
/off                       answer without
/bare                      leave out the system message and the examples, or put them back
/reset                     forget the conversation
/help                      show this
/quit                      leave, as does the end of input"""


def chat(
    url: Annotated[str, typer.Argument(help="Address of a running server.")] = DEFAULT_URL,
    model: Annotated[
        str | None, typer.Option(help="Model id. Default: the server's base model.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            help='Turns before the conversation, a line {"role": …, "content": …} each (JSONL).'
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer. Default: the server's.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature. Default: the server's.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAMACART_API_KEY", help="Key of the server.")
    ] = None,
) -> None:
    """Chat with a running server; `/use french 0.8` swaps cartridges, `/help` shows more."""
    wishes = {"max_tokens": max_tokens, "temperature": temperature}
    turns = [] if examples is None else read_turns(examples)
    talk = Chat(
        Remote(url, api_key),
        plain_console(),
        model=model,
        system=system,
        examples=turns,
        wishes=wishes,
    )
    talk.run()


class Chat:
    """One conversation.

    Args:
        remote: Who answers.
        console: Where it is shown.
        model: Model id; None means the server's base model.
        system: System message.
        examples: Messages behind it, before the conversation.
        wishes: More fields of each request; those that are None are left out.

    Raises:
        RemoteError: The server cannot be asked what it serves.
    """

    def __init__(
        self,
        remote: Remote,
        console: Console,
        *,
        model: str | None = None,
        system: str | None = None,
        examples: Sequence[dict[str, str]] = (),
        wishes: dict[str, Any] | None = None,
    ) -> None:
        self._remote = remote
        self._console = console
        cards = remote.models()
        if not cards:
            raise RemoteError(f"{remote.url} serves no model")
        self._defaults = {c["id"]: c["default_alpha"] for m in cards for c in m["cartridges"]}
        base = next((card["id"] for card in cards if card["parent"] is None), cards[0]["id"])
        self._model = model or base
        self._opening = [{"role": "system", "content": system}] if system else []
        self._opening += examples
        self._bare = False
        self._wishes = {k: v for k, v in (wishes or {}).items() if v is not None}
        self._messages: list[dict[str, str]] = []
        # None leaves the choice to the model id.
        self._cartridges: list[dict[str, Any]] | None = None
        self._over = False
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "/use": self._use,
            "/off": self._off,
            "/bare": self._turn_bare,
            "/reset": self._reset,
            "/help": self._help,
            "/quit": self._quit,
        }

    def run(self) -> None:
        """Talk until somebody leaves."""
        there = ", ".join(self._defaults) or "none"
        self._say(f"{self._model}; cartridges: {there}; /help for help")
        while not self._over:
            try:
                line = self._console.input(f"{self._label} > ", markup=False).strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line:
                self.take(line)

    def take(self, line: str) -> None:
        """Do what a line says; what goes wrong is shown, and the conversation goes on."""
        try:
            if line.startswith("/"):
                name, *arguments = line.split()
                if name not in self._commands:
                    raise InputError(f"unknown command {name!r}; /help lists the commands")
                self._commands[name](arguments)
            else:
                self._answer(line)
        except LlamacartError as error:
            self._say(error.message, "red")

    @property
    def _label(self) -> str:
        if not self._cartridges:
            return self._model
        return "+".join(f"{c['id']}@{c['alpha']:g}" for c in self._cartridges)

    def _answer(self, line: str) -> None:
        question = {"role": "user", "content": line}
        before = [] if self._bare else self._opening
        messages = [*before, *self._messages, question]
        body: dict[str, Any] = {"model": self._model, "messages": messages, **self._wishes}
        if self._cartridges is not None:
            body["cartridges"] = self._cartridges
        text = ""
        try:
            for piece in self._remote.chat(body):
                text += piece
                self._console.print(piece, end="", highlight=False, soft_wrap=True, emoji=False)
        except KeyboardInterrupt:
            self._console.print(" …", end="")
        finally:
            self._console.print()
        self._messages += [question, {"role": "assistant", "content": text}]

    def _use(self, arguments: list[str]) -> None:
        if len(arguments) not in (1, 2):
            raise InputError("usage: /use <cartridge> [alpha]")
        name = arguments[0]
        if name not in self._defaults:
            there = ", ".join(map(repr, self._defaults)) or "none"
            raise InputError(f"no cartridge {name!r}; the server has {there}")
        if ":" in self._model.removeprefix("hf:"):
            raise InputError(f"model {self._model!r} already names cartridges; leave out --model")
        alpha = self._defaults[name]
        if len(arguments) == 2:
            try:
                alpha = float(arguments[1])
            except ValueError:
                raise InputError(f"alpha {arguments[1]!r} is not a number") from None
        self._cartridges = [{"id": name, "alpha": check_alpha(alpha)}]
        self._say(f"now with {self._label}")

    def _off(self, _arguments: list[str]) -> None:
        self._cartridges = []
        self._say("now without a cartridge")

    def _turn_bare(self, _arguments: list[str]) -> None:
        self._bare = not self._bare
        self._say(f"now {'without' if self._bare else 'with'} what stood before the conversation")

    def _reset(self, _arguments: list[str]) -> None:
        self._messages = []
        self._say("the conversation is forgotten")

    def _help(self, _arguments: list[str]) -> None:
        self._say(HELP)

    def _quit(self, _arguments: list[str]) -> None:
        self._over = True

    def _say(self, text: str, style: str = "dim") -> None:
        self._console.print(text, style=style, highlight=False)
