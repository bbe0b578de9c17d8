"""A task from what a program holds, where `load_task` reads one from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llamacart.errors import RecipeError
from llamacart.values.near import did_you_mean
from llamacart_trainer.recipe.distilled import distilled_prompt
from llamacart_trainer.recipe.facts import Fact, check_facts
from llamacart_trainer.recipe.pairing import check_suffix
from llamacart_trainer.recipe.questions import builtin_questions
from llamacart_trainer.recipe.recipe import (
    BUILTIN,
    BUILTIN_ENGLISH,
    Recipe,
    Task,
    TextPair,
    builtin_neutral,
    left_alone,
)
from llamacart_trainer.recipe.turns import ChatPair, Exchange, Turn, check_same_answer, check_turns
from llamacart_trainer.recipe.validation import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def make_task(
    pairs: Iterable[TextPair | ChatPair | tuple[str, ...]],
    *,
    name: str,
    neutral: Iterable[str | Exchange] = (),
    **settings: Any,
) -> Task:
    """A recipe and its training data.

    Args:
        pairs: (source, target): a text in the model's own manner, and as it is wanted. With
            `format="chat"` (user's message, source, target), where both are answers to it, or
            `ChatPair` for longer conversations.
        name: Short id of the cartridge.
        neutral: Texts and answers that the cartridge is to leave alone, or `"builtin"` for the
            texts of `builtin_neutral`, or `"builtin-english"` for those and English prose.
        settings: Fields of `Recipe`, such as `penalty` or `pairing`.

    Raises:
        RecipeError: A setting does not exist or has a value out of range; there is no pair; or a
            text is empty or does not suit the pairing.
    """
    recipe, kept = _recipe(name, neutral, settings)
    if recipe.kind != "pairs":
        raise RecipeError(
            f"recipe {name!r}: kind has value {recipe.kind!r}; {recipe.kind}_task makes its task"
        )
    suffix = "suffix" in recipe.pairing
    if recipe.format == "chat":
        chats = tuple(_chat_pair(pair, f"pair {n}", suffix) for n, pair in enumerate(pairs))
        task = Task(recipe, chats=chats, **kept)
    else:
        texts = tuple(_text_pair(pair, f"pair {n}", suffix) for n, pair in enumerate(pairs))
        task = Task(recipe, texts, **kept)
    if not task.pairs and not task.chats:
        raise RecipeError(f"recipe {name!r} has no pairs")
    return task


def prompt_task(
    prompt: str | None = None,
    *,
    name: str,
    examples: Iterable[Turn | tuple[str, str]] = (),
    questions: Iterable[str] = BUILTIN,
    answers: Iterable[Exchange] | None = None,
    neutral: Iterable[str | Exchange] = BUILTIN_ENGLISH,
    **settings: Any,
) -> Task:
    """A task that distils a prompt: the model answers behind it, and is to do so without it.

    Args:
        prompt: A system text.
        name: Short id of the cartridge.
        examples: Turns behind it, or in its place; or (user's message, answer) tuples.
        questions: User messages that the model answers; `"builtin"` for `builtin_questions`.
        answers: The model's answers, where it has given them; then `questions` is not looked at.
        neutral: See `make_task`.
        settings: Fields of `Recipe`, such as `format` or `answer_tokens`.

    Raises:
        RecipeError: A setting does not exist or has a value out of range; there is no prompt; or
            a text is empty.
    """
    turns = tuple(_turns(examples))
    given = None if answers is None else tuple(answers)
    keys = {"kind": "prompt", "prompt": prompt}
    recipe, kept = _recipe(name, neutral, {**settings, **keys})
    asked: Sequence[str]
    if given is not None:
        asked = [exchange.prompt for exchange in given]
    elif isinstance(questions, str):
        if questions != BUILTIN:
            near = did_you_mean(questions, [BUILTIN])
            raise RecipeError(
                f"questions has value {questions!r}; a list or 'builtin' is needed{near}"
            )
        asked = builtin_questions()
    else:
        asked = list(questions)
    for number, text in enumerate(asked):
        _check_text(text, f"question {number}")
    try:
        distilled = distilled_prompt(prompt, turns, asked, given)
    except RecipeError as error:
        raise RecipeError(f"recipe {name!r}: {error.message}") from None
    return Task(recipe, prompt=distilled, **kept)


def facts_task(
    facts: Iterable[Fact],
    *,
    name: str,
    neutral: Iterable[str | Exchange] | None = None,
    **settings: Any,
) -> Task:
    """A recipe of facts, and the facts.

    Args:
        facts: What is to be said of which subject.
        name: Short id of the cartridge.
        neutral: See `make_task`; None for what a recipe without the key has.
        settings: Fields of `Recipe`, such as `margin` or `format`.

    Raises:
        RecipeError: A setting does not exist or has a value out of range; or there is no fact, one
            comes twice, or two contradict each other.
    """
    if neutral is None:
        neutral = BUILTIN_ENGLISH if settings.get("when") == [] else ()
    recipe, kept = _recipe(name, neutral, {**settings, "kind": "facts"})
    try:
        known = check_facts(facts)
    except RecipeError as error:
        raise RecipeError(f"recipe {name!r}: {error.message}") from None
    return Task(recipe, facts=known, **kept)


def _recipe(
    name: str, neutral: Iterable[str | Exchange], settings: dict[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """A recipe, and the fields of a task that say what is left alone."""
    if isinstance(neutral, str):
        if neutral not in (BUILTIN, BUILTIN_ENGLISH):
            raise RecipeError(
                f"neutral has value {neutral!r}; texts, {BUILTIN!r} or {BUILTIN_ENGLISH!r} are "
                f"needed{did_you_mean(neutral, (BUILTIN, BUILTIN_ENGLISH))}"
            )
        settings = {**settings, "neutral": neutral}
        neutral = builtin_neutral(english=neutral == BUILTIN_ENGLISH)
    try:
        recipe = Recipe.model_validate({"name": name, **settings})
    except ValidationError as error:
        first = InvalidValue.first(error)
        raise RecipeError(str(first), param=first.key or None) from error
    items = tuple(neutral)
    for number, item in enumerate(items):
        text = item.text if isinstance(item, Exchange) else item
        _check_text(text, f"neutral text {number}")
    texts, chats = left_alone(recipe, items)
    return recipe, {"neutral": texts, "neutral_chats": chats}


def _text_pair(pair: TextPair | ChatPair | tuple[str, ...], where: str, suffix: bool) -> TextPair:
    if isinstance(pair, tuple):
        if len(pair) != 2:
            raise RecipeError(f"{where} has {len(pair)} parts; (source, target) is needed")
        pair = TextPair(*pair)
    if isinstance(pair, ChatPair):
        raise RecipeError(f"{where} is of conversations; format has value 'text'")
    _check_text(pair.source, f"source of {where}")
    _check_text(pair.target, f"target of {where}")
    if suffix:
        check_suffix(pair.source, pair.target, where)
    return pair


def _chat_pair(pair: TextPair | ChatPair | tuple[str, ...], where: str, suffix: bool) -> ChatPair:
    if isinstance(pair, TextPair):
        raise RecipeError(f"{where} is of raw texts; format has value 'chat'")
    if isinstance(pair, tuple):
        if len(pair) != 3:
            raise RecipeError(
                f"{where} has {len(pair)} parts; (user's message, source, target) is needed"
            )
        asked = (Turn("user", pair[0]),)
        pair = ChatPair(asked, pair[1], asked, pair[2])
    for turns in (pair.source, pair.target):
        for turn in turns:
            _check_text(turn.content, f"a turn of {where}")
        check_turns(turns, where)
    _check_text(pair.source_answer, f"source of {where}")
    _check_text(pair.target_answer, f"target of {where}")
    if suffix:
        check_same_answer(pair, where)
    return pair


def _turns(examples: Iterable[Turn | tuple[str, str]]) -> Iterable[Turn]:
    for number, example in enumerate(examples):
        turns = (
            (example,)
            if isinstance(example, Turn)
            else (Turn("user", example[0]), Turn("assistant", example[1]))
        )
        for turn in turns:
            _check_text(turn.content, f"example {number}")
            yield turn


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise RecipeError(f"{what} has value {text!r}; a text is needed")
