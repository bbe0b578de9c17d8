"""The one command, `llamacart`: gathers the subcommands of the installed packages."""

from __future__ import annotations

import functools
import json
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from llamacart import __version__
from llamacart.commands.terminal import plain_console, run
from llamacart.errors import LlamacartError
from llamacart.file.reader import read_cartridge
from llamacart.matrix import FactoredMatrix

if TYPE_CHECKING:
    from collections.abc import Mapping


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llamacart {__version__}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    pass


def inspect(
    file: Annotated[Path, typer.Argument(help="A cartridge file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Validate a cartridge file and show what it holds."""
    summary = _summary(file)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    console = plain_console()
    facts = Table.grid(padding=(0, 2))
    for key, value in summary.items():
        if key not in ("layers", "diagnostics"):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            facts.add_row(key, shown)
    console.print(facts)
    console.print(layer_table(summary["layers"]))
    measured = summary["diagnostics"].get("evaluation")
    if isinstance(measured, dict):
        console.print(evaluation_table(measured))


def layer_table(rows: list[dict[str, Any]]) -> Table:
    """A table of one row a layer; columns are the keys of the rows that hold one value each."""
    rows = [{k: v for k, v in row.items() if not isinstance(v, list | tuple)} for row in rows]
    table = Table()
    for key in rows[0] if rows else ():
        table.add_column(key, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    return table


def evaluation_table(measured: Mapping[str, Any]) -> Table:
    """What an evaluation has found; FORMAT.md lists the keys, any of which may be otherwise."""
    told = [f"{key.replace('_', ' ')}: {measured[key]}" for key in _TOLD if measured.get(key)]
    table = Table(title="evaluation", caption="\n".join(told))
    sides = {
        f"α {measured.get('alpha')}": measured.get("test"),
        "unsteered": measured.get("unsteered"),
    }
    there = {name: side for name, side in sides.items() if isinstance(side, dict)}
    for heading in ("figure", *there):
        table.add_column(heading)
    for name in dict.fromkeys(name for side in there.values() for name in side):
        table.add_row(name, *(_estimate(side.get(name)) for side in there.values()))
    return table


_TOLD = ("recipe", "behaviour", "objective", "tested_on", "chosen_on", "created")


def _estimate(value: object) -> str:
    """A figure with its interval; anything else as it is."""
    if (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, int | float) for v in value)
    ):
        return "{:.3f} [{:.3f}, {:.3f}]".format(*value)
    return "" if value is None else str(value)


def _summary(file: Path) -> dict[str, Any]:
    cartridge = read_cartridge(file)
    metadata, base = cartridge.metadata, cartridge.fingerprint
    deltas = [m.delta for m in cartridge.layers]
    return {
        "name": metadata.name,
        "description": metadata.description,
        "base model": str(base),
        "site": cartridge.site,
        "default alpha": metadata.default_alpha,
        "waits for": list(cartridge.when),
        "solver": metadata.solver,
        "settings": dict(metadata.settings),
        "data set": metadata.dataset_hash,
        "created": metadata.created,
        "tool version": metadata.tool_version,
        "content hash": cartridge.content_hash,
        "active neurons": cartridge.n_active,
        "ranks": sorted({d.rank for d in deltas if isinstance(d, FactoredMatrix)}),
        "file bytes": file.stat().st_size,
        "diagnostics": dict(metadata.diagnostics),
        "layers": metadata.diagnostics.get("layers")
        or [{"layer": m.layer, "kept": len(m.neurons)} for m in cartridge.layers],
    }


def build_app() -> typer.Typer:
    """The command line with the core's commands and those of the installed packages."""
    app = typer.Typer(
        name="llamacart",
        help="Knowledge and style cartridges for llama.cpp: train, inspect, serve.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    app.command("inspect")(inspect)
    for point in sorted(entry_points(group="llamacart.commands"), key=lambda p: p.name):
        app.command(point.name)(_load(point))
    return app


def _load(point: EntryPoint) -> Any:
    """The entry point's command, or what says why there is none.

    A command that is there may find only when it runs that its extra is not installed.
    """
    try:
        function = point.load()
    except ImportError as error:
        return _missing(point, error)

    @functools.wraps(function)
    def command(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except ModuleNotFoundError as error:
            if not point.extras or (error.name or "").startswith("llamacart"):
                raise  # a fault of the program
            raise _refusal(point, error) from error

    return command


def _missing(point: EntryPoint, reason: ImportError) -> Any:
    """What stands for a command that cannot be imported."""

    def command() -> None:
        raise _refusal(point, reason)

    command.__doc__ = f"(needs {_extras(point)})" if point.extras else f"(broken: {reason})"
    return command


def _refusal(point: EntryPoint, reason: ImportError) -> LlamacartError:
    """Names the extras that the entry point names, in the package that brings it."""
    if not point.extras:
        return LlamacartError(f"'llamacart {point.name}' cannot be loaded: {reason}")
    package = point.dist.name if point.dist else "llamacart"
    return LlamacartError(
        f"'llamacart {point.name}' needs {_extras(point)}: "
        f"pip install '{package}[{','.join(point.extras)}]' ({reason})"
    )


def _extras(point: EntryPoint) -> str:
    noun = "extra" if len(point.extras) == 1 else "extras"
    return f"the {','.join(point.extras)} {noun}"


def main() -> None:
    """Run the command; see `terminal.run` for what becomes of errors."""
    run(lambda: build_app()())
