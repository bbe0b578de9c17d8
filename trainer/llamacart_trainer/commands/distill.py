"""`llamacart distill`."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacart.cartridge import check_alpha
from llamacart.commands.options import (
    FlashAttentionOption,
    GpuLayersOption,
    NiceOption,
    ThreadsOption,
)
from llamacart.commands.terminal import plain_console, tells
from llamacart.errors import InputError, RecipeError
from llamacart.machine.priority import LOWEST
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart_trainer.commands.distill_page import PageWork, questions_of, read_page
from llamacart_trainer.commands.new import absolute, cartridge_name
from llamacart_trainer.commands.options import take_turns
from llamacart_trainer.commands.outputs import beside, check_outputs, save_cartridge
from llamacart_trainer.commands.progress import Progress, clock_time, load_model
from llamacart_trainer.commands.train import fit_with_progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.recipe import Task
    from llamacart_trainer.recipe.turns import Exchange, Turn
    from llamacart_trainer.starters.kinds import Form

PARTIAL = "answers.partial.jsonl"
"""Answers as they come, in the recipe's folder; `answers.jsonl` has them when all are there."""


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
    from llamacart_trainer.distilling.wish import Questions, Wish, finish_wish, write_wish
    from llamacart_trainer.fitting.job import remove_job
    from llamacart_trainer.recipe.questions import read_questions
    from llamacart_trainer.recipe.recipe import Recipe, load_task
    from llamacart_trainer.recipe.writer import writer_for

    folder = _folder(output, keep)
    if alpha is not None:
        check_alpha(alpha)
    facts = None
    if page is None:
        if when:
            raise InputError(f"--when has value {when[0]!r}, which has no meaning without --page")
        system, turns = _prompt_of(wish, prompt, examples)
    else:
        if (wish, prompt, examples) != (None, None, None):
            raise InputError("--page goes with no wish, --prompt or --examples; keep one")
        system, facts = read_page(page, when or ())
        turns = ()
    own = None if questions is None else read_questions(questions)
    where = f"--questions {questions}"
    messages = Questions.shipped() if own is None else Questions.own(own, where)
    cartridge = cartridge_name(Path(name or output.stem))
    check_outputs({"--output": output}, {"--keep": folder})
    console = plain_console()
    take_turns(console, nice)
    started = time.perf_counter()
    with (
        Progress(console) as progress,
        load_model(model, gpu_layers, flash_attention, progress, batch_invariant=False) as loaded,
    ):
        form: Form = "chat" if loaded.chat_template else "text"
        work = None
        if facts is not None:
            writer = writer_for(Recipe(name=cartridge, format=form), loaded)
            work = PageWork(facts, loaded, writer, progress, threads)
            if own is not None:
                messages = Questions.own(work.usable(own), where)
            else:
                messages = questions_of(folder) or Questions.own(work.written(), "the page")
        made = Wish(
            name=cartridge,
            model=absolute(model),
            form=form,
            system=system,
            examples=turns,
            questions=messages,
            alpha=alpha,
            when=() if facts is None else facts.names,
        )
        write_wish(made, folder)
        task = load_task(folder)
        if work is None:
            task = task.with_answers(_answers(task, loaded, progress, folder, threads))
        else:
            task = task.with_answers(work.kept_answers(messages.train, folder))
        settings = {
            "max_memory": None if max_memory is None else int(max_memory * 2**30),
            "n_threads": threads,
            "job": _job(output),
        }
        result = fit_with_progress(task, loaded, progress, settings)
        if work is None:
            done, sentence = _measured(task, loaded, result.cartridge, alpha, progress, threads)
        else:
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


def _prompt_of(
    wish: str | None, prompt: Path | None, examples: Path | None
) -> tuple[str | None, tuple[Turn, ...]]:
    """The system text and the turns that are to be distilled.

    Raises:
        InputError: There is none, or the system text is given twice.
        RecipeError: A file cannot be used.
    """
    from llamacart_trainer.recipe.distilled import distilled_prompt
    from llamacart_trainer.recipe.lines import read_file
    from llamacart_trainer.recipe.turns import read_turns

    if wish is not None and prompt is not None:
        raise InputError("the wish is given as an argument and by --prompt; keep one")
    system = wish if prompt is None else read_file(prompt)
    if system is not None and not system.strip():
        raise InputError(f"{'the wish' if prompt is None else repr(str(prompt))} has no text")
    if system is None and examples is None:
        raise InputError("distill needs a wish, --prompt FILE or --examples FILE")
    turns = () if examples is None else read_turns(examples)
    system = None if system is None else system.strip()
    distilled_prompt(system, turns, ["?"])  # refuses what cannot be a prompt
    return system, turns


def _answers(
    task: Task, model: Model, progress: Progress, folder: Path, threads: int | None
) -> tuple[Exchange, ...]:
    """The model's answers behind the prompt, those of an earlier run among them."""
    from llamacart_trainer.distilling.wish import ANSWERS
    from llamacart_trainer.drafting.asking import ask
    from llamacart_trainer.recipe.distilled import write_answers
    from llamacart_trainer.recipe.turns import read_exchanges
    from llamacart_trainer.recipe.writer import writer_for

    if (folder / ANSWERS).is_file():
        return read_exchanges(folder / ANSWERS)
    if task.prompt is None:
        raise RecipeError(f"recipe {task.recipe.name!r} distils no prompt")
    asked = task.prompt.questions

    def on_start(found: int) -> None:
        progress.stage("answers", unit="answer", total=len(asked), done=found)

    given = ask(
        model,
        writer_for(task.recipe, model),
        task.prompt.turns,
        asked,
        task.recipe.answer_tokens,
        folder / PARTIAL,
        n_threads=threads,
        on_start=on_start,
        on_answers=progress.advance,
        on_part=progress.within,
    )
    # A null character is in no text that a file of answers may hold.
    answers = tuple(a for a in given if a.text.strip() and "\0" not in a.text)
    empty = len(given) - len(answers)
    if not answers:
        raise InputError(f"the model answers none of {len(given)} messages behind the prompt")
    if empty:
        progress.tell(f"{empty} of {len(given)} answers hold no text, and are left out")
    write_answers(answers, folder / ANSWERS)
    (folder / PARTIAL).unlink()
    return answers


def _measured(
    task: Task,
    model: Model,
    cartridge: Cartridge,
    alpha: float | None,
    progress: Progress,
    threads: int | None,
) -> tuple[Cartridge, str]:
    """The cartridge at the α that was chosen, with the figures, and those in a sentence."""
    from llamacart_trainer.evaluation.prompts.quick import ALPHAS, quick_evaluation
    from llamacart_trainer.report.stored import with_evaluation

    strengths = ALPHAS if alpha is None else (alpha,)
    # The model, the prompt and the cartridge at its α, after all α beside the prompt.
    choosing = 1 + len(strengths) if len(strengths) > 1 else 0
    progress.stage("measure", unit="point", total=3 + choosing)
    found = quick_evaluation(
        task,
        model,
        cartridge,
        strengths,
        on_point=lambda _point: progress.advance(),
        on_part=progress.part,
        n_threads=threads,
    )
    (facts,) = found.evaluation.cartridges
    figures = with_evaluation(cartridge, found.evaluation, facts.name)
    metadata = replace(cartridge.metadata, default_alpha=found.alpha, diagnostics=figures)
    return replace(cartridge, metadata=metadata), found.sentence
