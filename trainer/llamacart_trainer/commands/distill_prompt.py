"""`llamacart distill` of a prompt: what the model answers behind it, and how near it comes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llamacart.errors import InputError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.commands.progress import Progress
    from llamacart_trainer.distilling.wish import Questions
    from llamacart_trainer.recipe.recipe import Task
    from llamacart_trainer.recipe.turns import Exchange, Turn

PARTIAL = "answers.partial.jsonl"
"""Answers as they come, in the recipe's folder; `answers.jsonl` has them when all are there."""


def read_prompt(
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


class PromptWork:
    """Messages that the model answers behind a prompt, and what became of them.

    Args:
        questions: The messages.
        threads: Threads for compute.
        model: The model.
        progress: Shows how far it is.
    """

    when: tuple[str, ...] = ()

    def __init__(
        self, questions: Questions, threads: int | None, model: Model, progress: Progress
    ) -> None:
        self._questions, self._threads = questions, threads
        self._model, self._progress = model, progress

    def questions(self, folder: Path) -> Questions:  # noqa: ARG002
        """See `Work`."""
        return self._questions

    def answers(self, task: Task, folder: Path) -> tuple[Exchange, ...]:
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
            self._progress.stage("answers", unit="answer", total=len(asked), done=found)

        given = ask(
            self._model,
            writer_for(task.recipe, self._model),
            task.prompt.turns,
            asked,
            task.recipe.answer_tokens,
            folder / PARTIAL,
            n_threads=self._threads,
            on_start=on_start,
            on_answers=self._progress.advance,
            on_part=self._progress.within,
        )
        # A null character is in no text that a file of answers may hold.
        answers = tuple(a for a in given if a.text.strip() and "\0" not in a.text)
        empty = len(given) - len(answers)
        if not answers:
            raise InputError(f"the model answers none of {len(given)} messages behind the prompt")
        if empty:
            self._progress.tell(f"{empty} of {len(given)} answers hold no text, and are left out")
        write_answers(answers, folder / ANSWERS)
        (folder / PARTIAL).unlink()
        return answers

    def measured(
        self,
        task: Task,
        cartridge: Cartridge,
        questions: Questions,  # noqa: ARG002
        alpha: float | None,
    ) -> tuple[Cartridge, str]:
        """The cartridge at the α that was chosen, with the figures, and those in a sentence."""
        from llamacart_trainer.evaluation.prompts.quick import ALPHAS, quick_evaluation
        from llamacart_trainer.report.stored import with_evaluation

        strengths = ALPHAS if alpha is None else (alpha,)
        # The model, the prompt and the cartridge at its α, after all α beside the prompt.
        choosing = 1 + len(strengths) if len(strengths) > 1 else 0
        self._progress.stage("measure", unit="point", total=3 + choosing)
        found = quick_evaluation(
            task,
            self._model,
            cartridge,
            strengths,
            on_point=lambda _point: self._progress.advance(),
            on_part=self._progress.part,
            n_threads=self._threads,
        )
        (facts,) = found.evaluation.cartridges
        figures = with_evaluation(cartridge, found.evaluation, facts.name)
        metadata = replace(cartridge.metadata, default_alpha=found.alpha, diagnostics=figures)
        return replace(cartridge, metadata=metadata), found.sentence
