"""`llamacart distill --page`: what differs from a prompt that is distilled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llamacart.errors import InputError
from llamacart_trainer.commands.new import own_form

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.commands.progress import Progress
    from llamacart_trainer.distilling.page import Page
    from llamacart_trainer.distilling.wish import Given, Questions
    from llamacart_trainer.recipe.recipe import Task
    from llamacart_trainer.recipe.turns import Exchange


def read_page(path: Path, when: Sequence[str]) -> tuple[str, Page]:
    """A page's text, and what it says.

    Raises:
        InputError: It says nothing, or not what it names.
        RecipeError: The file cannot be read.
    """
    from llamacart_trainer.distilling.page import Page
    from llamacart_trainer.recipe.lines import read_file

    text = read_file(path).strip()
    return text, Page.of(text, when)


class PageWork:
    """Questions about a page, their answers, and what became of them.

    Args:
        page: The page.
        given: A person's questions; None lets the model write them.
        threads: Threads for compute.
        model: The model.
        progress: Shows how far it is.
    """

    def __init__(
        self,
        page: Page,
        given: Given | None,
        threads: int | None,
        model: Model,
        progress: Progress,
    ) -> None:
        from llamacart_trainer.recipe.recipe import Recipe
        from llamacart_trainer.recipe.writer import writer_for

        self._page, self._given, self._threads = page, given, threads
        self._model, self._progress = model, progress
        self._writer = writer_for(Recipe(name="page", format=own_form(model)), model)
        self._known: dict[str, str] = {}

    @property
    def when(self) -> tuple[str, ...]:
        """See `Work`."""
        return self._page.names

    def questions(self, folder: Path) -> Questions:
        """See `Work`.

        Raises:
            InputError: There are too few that can be used.
        """
        from llamacart_trainer.distilling.wish import Given, Questions

        if self._given is not None:
            usable = self.usable(self._given.messages)
            return Questions.own(self._given._replace(messages=usable))
        return questions_of(folder) or Questions.own(Given(self.written(), "the page"))

    def usable(self, given: Sequence[str]) -> list[str]:
        """The questions that name something that the cartridge waits for."""
        named = [text for text in given if self._page.about(text)]
        if len(named) < len(given):
            names = ", ".join(self._page.names)
            self._progress.tell(
                f"{len(given) - len(named)} of {len(given)} questions name none of {names}, and "
                "are left out"
            )
        return named

    def written(self) -> list[str]:
        """Questions that the model writes about the page.

        One is kept if the model takes the sentence that it was written about for its answer.

        Raises:
            InputError: The model has no chat form, in which it could be asked.
        """
        from llamacart_trainer.distilling.page import answer_by_sentences
        from llamacart_trainer.distilling.questions import (
            QUESTION_TOKENS,
            asked_for,
            questions_in,
        )
        from llamacart_trainer.fitting.answers import QUESTIONS_AT_ONCE, answer

        if not self._model.chat_template:
            raise InputError("a model without a chat template writes no questions: --questions")
        lists = asked_for(self._page)
        parts = [
            own[start : start + QUESTIONS_AT_ONCE]
            for own in lists
            for start in range(0, len(own), QUESTIONS_AT_ONCE)
        ]
        self._progress.stage("questions", unit="text", total=sum(map(len, parts)))
        about: list[tuple[str, str]] = []
        for part in parts:
            texts = answer(
                self._model,
                self._writer,
                [turns for turns, _ in part],
                QUESTION_TOKENS,
                n_threads=self._threads,
                on_part=self._progress.within,
            )
            about += [(one, own.text) for (_, one), own in zip(part, texts, strict=True)]
            self._progress.advance(len(part))
        found = questions_in(self._page, about)
        tied = answer_by_sentences(
            self._page, self._model, self._writer, list(found), n_threads=self._threads
        )
        kept = {each.prompt: each.text for each in tied if each.text == found[each.prompt]}
        self._known |= kept
        self._progress.tell(f"the model wrote {len(kept)} different questions")
        return list(kept)

    def answered(self, messages: Sequence[str]) -> list[Exchange]:
        """Questions with the sentences that answer them."""
        from llamacart_trainer.distilling.page import answer_by_sentences
        from llamacart_trainer.recipe.turns import Exchange

        new = [text for text in messages if text not in self._known]
        if new:
            self._progress.stage("answers", unit="answer", total=len(new))
            found = answer_by_sentences(
                self._page, self._model, self._writer, new, n_threads=self._threads
            )
            self._known |= {each.prompt: each.text for each in found}
            self._progress.advance(len(new))
        return [Exchange(text, self._known[text]) for text in messages]

    def answers(self, task: Task, folder: Path) -> tuple[Exchange, ...]:
        """The sentences that answer questions, as the folder of the recipe keeps them."""
        from llamacart_trainer.distilling.wish import ANSWERS
        from llamacart_trainer.recipe.distilled import write_answers
        from llamacart_trainer.recipe.turns import read_exchanges

        if (folder / ANSWERS).is_file():
            return read_exchanges(folder / ANSWERS)
        answers = tuple(self.answered(() if task.prompt is None else task.prompt.questions))
        write_answers(answers, folder / ANSWERS)
        return answers

    def measured(
        self, task: Task, cartridge: Cartridge, questions: Questions, alpha: float | None
    ) -> tuple[Cartridge, str]:
        """The cartridge at the α that the held-out questions choose, and a sentence.

        It says what the cartridge answers of them: each half at the α that the other one chooses.
        """
        from llamacart_trainer.distilling.page_figures import ALPHAS, Choice, PageJudge

        halves = [self.answered(own) for own in (questions.validation, questions.test)]
        before = () if task.prompt is None else task.prompt.turns
        judge = PageJudge(self._page, before, self._model, self._writer, self._threads)
        strengths = ALPHAS if alpha is None else ()
        self._progress.stage("measure", unit="point", total=3 + len(strengths))
        on_point = self._progress.advance
        if alpha is None:
            choice = judge.choose(cartridge, strengths, halves, on_point)
        else:
            choice = Choice.given(alpha)
        found = judge.measure(cartridge, choice, halves, on_point)
        metadata = replace(cartridge.metadata, default_alpha=choice.alpha)
        return replace(cartridge, metadata=metadata), found.sentence


def questions_of(folder: Path) -> Questions | None:
    """Those of an earlier run; None where there was none.

    Raises:
        RecipeError: A file of them cannot be read.
    """
    from llamacart_trainer.distilling.wish import RECIPE, Questions
    from llamacart_trainer.recipe.questions import read_questions

    if not (folder / RECIPE).is_file():
        return None
    files = ("questions.jsonl", "validation.jsonl", "prompts.jsonl")
    return Questions(*(read_questions(folder / name) for name in files))
