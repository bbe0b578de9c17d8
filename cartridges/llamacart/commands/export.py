"""`llamacart export`: a cartridge as an adapter that other engines load."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamacart.cartridge import check_alpha, check_fits
from llamacart.cli import layer_table
from llamacart.commands.options import GpuLayersOption, ThreadsOption
from llamacart.commands.terminal import plain_console
from llamacart.disk.whole import check_folder, check_target
from llamacart.errors import InputError
from llamacart.export.adapter import check_travels
from llamacart.export.check import Agreement, compare
from llamacart.export.control import directions_of
from llamacart.export.exporting import choose_texts, make_adapter
from llamacart.export.folders import (
    LAYERS_AT,
    VLLM_RANKS,
    vllm_rank,
    write_mlx,
    write_peft,
)
from llamacart.export.gguf_files import write_control_vector, write_lora
from llamacart.file.reader import read_cartridge
from llamacart.llama.model import Model
from llamacart.llama.resolve import DEMO
from llamacart.machine.processors import ALL_LAYERS
from llamacart.passes.control_vector import ControlDose, ControlVector
from llamacart.passes.lora import LoraAdapter
from llamacart.values.steering import Dose

if TYPE_CHECKING:
    from llamacart.cartridge import Cartridge
    from llamacart.export.adapter import Adapter
    from llamacart.export.exporting import Texts

Format = Literal["gguf-lora", "peft", "mlx", "cvec"]
StoredAs = Literal["f16", "f32", "q8_0"]

MAX_RANK = 1024


def export(
    file: Annotated[Path, typer.Argument(help="A cartridge file.")],
    to: Annotated[
        Format,
        typer.Option(
            help="gguf-lora (llama.cpp --lora), peft (PEFT, vLLM), mlx (mlx-lm) or cvec (llama.cpp "
            "--control-vector)."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; a folder for peft and mlx.")
    ],
    alpha: Annotated[
        float | None, typer.Option(help="Strength that is baked in. Default: the cartridge's.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_RANK,
            help="Cut to this rank. Default: the cartridge's; for peft and mlx the next of "
            f"vLLM's ({', '.join(map(str, VLLM_RANKS))}).",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="GGUF file, 'demo' or hf:<owner>/<repo>/<file>.")
    ] = DEMO,
    stored: Annotated[
        StoredAs, typer.Option("--type", help="How matrices are stored; q8_0 for gguf-lora.")
    ] = "f16",
    no_bias: Annotated[
        bool, typer.Option("--no-bias", help="Leave the bias out, in place of folding it in.")
    ] = False,
    layers_at: Annotated[
        str, typer.Option("--path", help="Path of the layers in the other engine's model.")
    ] = LAYERS_AT,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Beginnings of texts to fold the bias on, one a line or JSON Lines. Default: the "
            "model draws some."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="The same to measure on. Default: a third of the others.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run the adapter beside the cartridge and compare.")
    ] = False,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Export what a cartridge waits for as always said.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Accept other weights of the same shape.")
    ] = False,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a cartridge as a LoRA or control vector for other engines, and say what is lost."""
    if stored == "q8_0" and to != "gguf-lora":
        raise InputError("--type has value 'q8_0'; only --to gguf-lora can be stored so")
    folder = to in ("peft", "mlx")
    (check_folder if folder else check_target)(output, "--output")
    cartridge = read_cartridge(file)
    check_travels(cartridge, everywhere=everywhere)
    cartridge = replace(cartridge, when=())
    strength = cartridge.metadata.default_alpha if alpha is None else check_alpha(alpha)
    if not cartridge.layers or strength == 0:
        raise InputError(f"cartridge {cartridge.name!r} does nothing at alpha {strength:g}")
    openings = None if texts is None else _lines(texts, "--texts")
    asked = None if prompts is None else _lines(prompts, "--prompts")
    dose = Dose(cartridge, strength)
    with Model(model, gpu_layers=gpu_layers, batch_invariant=False) as loaded:
        check_fits(cartridge, loaded.fingerprint, force=force)

        def drawn() -> Texts:
            return choose_texts(loaded, dose, given=openings, prompts=asked, n_threads=threads)

        report: dict[str, Any] = {"cartridge": cartridge.name, "to": to, "alpha": strength}
        if to == "cvec":
            directions = directions_of(cartridge, loaded, strength)
            size = write_control_vector(directions, loaded.architecture, output)
            if check:
                vector = ControlDose(ControlVector(directions), 1.0)
                report["check"] = asdict(compare(loaded, dose, vector, drawn(), n_threads=threads))
        else:
            chosen = drawn()
            adapter, residuals = make_adapter(
                loaded,
                dose,
                chosen,
                rank=_rank(cartridge) if folder and rank is None else rank,
                uniform=folder,
                fold=not no_bias,
                n_threads=threads,
            )
            size = _write(adapter, to, output, stored, layers_at)
            report |= {"rank": adapter.rank, "layers": [asdict(r) for r in residuals]}
            if check:
                found = _measured(loaded, dose, adapter, chosen, stored, threads)
                report["check"] = asdict(found)
    report |= {"output": str(output), "bytes": size}
    _tell(report, as_json=as_json)


def _rank(cartridge: Cartridge) -> int:
    """The rank of a folder that all layers share."""
    return vllm_rank(max(len(m.neurons) if m.delta else 1 for m in cartridge.layers))


def _write(adapter: Adapter, to: Format, output: Path, stored: StoredAs, layers_at: str) -> int:
    if to == "gguf-lora":
        return write_lora(adapter, output, stored)
    write = write_peft if to == "peft" else write_mlx
    return write(adapter, output, kind=stored, layers_at=layers_at)


def _measured(
    model: Model,
    dose: Dose,
    adapter: Adapter,
    texts: Texts,
    stored: StoredAs,
    threads: int | None,
) -> Agreement:
    """What the matrices do in llama.cpp; those of a folder are the same ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.gguf"
        write_lora(adapter, path, stored)
        with LoraAdapter(model, path) as lora:
            return compare(model, dose, lora, texts, n_threads=threads)


def _lines(path: Path, option: str) -> list[str]:
    """Texts of a file: a line each, or the first text of each line's JSON object."""
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option} has value {str(path)!r}: cannot be read ({reason})") from error
    found = [_text(line) for line in lines]
    if not found:
        raise InputError(f"{option} has value {str(path)!r}: no text is in it")
    return found


def _text(line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return line
    if isinstance(value, dict):
        return next((own for own in value.values() if isinstance(own, str)), line)
    return value if isinstance(value, str) else line


def _tell(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    console = plain_console()
    if report.get("layers"):
        console.print(layer_table(report["layers"]))
    for line in _told(report):
        console.print(line, highlight=False, soft_wrap=True)


def _told(report: dict[str, Any]) -> list[str]:
    rank = f", rank {report['rank']}" if "rank" in report else ""
    what = f"{report['to']} of {report['cartridge']} at alpha {report['alpha']:g}{rank}"
    lines = [f"{report['output']}: {what}, {report['bytes'] / 1e6:.2f} MB"]
    if report["to"] == "peft" and report["rank"] not in VLLM_RANKS:
        lines.append(f"vLLM takes ranks {', '.join(map(str, VLLM_RANKS))}; others load it")
    if report["to"] in ("peft", "mlx"):
        lines.append(
            "engines skip names that they do not know without a word: llamacart verify-export URL "
            f"--model {report['cartridge']} says whether it acts"
        )
    check = report.get("check")
    if check:
        lines.append(
            f"KL to the cartridge {check['kl']:.4f} nats a token ({check['kl_unsteered']:.4f} "
            f"without an adapter); {check['equal']} of {check['prompts']} greedy texts are equal, "
            f"{check['tokens']:.2f} of their tokens before the first other one"
        )
    else:
        lines.append("--check compares it with the cartridge on texts")
    return lines
