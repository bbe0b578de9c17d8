"""Lets the model write a recipe's pairs, and puts what is good into the recipe's files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llamacart.disk.whole import write_whole
from llamacart.errors import InputError, RecipeError
from llamacart_trainer.drafting.asking import ask
from llamacart_trainer.drafting.rules import Draft, Sifted, sift
from llamacart_trainer.drafting.split import part_of
from llamacart_trainer.recipe.lines import read_file
from llamacart_trainer.recipe.questions import questions_named
from llamacart_trainer.recipe.turns import Turn, read_turns
from llamacart_trainer.recipe.writer import writer_for
from llamacart_trainer.starters.folder import records_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from llamacart.llama.model import Model
    from llamacart_trainer.drafting.split import Part
    from llamacart_trainer.evaluation.scorers import Scorer
    from llamacart_trainer.fitting.answers import OnPart
    from llamacart_trainer.recipe.draft import DraftSettings
    from llamacart_trainer.recipe.recipe import Recipe

AS_IS, AS_WANTED, DROPPED = "drafts.as-is.jsonl", "drafts.as-wanted.jsonl", "dropped.jsonl"
"""Files beside the recipe: all answers, and those that a rule has dropped."""


@dataclass
class Drafting:
    """Lets a model write a recipe's pairs.

    Args:
        recipe: The recipe; it has a `[draft]` table.
        folder: Its folder.
        model: The model.
        scorer: What is wanted; None where `[evaluation]` does not say.
        n_threads: Threads for llama.cpp.
        on_stage: Called with the name of a side, how many answers there will be and are there.
        on_answers: Called with the number of each batch of new answers.
        on_part: See `answer`.
    """

    recipe: Recipe
    folder: Path
    model: Model
    scorer: Scorer | None = None
    n_threads: int | None = None
    on_stage: Callable[[str, int, int], None] = lambda _name, _total, _found: None
    on_answers: Callable[[int], None] = lambda _count: None
    on_part: OnPart = lambda _part: None
    _settings: DraftSettings = field(init=False)

    def __post_init__(self) -> None:
        if self.recipe.draft is None:
            raise RecipeError(
                f"recipe {self.recipe.name!r} has no table [draft], which says what to write"
            )
        self._settings = self.recipe.draft

    def write(self) -> Sifted:
        """Write answers, put them to the rules, and write the recipe's files.

        Raises:
            RecipeError: A file of the recipe cannot be used, or no pair comes through the rules.
            InputError: The kept answers are of something else, or a file cannot be written.
        """
        messages = questions_of(self._settings, self.folder)
        sides = [
            self._ask(name, file, prompt, messages)
            for name, file, prompt in (
                ("answers as they are", AS_IS, self._settings.as_is),
                ("answers as wanted", AS_WANTED, self._settings.as_wanted),
            )
        ]
        drafts = [
            Draft(a.prompt, a.text, b.text, a.ended, b.ended) for a, b in zip(*sides, strict=True)
        ]
        found = sift(drafts, self._settings, self.model.tokenize, self.scorer)
        self._write(DROPPED, (_dropped(d, rule) for rule, ds in found.dropped.items() for d in ds))
        if not any(part_of(draft.prompt) == "train" for draft in found.kept):
            raise RecipeError(
                f"none of {len(drafts)} drafts is a pair: {told(found)}; "
                f"{str(self.folder / DROPPED)!r} has them"
            )
        for name, records in self._files(found.kept).items():
            self._write(name, records)
        return found

    def _ask(self, name: str, file: str, prompt: str, messages: Sequence[str]) -> Sequence[Any]:
        return ask(
            self.model,
            writer_for(self.recipe, self.model),
            turns_of(prompt, self.folder),
            messages,
            self._settings.tokens,
            self.folder / file,
            n_threads=self.n_threads,
            on_start=lambda found: self.on_stage(name, len(messages), found),
            on_answers=self.on_answers,
            on_part=self.on_part,
        )

    def _files(self, kept: Sequence[Draft]) -> dict[str, list[dict[str, str]]]:
        """Records of each of the recipe's files."""
        settings = self.recipe.evaluation

        def part(wanted: Part) -> list[Draft]:
            return [draft for draft in kept if part_of(draft.prompt) == wanted]

        return {
            self.recipe.train: [self._pair(draft) for draft in part("train")],
            self.recipe.heldout or "heldout.jsonl": [self._pair(d) for d in part("test")],
            self.recipe.prompts or "prompts.jsonl": [self._prompt(d) for d in part("test")],
            settings.validation or "validation.jsonl": [
                self._prompt(d) for d in part("validation")
            ],
        }

    def _pair(self, draft: Draft) -> dict[str, str]:
        if self.recipe.format == "chat":
            return {"prompt": draft.prompt, "source": draft.source, "target": draft.target}
        before = self._before(draft)
        return {"source": f"{before} {draft.source}", "target": f"{before} {draft.target}"}

    def _prompt(self, draft: Draft) -> dict[str, str]:
        return {"prompt": draft.prompt if self.recipe.format == "chat" else self._before(draft)}

    def _before(self, draft: Draft) -> str:
        """A raw text up to where the answer begins."""
        asked = self.recipe.user_turn.replace("{}", draft.prompt, 1)
        return asked + self.recipe.assistant_turn.partition("{}")[0].rstrip()

    def _write(self, name: str, records: Iterable[dict[str, str]]) -> None:
        try:
            write_whole(self.folder / name, records_text(records))
        except OSError as error:
            raise InputError(f"{str(self.folder / name)!r} cannot be written: {error}") from error


def turns_of(prompt: str, folder: Path) -> tuple[Turn, ...]:
    """Turns of a prompt as the table `[draft]` gives it.

    Raises:
        NotFoundError: It names a file that does not exist.
        RecipeError: The file cannot be used.
    """
    if not prompt.strip():
        return ()
    name = prompt.strip()
    if name.endswith((".txt", ".jsonl")) and len(name.split()) == 1:
        if name.endswith(".jsonl"):
            return read_turns(folder / name)
        text = read_file(folder / name).strip()
        if not text:
            raise RecipeError(f"{folder / name}: no text")
        return (Turn("system", text),)
    return (Turn("system", prompt),)


def questions_of(settings: DraftSettings, folder: Path) -> tuple[str, ...]:
    """The messages that are answered, each once."""
    return tuple(dict.fromkeys(questions_named(settings.questions, folder)))


def told(found: Sifted) -> str:
    """How many drafts were kept, and how many each rule has dropped; a clause for people."""
    dropped = [f"{len(drafts)} {rule}" for rule, drafts in found.dropped.items()]
    total = len(found.kept) + sum(map(len, found.dropped.values()))
    return f"{len(found.kept)} of {total} kept{''.join(f', {said}' for said in dropped)}"


def _dropped(draft: Draft, rule: str) -> dict[str, str]:
    return {"rule": rule, "prompt": draft.prompt, "source": draft.source, "target": draft.target}
