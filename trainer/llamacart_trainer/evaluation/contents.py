"""What is put before the model, and what it writes: texts to continue, answers with their odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and how the wanted text would begin instead (for the ceiling)."""

    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Answer:
    """A prompt with the answer that a cartridge should give and the one the model gives.

    Attributes:
        prompt: Text before the answer.
        target: The wanted answer, with its leading space.
        original: The model's own.
        neutral: A prompt whose answer should stay: P(target) is leakage there.
    """

    prompt: str
    target: str
    original: str
    neutral: bool = False


@dataclass(frozen=True)
class Continuations:
    """What was written behind prompts.

    Attributes:
        tokens: Of each, without what ended it.
        texts: The same as text.
        ended: Which of them came to an end.
        written: 1 for each that is long enough to be judged, else 0.
    """

    tokens: list[list[int]]
    texts: list[str]
    ended: list[bool]
    written: NDArray[np.float64]
