"""The examples of docs/python.md run, in order, as one session."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamacart_trainer.evaluation import locality, plan

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.model
def test_every_example_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (locality, plan):  # the packaged texts take half of the time
        monkeypatch.setattr(module, "fixed_text", lambda _language: ("A short text.", "Another."))
    text = PAGE.read_text(encoding="utf-8")
    session: dict[str, object] = {}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], str(PAGE), "exec")  # errors name the page's line
        exec(code, session)  # noqa: S102
    out = capsys.readouterr().out
    assert "active neurons" in out
    assert "french 0.8: French " in out


def test_every_name_on_the_page_is_offered() -> None:
    import llamacart
    import llamacart_server
    import llamacart_trainer

    offered = {
        package.__name__: package for package in (llamacart, llamacart_trainer, llamacart_server)
    }
    named = re.findall(
        r"\b(llamacart(?:_trainer|_server)?)\.(\w+)", PAGE.read_text(encoding="utf-8")
    )
    assert len(named) > 20
    assert [pair for pair in named if pair[1] not in offered[pair[0]].__all__] == []
