"""From a task's texts to the token sequences that run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llamacart.errors import RecipeError
from llamacart.passes.generate import greedy
from llamacart.values.mentions import acting_rows
from llamacart.values.steering import UNSTEERED
from llamacart_trainer.fitting.alignment import align
from llamacart_trainer.fitting.answers import answer
from llamacart_trainer.fitting.facts.neighbours import find_kinds, find_neighbours
from llamacart_trainer.fitting.facts.phrasings import find_phrasings
from llamacart_trainer.fitting.facts.samples import FactSamples, as_message, as_text
from llamacart_trainer.fitting.job import NO_JOB
from llamacart_trainer.fitting.rows.conversations import ConversationSamples
from llamacart_trainer.fitting.rows.emphasis import emphasise
from llamacart_trainer.fitting.rows.endings import stress_end
from llamacart_trainer.recipe.names import builtin_names, builtin_phrasings
from llamacart_trainer.recipe.pairing import PAIRINGS, TIES, PairedRows, check_suffix, neutral_text
from llamacart_trainer.recipe.writer import writer_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamacart.llama.model import Model
    from llamacart.values.steering import Steering
    from llamacart_trainer.fitting.answers import OnAnswers, OnPart
    from llamacart_trainer.fitting.job import Job, NoJob
    from llamacart_trainer.recipe.distilled import DistilledPrompt
    from llamacart_trainer.recipe.recipe import Task
    from llamacart_trainer.recipe.turns import Exchange
    from llamacart_trainer.recipe.writer import Writer

    Tokens = tuple[int, ...]


LEAST_ANSWERS = 2
"""Fewer show nothing that answers have in common."""


@dataclass(frozen=True)
class SampleBuilder:
    """Pairs the rows of a task's texts.

    Attributes:
        task: Recipe, pairs, neutral texts.
        model: Tokenises, continues texts, and tells which rows are alike.
        n_threads: Threads for compute.
        job: Keeps the model's answers, and knows those of before.
        on_answers: Called as the model answers; see `answer`.
        on_part: Likewise.
    """

    task: Task
    model: Model
    n_threads: int | None = None
    job: Job | NoJob = NO_JOB
    on_answers: OnAnswers = lambda _done, _total: None
    on_part: OnPart = lambda _part: None

    @property
    def regenerates(self) -> bool:
        """Whether what the cascade has fitted changes the samples (`capture = "faithful"`)."""
        return self.task.recipe.capture == "faithful" and any(self._source_counts)

    def build(self, steering: Steering = UNSTEERED) -> list[PairedRows]:
        """Every pairing of every pair, one pair after the other, then what is neutral.

        Args:
            steering: What acts while sources are continued; targets are always the model's own.

        Raises:
            RecipeError: A pair does not suit a pairing, or the model answers next to nothing.
            InputError: The model's chat template refuses the turns.
        """
        task = self.task
        if task.prompt is not None:
            answers = _spoken(self.answers, task.recipe.name)
            groups = self._of_answers(task.prompt, answers)
        elif task.facts:
            groups = list(self.facts.groups)
        elif task.chats:
            groups = list(self._conversations.of_pairs(task.chats, task.recipe.pairing))
        else:
            groups = self._of_texts(steering)
        groups += [[neutral_text(self.model.tokenize, text)] for text in task.neutral]
        groups += [[self._conversations.of_neutral(own)] for own in task.neutral_chats]
        return [
            replace(sample, group=number) for number, group in enumerate(groups) for sample in group
        ]

    def _of_answers(
        self, prompt: DistilledPrompt, answers: Sequence[Exchange]
    ) -> list[list[PairedRows]]:
        """For each answer its samples, whose rows count by what they say."""
        groups = [self._conversations.of_answer(prompt, own) for own in answers]
        found = iter(
            emphasise(
                self.model,
                [sample for group in groups for sample in group],
                self.task.recipe.emphasis,
                n_threads=self.n_threads,
            )
        )
        return [
            [stress_end(own) if exchange.ended and not own.neutral else own for own in samples]
            for exchange, samples in zip(
                answers, ([next(found) for _ in group] for group in groups), strict=True
            )
        ]

    @cached_property
    def answers(self) -> tuple[Exchange, ...]:
        """What the model says behind the prompt of a recipe that distils one; some may be empty."""
        prompt = self.task.prompt
        if prompt is None:
            return ()
        known = prompt.answers if prompt.answers is not None else self.job.answers()
        if known is None:
            known = answer(
                self.model,
                self._writer,
                [prompt.asked(question) for question in prompt.questions],
                self.task.recipe.answer_tokens,
                n_threads=self.n_threads,
                on_answers=self.on_answers,
                on_part=self.on_part,
            )
            self.job.save_answers(known)
        return tuple(known)

    @cached_property
    def facts(self) -> FactSamples:
        """The samples of a recipe of facts, beside subjects that the model finds like theirs."""
        facts, recipe = self.task.facts, self.task.recipe
        chat = recipe.format == "chat"
        ask = as_message(self._writer) if chat else as_text(self.model.tokenize)
        subjects, names = [fact.subject for fact in facts], builtin_names()
        others: Sequence[Sequence[str]] = [()] * len(facts)
        if not self.task.when:  # else other subjects are never acted on
            others = find_neighbours(
                self.model,
                subjects,
                [name.text for name in names],
                2 * recipe.neighbours,  # asked of, and alone
                n_threads=self.n_threads,
            )
        kinds = find_kinds(self.model, subjects, names, n_threads=self.n_threads)
        known = builtin_phrasings()
        forms = [tuple(form for form in known if form.kind in own) for own in kinds]
        ways = find_phrasings(self.model, facts, forms, ask, n_threads=self.n_threads)
        return FactSamples.of(facts, others, ways, ask, self.model.token_bytes, self.acts)

    @cached_property
    def acts(self) -> Callable[[Tokens], Sequence[bool]] | None:
        """Whether the cartridge acts on each row of a text; None where it is fitted on all.

        Texts to fit on name their subjects, but not what else a recipe may have it wait for.
        """
        task = self.task
        if not task.facts or task.recipe.when is not None:
            return None
        return lambda text: acting_rows(text, task.when, self.model.token_bytes)

    @cached_property
    def _writer(self) -> Writer:
        return writer_for(self.task.recipe, self.model)

    @cached_property
    def _conversations(self) -> ConversationSamples:
        return ConversationSamples(self.model, self._writer, self.n_threads)

    def _of_texts(self, steering: Steering) -> list[list[PairedRows]]:
        """For each pair of raw texts its samples."""
        recipe, pairs = self.task.recipe, self.task.pairs
        lefts = self._grown_sources(steering)
        rights = self._grown_targets
        aligned: Iterator[PairedRows] = iter(())
        if "align" in recipe.pairing:
            aligned = align(
                self.model, list(zip(lefts, rights, strict=True)), n_threads=self.n_threads
            )
        groups = []
        for number, pair in enumerate(pairs):
            samples = []
            for name in recipe.pairing:
                if name == "align":
                    sample = next(aligned)
                elif name == "suffix":
                    sample = self._suffix(number)
                elif name in TIES:
                    sample = TIES[name](lefts[number], rights[number])
                else:
                    tokenize = self.model.tokenize
                    sample = PAIRINGS[name](tokenize, pair.source, pair.target, number)
                samples.append(sample)
            groups.append(samples)
        return groups

    def _suffix(self, number: int) -> PairedRows:
        """`suffix` with the target's continuation behind both texts."""
        pair = self.task.pairs[number]
        check_suffix(pair.source, pair.target, f"pair {number}")
        target = self._grown_targets[number]
        grown = target[len(self.model.tokenize(pair.target)) :]
        source = [*self.model.tokenize(pair.source), *grown]
        paired = TIES["suffix"](source, target)
        if len(paired.source_rows) <= len(grown):
            raise RecipeError(
                f"pair {number}: source {pair.source!r} and its target end in different tokens"
            )
        return paired

    @cached_property
    def _source_counts(self) -> list[int]:
        default = self.task.recipe.generate_source
        counts = (pair.source_tokens for pair in self.task.pairs)
        return [default if count is None else count for count in counts]

    def _grown_sources(self, steering: Steering) -> list[list[int]]:
        """Tokens of each source and its continuation."""
        texts = [self.model.tokenize(pair.source) for pair in self.task.pairs]
        return self._grow(texts, self._source_counts, steering)

    @cached_property
    def _grown_targets(self) -> list[list[int]]:
        """Tokens of each target and its continuation."""
        default = self.task.recipe.generate_target
        counts = (pair.target_tokens for pair in self.task.pairs)
        texts = [self.model.tokenize(pair.target) for pair in self.task.pairs]
        return self._grow(texts, [default if n is None else n for n in counts], UNSTEERED)

    def _grow(
        self, texts: list[list[int]], counts: Sequence[int], steering: Steering
    ) -> list[list[int]]:
        """Append greedy continuations; texts that occur twice are continued once."""
        if not any(counts):
            return texts
        wanted: dict[Tokens, int] = {}
        for text, count in zip(texts, counts, strict=True):
            wanted[tuple(text)] = max(count, wanted.get(tuple(text), 0))
        grown = greedy(
            self.model, list(wanted), list(wanted.values()), steering=steering,
            n_threads=self.n_threads,
        )  # fmt: skip
        more = dict(zip(wanted, grown, strict=True))
        return [
            [*text, *more[tuple(text)][:count]] for text, count in zip(texts, counts, strict=True)
        ]


def _spoken(answers: Sequence[Exchange], name: str) -> list[Exchange]:
    """Answers that say something, refused where they are too few to fit anything."""
    spoken = [exchange for exchange in answers if exchange.text.strip()]
    if len(spoken) < LEAST_ANSWERS:
        raise RecipeError(
            f"recipe {name!r}: the model answers {len(spoken)} of {len(answers)} questions behind "
            f"the prompt; {LEAST_ANSWERS} answers are needed"
        )
    return spoken
