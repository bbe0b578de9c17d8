"""`llamacart distill`."""

from __future__ import annotations

import shlex
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from llamacart.cartridge import check_alpha
from llamacart.commands.options import (
    FlashAttentionOption,
    GpuLayersOption,
    NiceOption,
    ThreadsOption,
)
from llamacart.commands.terminal import plain_console, tells
from llamacart.errors import InputError
from llamacart.machine.priority import LOWEST
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart_trainer.commands.distill_page import PageWork, read_page
from llamacart_trainer.commands.distill_prompt import PARTIAL, PromptWork, read_prompt
from llamacart_trainer.commands.new import absolute, cartridge_name, own_form
from llamacart_trainer.commands.options import take_turns
from llamacart_trainer.commands.outputs import beside, check_outputs, save_cartridge
from llamacart_trainer.commands.progress import Progress, clock_time, load_model
from llamacart_trainer.commands.train import fit_with_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.distilling.wish import Questions
    from llamacart_trainer.recipe.recipe import Task
    from llamacart_trainer.recipe.turns import Exchange, Turn


class Work(Protocol):
    """What is done of a prompt or of a page."""

    @property
    def when(self) -> tuple[str, ...]:
        """What the cartridge is to wait for."""
        ...

    def questions(self, folder: Path) -> Questions:
        """User messages to learn from, to choose α by and to measure on.

        Args:
            folder: Of the recipe; it may hold those of an earlier run.
        """
        ...

    def answers(self, task: Task, folder: Path) -> tuple[Exchange, ...]:
        """What is learnt, as the folder of the recipe keeps it.

        Raises:
            InputError: There is none.
        """
        ...

    def measured(
        self, task: Task, cartridge: Cartridge, questions: Questions, alpha: float | None
    ) -> tuple[Cartridge, str]:
        """The cartridge at its α, chosen where none is given, and how good it is in a sentence."""
        ...


def _folder(output: Path, keep: Path | None) -> Path:
    return beside(output, "").with_name(f"{output.stem}-recipe") if keep is None else keep


def _job(output: Path) -> Path:
    return beside(output, ".job")


def _what_stays(given: Mapping[str, Any]) -> str:
    from llamacart_trainer.distilling.wish import ANSWERS
    from llamacart_trainer.drafting.kept import count_kept
    from llamacart_trainer.fitting.job import kept

    output: Path = given["output"]
    folder = _folder(output, given["keep"])
    if not folder.is_dir():
        return "nothing is kept; the same command begins anew"
    if _job(output).is_dir():
        return kept(_job(output)).replace(", with --restart it starts over", "")
    whole = (folder / ANSWERS).is_file()
    answers = "the answers" if whole else f"{count_kept(folder / PARTIAL)} answers"
    return f"{answers} are kept in {str(folder)!r}; the same command goes on from there"


@tells(_what_stays, full_disk=True)
def distill(
    wish: Annotated[
        str | None, typer.Argument(help="What you want, as a system text says it.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Cartridge to write.")] = Path(
        "distilled.gguf"
    ),
    model: Annotated[
        str, typer.Option(help="GGUF file, 'demo' or hf:<owner>/<repo>/<file>.")
    ] = "demo",
    prompt: Annotated[
        Path | None, typer.Option(help="The wish in a text file, however long.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="A page of facts. Each question is answered by the sentence that says it, and "
            "nothing changes but what names something on the page."
        ),
    ] = None,
    when: Annotated[
        list[str] | None,
        typer.Option(
            help="With --page, what questions name; may be given several times. Default: the "
            "names that stand in several sentences."
        ),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help='Example turns, a line {"role": …, "content": …} each (JSONL).'),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help='Messages such as your users write, a line {"prompt": …} each. Default: '
            "the trainer's own, in English; with --page, the model writes them."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the cartridge. Default: the output's.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Strength of a request that names none. Default: chosen.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder of the recipe. Default: <output>-recipe, beside the output."),
    ] = None,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
    threads: ThreadsOption = None,
    nice: NiceOption = LOWEST,
    max_memory: Annotated[
        float | None, typer.Option(help="GiB for activations. Default: half of the memory.")
    ] = None,
) -> None:
    """Turn a prompt into a cartridge that does the same without it, and say how near it comes."""
    # Every `llamacart` command imports this module; only this one needs llama.cpp and SciPy.
    from llamacart_trainer.distilling.wish import Given, Questions, Wish, finish_wish, write_wish
    from llamacart_trainer.fitting.job import remove_job
    from llamacart_trainer.recipe.questions import read_questions
    from llamacart_trainer.recipe.recipe import load_task

    folder = _folder(output, keep)
    if alpha is not None:
        check_alpha(alpha)
    facts = None
    turns: tuple[Turn, ...] = ()
    if page is None:
        if when:
            raise InputError(f"--when has value {when[0]!r}, which has no meaning without --page")
        system, turns = read_prompt(wish, prompt, examples)
    else:
        if (wish, prompt, examples) != (None, None, None):
            raise InputError("--page goes with no wish, --prompt or --examples; keep one")
        system, facts = read_page(page, when or ())
    own = None
    if questions is not None:
        own = Given(read_questions(questions), f"--questions {questions}")
    messages = Questions.own(own) if own else Questions.shipped()
    begin: Callable[[Model, Progress], Work] = partial(PromptWork, messages, threads)
    if facts is not None:
        begin = partial(PageWork, facts, own, threads)
    cartridge = cartridge_name(Path(name or output.stem))
    check_outputs({"--output": output}, {"--keep": folder})
    console = plain_console()
    take_turns(console, nice)
    started = time.perf_counter()
    with (
        Progress(console) as progress,
        load_model(model, gpu_layers, flash_attention, progress, batch_invariant=False) as loaded,
    ):
        work = begin(loaded, progress)
        messages = work.questions(folder)
        made = Wish(
            name=cartridge,
            model=absolute(model),
            form=own_form(loaded),
            system=system,
            examples=turns,
            questions=messages,
            alpha=alpha,
            when=work.when,
        )
        write_wish(made, folder)
        task = load_task(folder)
        task = task.with_answers(work.answers(task, folder))
        settings = {
            "max_memory": None if max_memory is None else int(max_memory * 2**30),
            "n_threads": threads,
            "job": _job(output),
        }
        result = fit_with_progress(task, loaded, progress, settings)
        done, sentence = work.measured(task, result.cartridge, messages, alpha)
    chosen = done.metadata.default_alpha
    finish_wish(made, folder, chosen)
    size = save_cartridge(done, output)
    remove_job(_job(output))
    console.print(sentence, soft_wrap=True, highlight=False)
    console.print(
        f"{output}: {size / 1e6:.2f} MB, α = {chosen:g}, after "
        f"{clock_time(time.perf_counter() - started)} min; its recipe: {folder}",
        soft_wrap=True,
    )
    serve = ("llamacart", "serve", "--model", model, "--cartridges", str(output.parent))
    console.print(f"  {shlex.join(serve)}", soft_wrap=True, highlight=False)
