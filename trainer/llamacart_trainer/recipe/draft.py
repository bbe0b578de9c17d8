"""The `[draft]` table of a recipe. Imports nothing of the trainer: `Recipe` holds it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class DraftSettings(BaseModel):
    """How the model writes a recipe's pairs itself, and which of them are kept.

    A prompt is a system text, or the name of a file beside the recipe: `.txt` with a system text,
    `.jsonl` with turns. What is wanted is what `[evaluation]` says.

    Attributes:
        as_is: Prompt behind which the model answers as it is; none without.
        as_wanted: Prompt behind which it answers as it should.
        questions: File of `{"prompt"}`; `builtin` stands for those of `builtin_questions`.
        tokens: Most tokens of an answer.
        least_tokens: Answers with fewer are dropped.
        length_ratio: Pairs whose longer answer has more than so many times the tokens are dropped.
        distinct: Answers with a smaller distinct-2 are dropped.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_is: str = ""
    as_wanted: Annotated[str, Field(pattern=r"\S")]
    questions: str = "builtin"
    tokens: Annotated[int, Field(ge=1, le=1024)] = 64
    least_tokens: Annotated[int, Field(ge=1)] = 4
    length_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    distinct: Annotated[float, Field(ge=0, le=1)] = 0.6
