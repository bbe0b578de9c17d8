"""What is put before the model: texts to continue, and answers whose odds are taken."""

from __future__ import annotations

from dataclasses import dataclass


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
