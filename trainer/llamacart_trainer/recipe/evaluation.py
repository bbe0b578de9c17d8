"""The `[evaluation]` table of a recipe. Imports nothing of the trainer: `Recipe` holds it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamacart.cartridge import ALPHA_LIMIT

Alpha = Annotated[float, Field(ge=-ALPHA_LIMIT, le=ALPHA_LIMIT)]

DEFAULT_ALPHAS = (0.4, 0.6, 0.8, 1.0, 1.2)


class EvaluationSettings(BaseModel):
    """How the behaviour of a recipe's cartridges is measured.

    One of `language`, `target_words`/`forbidden_words`, `answers`, `facts` and `scorer` says what
    behaviour is, a number from 0 to 1 a prompt; without any of them the recipe's behaviour is not
    measured, and fluency and locality alone are. File names are relative to the recipe's folder.

    Attributes:
        language: Code of ISO 639-1; behaviour is 1 where a continuation is in that language.
        target_words: Behaviour is 1 where a continuation has one of them and no forbidden one.
        forbidden_words: See `target_words`; alone they ask only for their absence.
        answers: File of `{"prompt", "target", "original"}`; behaviour is 1 where the target is
            the likelier answer. Log-odds and P(target) are reported beside it.
        facts: File of facts, see `llamacart_trainer.recipe.facts`; behaviour is the mean of
            efficacy, paraphrases and neighbours. In a recipe of kind `facts` it is `train` without.
        scorer: The user's own function as `module:function` or `file.py:function`; called with
            (prompts, continuations), it returns a number for each.
        system: The same wish as a system text: a prompt baseline, before every prompt.
        examples: The same wish as examples: a file of `{"role", "content"}`, a turn a line.
        tokens: Greedy tokens a prompt; 24 for texts, 64 for answers where it is None.
        neutral: File of `{"text"}` that steering should leave alone; KL is measured on it. A
            fixed English text that ships with the package without it. Every second text serves
            the choice, the others the test.
        validation: File of `{"prompt", "reference"?}` that `llamacart tune` and, for α,
            `llamacart eval` choose by; without it the beginnings of the held-out pairs' source
            texts, and without those every second prompt.
        alphas: Strengths of a sweep.
        target: Least behaviour that `llamacart tune` asks for.
        kl_weight: What a nat of KL costs `llamacart tune` in nats of NLL.
        distinct: Least distinct-2 that `llamacart tune` asks for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = None
    target_words: list[Annotated[str, Field(min_length=1)]] = []
    forbidden_words: list[Annotated[str, Field(min_length=1)]] = []
    answers: str | None = None
    facts: str | None = None
    scorer: Annotated[str, Field(pattern=r"^.+:[A-Za-z_]\w*$")] | None = None
    system: Annotated[str, Field(pattern=r"\S")] | None = None
    examples: str | None = None
    tokens: Annotated[int, Field(ge=1, le=512)] | None = None
    neutral: str | None = None
    validation: str | None = None
    alphas: Annotated[list[Alpha], Field(min_length=1)] = list(DEFAULT_ALPHAS)
    target: Annotated[float, Field(ge=0, le=1)] = 0.95
    kl_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    distinct: Annotated[float, Field(ge=0, le=1)] = 0.6

    @model_validator(mode="after")
    def _one_behaviour(self) -> EvaluationSettings:
        named = {
            "language": self.language,
            "target_words": self.target_words or self.forbidden_words,
            "answers": self.answers,
            "facts": self.facts,
            "scorer": self.scorer,
        }
        given = [name for name, value in named.items() if value]
        if len(given) > 1:
            raise ValueError(f"behaviour is given twice, by {' and '.join(given)}; keep one")
        return self
