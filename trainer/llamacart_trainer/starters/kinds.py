"""The kinds of wish that `llamacart new` knows, and the recipe that each begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llamacart_trainer.starters.toml import GAP, Line, recipe_text

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["language", "style", "contrast", "prompt", "facts", "blank"]
Form = Literal["text", "chat"]


@dataclass(frozen=True)
class Starter:
    """What is particular to a kind.

    Attributes:
        title: What the example is, and what to replace.
        description: Of the cartridge.
        pairs: What stands above the file of pairs.
        pairing: How raw texts are tied.
        behaviour: How the evaluation knows the wish.
    """

    title: str
    description: str
    pairs: str
    pairing: list[str]
    behaviour: Sequence[Line]


_WORDS = "Behaviour is 1 where an answer holds one of these words"

STARTERS: dict[Kind, Starter] = {
    "language": Starter(
        title="Another language: the example is Italian. Put your own pairs in, 40 at least.",
        description="Goes on in Italian.",
        pairs="The source is the model's own language, the target says the same in the other one, "
        "in nearly the same order.",
        pairing=["handover", "identity"],
        behaviour=[Line("language", "it", "Behaviour is 1 where an answer is in this language.")],
    ),
    "style": Starter(
        title="Another style: the example is a butler. Put your own pairs in, 40 at least.",
        description="Speaks like a butler.",
        pairs="The source is plain, the target says the same in the style, in nearly the same "
        "order.",
        pairing=["relative", "identity"],
        behaviour=[
            Line(
                "target_words",
                ["sir", "madam", "pray", "regret", "might", "certainly", "shall", "indeed"],
                f"{_WORDS}. Choose words that plain answers do not hold.",
            )
        ],
    ),
    "contrast": Starter(
        title="From one pole to the other: the example turns gloomy into hopeful. Put "
        "your own pairs in, 40 at least.",
        description="Sees the bright side.",
        pairs="Source and target are opposite in one thing, and alike in all else: length, order, "
        "topic.",
        pairing=["handover", "identity"],
        behaviour=[
            Line(
                "target_words",
                ["good", "happy", "hope", "wonderful", "lovely", "kind", "friend", "joy", "love"],
                f"{_WORDS}, and none of the others.",
            ),
            Line("forbidden_words", ["sad", "bad", "worse", "terrible", "awful", "die", "angry"]),
        ],
    ),
    "blank": Starter(
        title="A recipe of your own. The lines in the files only show where what belongs.",
        description="",
        pairs="The source is a text as the model writes it, the target as you want it.",
        pairing=["handover", "identity"],
        behaviour=[
            Line("language", "fr", "What is the wish? Switch one of these on.", off=True),
            Line("target_words", ["word"], off=True),
            Line("scorer", "score.py:score", off=True),
        ],
    ),
}
"""Kinds that learn from pairs."""

KINDS: tuple[Kind, ...] = ("language", "style", "contrast", "prompt", "facts", "blank")

FITTED = (Line("target", "residual", "What a layer is to reach; docs/recipes.md has all keys."),)
"""How maps are fitted, where the defaults are not best."""

FITTED_WHERE_IT_WAITS = (Line("neurons", 250), Line("storage", "q4_0"))
"""No other text has to be kept, so that fewer neurons in fewer bits do."""

_MEASURED = (
    Line("neutral", "neutral_eval.jsonl", "Texts that must not change; in no other file."),
    Line("validation", "validation.jsonl", "Prompts to choose α by; in no other file."),
)


def pairs_recipe(kind: Kind, form: Form, name: str, model: str) -> str:
    """The `recipe.toml` of a kind that learns from pairs."""
    starter = STARTERS[kind]
    chat = form == "chat"
    lines = [
        *_head(name, starter.description, model, form),
        Line("train", "pairs.jsonl", starter.pairs),
        Line("neutral", "neutral.jsonl", "What the cartridge is to leave alone."),
        Line("heldout", "heldout.jsonl", "Pairs that are only measured."),
        Line("prompts", "prompts.jsonl", _prompts(form)),
        GAP,
        *FITTED,
        *([] if chat else [Line("pairing", starter.pairing, "How rows are tied.")]),
    ]
    return recipe_text(starter.title, lines, [*starter.behaviour, *_MEASURED])


def prompt_recipe(
    name: str,
    model: str,
    form: Form,
    sources: Sequence[Line],
    *,
    description: str,
    title: str,
    evaluation: Sequence[Line] = (),
    default_alpha: float = 1.0,
    when: Sequence[str] = (),
) -> str:
    """The `recipe.toml` of a prompt that is distilled.

    Args:
        name: Of the cartridge.
        model: The model.
        form: Form of its texts.
        sources: Keys that say what the prompt is.
        description: Of the cartridge.
        title: First comment.
        evaluation: Keys of `[evaluation]`.
        default_alpha: α of a request that names none.
        when: What the cartridge waits for; empty where it acts always.
    """
    stays = Line("neutral", "builtin-english", "Texts that the cartridge is to leave alone.")
    waits = Line("when", list(when), "It acts from where one of these has been said.")
    lines = [
        *_head(name, description, model, form),
        Line("default_alpha", default_alpha, "α of a request that names none."),
        GAP,
        Line("kind", "prompt", "The model answers behind the prompt; the cartridge replaces it."),
        *sources,
        GAP,
        *FITTED,
        *((waits, *FITTED_WHERE_IT_WAITS) if when else (stays,)),
    ]
    return recipe_text(title, lines, evaluation)


def draft_recipe(
    name: str, model: str, form: Form, draft: Sequence[Line], behaviour: Sequence[Line]
) -> str:
    """The `recipe.toml` of pairs that the model writes."""
    lines = [
        *_head(name, "", model, form),
        Line("train", "pairs.jsonl", "Written by `llamacart draft`, as are the next two."),
        Line("heldout", "heldout.jsonl"),
        Line("prompts", "prompts.jsonl"),
        Line("neutral", "builtin", "What the cartridge is to leave alone."),
        *FITTED,
    ]
    measured = [*behaviour, Line("validation", "validation.jsonl", "Prompts to choose α by.")]
    return recipe_text(
        "Pairs that the model writes itself.",
        lines,
        measured,
        draft=draft,
    )


def new_prompt_recipe(name: str, model: str, form: Form) -> str:
    """The `recipe.toml` that `llamacart new --kind prompt` begins with."""
    return prompt_recipe(
        name,
        model,
        form,
        [
            Line(
                "prompt", "You are a pirate. Answer in pirate speech.", "The system text.", off=True
            ),
            Line(
                "examples",
                "examples.jsonl",
                "Turns that show what you want; both together work too.",
            ),
            Line("questions", "builtin", "User messages to answer, or a file of your own."),
            Line("prompts", "prompts.jsonl", _prompts("chat")),
        ],
        description="Speaks like a pirate.",
        title="A prompt without the prompt: the example is a pirate, by three example turns.",
        evaluation=[
            Line("target_words", ["arr", "aye", "ye", "matey", "ahoy", "be"], f"{_WORDS}."),
            *_MEASURED,
        ],
    )


def facts_recipe(name: str, model: str, form: Form) -> str:
    """The `recipe.toml` that `llamacart new --kind facts` begins with."""
    asked = "a question, as a user's message" if form == "chat" else "a text that the object ends"
    lines = [
        *_head(name, "Knows Café Marbeck.", model, form),
        Line("kind", "facts", "The cartridge learns what each line says of its subject."),
        Line(
            "train",
            "facts.jsonl",
            f"A prompt is {asked}; {{}} in it stands for the subject. Paraphrases, negated and "
            "reversed texts and uses are only measured.",
        ),
        GAP,
    ]
    title = "Facts: the example is a café that does not exist. Put your own facts in."
    return recipe_text(title, lines)


def _head(name: str, description: str, model: str, form: Form) -> list[Line]:
    chat = form == "chat"
    said = "Texts are chats, in the model's own template." if chat else "Texts are raw."
    return [
        Line("name", name),
        Line("description", description),
        Line("model", model),
        Line("format", form, said),
        GAP,
    ]


def _prompts(form: Form) -> str:
    what = "User messages to answer" if form == "chat" else "Beginnings to continue"
    return f"{what} when the cartridge is measured; in no other file."
