from __future__ import annotations

from collections import Counter

from llamacart_trainer.drafting.split import part_of
from llamacart_trainer.recipe.questions import builtin_questions


def test_a_message_stays_in_its_part_and_every_part_has_some() -> None:
    found = Counter(map(part_of, builtin_questions()))
    assert found["train"] > 140
    assert min(found["validation"], found["test"]) >= 10
    assert part_of("Why is it so?") == part_of("  why IS it so?\n")
