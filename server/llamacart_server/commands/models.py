"""`llamacart models`: the model ids of a server that runs, or of one that would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from llamacart.commands.terminal import plain_console
from llamacart_server.commands.remote import Remote
from llamacart_server.settings import CONFIG_VARIABLE, load_settings


def models(
    url: Annotated[
        str | None, typer.Argument(help="Address of a running server. Without it: the files.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="GGUF file, 'demo' or hf:<owner>/<repo>/<file>.")
    ] = None,
    cartridges: Annotated[
        str | None, typer.Option(help="Folder of cartridges, or a store as for `serve`.")
    ] = None,
    force: Annotated[
        bool | None, typer.Option("--force", help="Accept cartridges made for other weights.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(envvar=CONFIG_VARIABLE, help="TOML file with settings.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAMACART_API_KEY", help="Key of the server.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the model ids that a running server has, or that `serve` would have."""
    if url is not None:
        rows = [_row(card) for card in Remote(url, api_key).models()]
    else:
        rows = _from_files(config, model=model, cartridges=cartridges, force=force)
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("model id", "alpha", "hash", "description")
    for row in rows:
        alpha = "" if row["alpha"] is None else f"{row['alpha']:g}"
        table.add_row(row["id"], alpha, row["hash"] or "", row["description"] or "")
    plain_console().print(table)


def _row(card: dict[str, Any]) -> dict[str, Any]:
    cartridge = card["cartridges"][0] if card["cartridges"] else {}
    return {"id": card["id"], **{k: cartridge.get(k) for k in ("alpha", "hash", "description")}}


def _from_files(config: Path | None, **given: Any) -> list[dict[str, Any]]:
    from llamacart.llama.model import Model
    from llamacart_server.library.library import CartridgeLibrary
    from llamacart_server.library.source import cartridges_cache, open_source
    from llamacart_server.served import slug

    settings = load_settings(config, **given)
    with Model(settings.model, gpu_layers=0) as model:
        base = slug(model.name)
        library = CartridgeLibrary()
        if settings.cartridges is not None:
            source = open_source(settings.cartridges, cartridges_cache(), settings.max_upload_bytes)
            library = CartridgeLibrary.from_source(
                source, model.fingerprint, force=settings.force, strict=settings.strict
            )
    for left in library.left_out:
        typer.echo(f"{left.file} is left out: {left.reason}", err=True)
    rows: list[dict[str, Any]] = [{"id": base, "alpha": None, "hash": None, "description": None}]
    for cartridge in library:
        rows.append(
            {
                "id": f"{base}:{cartridge.name}",
                "alpha": cartridge.metadata.default_alpha,
                "hash": cartridge.content_hash,
                "description": cartridge.metadata.description,
            }
        )
    return rows
