"""Writes the table of settings in docs/serving.md from the server's own declarations."""

from __future__ import annotations

import re
from pathlib import Path

from llamacart_server.options import option_of
from llamacart_server.settings import ServeSettings

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
_TABLE = re.compile(r"(<!-- serve settings[^>]*-->\n).*?(<!-- end -->)", re.DOTALL)


def table() -> str:
    """A table for each group of options."""
    lines: list[str] = []
    panel = None
    for name, field in ServeSettings.model_fields.items():
        option = option_of(field)
        if option.panel != panel:
            panel = option.panel
            lines += ["", f"### {panel}", "", "| option | default | meaning |", "|---|---|---|"]
        flag = name.replace("_", "-")
        flags = f"`--{flag}`, `--no-{flag}`" if field.annotation is bool else f"`--{flag}`"
        meaning = option.help.replace("|", "\\|")
        lines.append(f"| {flags} | {_shown(field.default)} | {meaning} |")
    return "\n".join(lines[1:]) + "\n"


def written(text: str) -> str:
    """The page with the table as it should be."""
    return _TABLE.sub(lambda found: f"{found[1]}\n{table()}\n{found[2]}", text)


def _shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
