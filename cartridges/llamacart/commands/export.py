"""`llamacart export`: a cartridge as an adapter that other engines load."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamacart.cartridge import check_alpha, check_fits
from llamacart.cli import layer_table
from llamacart.commands.options import FlashAttentionOption, GpuLayersOption, ThreadsOption
from llamacart.commands.terminal import plain_console
from llamacart.disk.whole import check_folder, check_target
from llamacart.errors import InputError
from llamacart.export.adapter import check_travels, own_rank
from llamacart.export.check import compare
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
from llamacart.machine.tiles import take_tiles
from llamacart.passes.control_vector import ControlDose, ControlVector
from llamacart.passes.lora import LoraAdapter
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart.values.steering import Dose

if TYPE_CHECKING:
    from llamacart.cartridge import Cartridge
    from llamacart.export.adapter import Adapter
    from llamacart.export.exporting import Texts
    from llamacart.passes.control_vector import Control

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
    max_memory: Annotated[
        float | None,
        typer.Option(
            help="GiB for rows of the texts. Default: half of the memory that this process may "
            "use. If they need more, texts run once for each few layers."
        ),
    ] = None,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
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
    wanted = _Wanted(
        Dose(cartridge, strength),
        to,
        output,
        stored,
        layers_at,
        _rank(cartridge) if folder and rank is None else rank,
        fold=not no_bias,
        check=check,
        threads=threads,
        max_memory=None if max_memory is None else int(max_memory * 2**30),
        given=None if texts is None else _lines(texts, "--texts"),
        prompts=None if prompts is None else _lines(prompts, "--prompts"),
    )
    report: dict[str, Any] = {"cartridge": cartridge.name, "to": to, "alpha": strength}
    take_tiles()
    with Model(
        model, gpu_layers=gpu_layers, flash_attention=flash_attention, batch_invariant=False
    ) as loaded:
        check_fits(cartridge, loaded.fingerprint, force=force)
        report |= (_control_vector if to == "cvec" else _lora)(loaded, wanted)
    _tell(report | {"output": str(output)}, as_json=as_json)


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, checked."""

    dose: Dose
    to: Format
    output: Path
    stored: StoredAs
    layers_at: str
    rank: int | None
    fold: bool
    check: bool
    threads: int | None
    max_memory: int | None
    given: list[str] | None
    prompts: list[str] | None

    def texts(self, model: Model) -> Texts:
        """Those to fit and measure on."""
        _say("the steered model writes texts to fold the bias and to measure on")
        return choose_texts(
            model, self.dose, given=self.given, prompts=self.prompts, n_threads=self.threads
        )

    def compared(self, model: Model, control: Control, texts: Texts) -> dict[str, Any]:
        """What the adapter does beside the cartridge."""
        _say("the adapter runs beside the cartridge")
        return asdict(compare(model, self.dose, control, texts, n_threads=self.threads))


def _control_vector(model: Model, wanted: _Wanted) -> dict[str, Any]:
    directions = directions_of(wanted.dose.cartridge, model, wanted.dose.alpha)
    report: dict[str, Any] = {
        "bytes": write_control_vector(directions, model.architecture, wanted.output)
    }
    if wanted.check:
        vector = ControlDose(ControlVector(directions), 1.0)
        report["check"] = wanted.compared(model, vector, wanted.texts(model))
    return report


def _lora(model: Model, wanted: _Wanted) -> dict[str, Any]:
    texts = wanted.texts(model)
    _say("layers are fitted")
    adapter, residuals = make_adapter(
        model,
        wanted.dose,
        texts,
        rank=wanted.rank,
        uniform=wanted.to != "gguf-lora",
        fold=wanted.fold,
        max_memory=wanted.max_memory,
        n_threads=wanted.threads,
    )
    report = {
        "rank": adapter.rank,
        "layers": [asdict(residual) for residual in residuals],
        "bytes": _write(adapter, wanted),
    }
    if wanted.check:
        # The matrices of a folder are the same ones.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.gguf"
            write_lora(adapter, path, wanted.stored)
            with LoraAdapter(model, path) as lora:
                report["check"] = wanted.compared(model, lora, texts)
    return report


def _rank(cartridge: Cartridge) -> int:
    """The rank of a folder that all layers share."""
    return vllm_rank(max(map(own_rank, cartridge.layers)))


def _write(adapter: Adapter, wanted: _Wanted) -> int:
    if wanted.to == "gguf-lora":
        return write_lora(adapter, wanted.output, wanted.stored)
    write = write_peft if wanted.to == "peft" else write_mlx
    return write(adapter, wanted.output, kind=wanted.stored, layers_at=wanted.layers_at)


def _say(line: str) -> None:
    """What goes on, for who waits."""
    typer.echo(f"{line} …", err=True)


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
