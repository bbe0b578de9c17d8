"""What the scripts share: they run every check, print a line for each, and exit 1 if one fails."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def base_url() -> str:
    """The server's address for OpenAI's clients."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    return f"{url.rstrip('/')}/v1"


class Checks:
    """Runs what it decorates.

    Args:
        suite: Name of the client.
    """

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._failed: dict[str, bool] = {}

    def __call__(self, check: Callable[[], None]) -> None:
        """Run a check and print how it went."""
        failed = False
        try:
            check()
        except Exception:
            failed = True
            traceback.print_exc()
        self._failed[check.__name__] = failed
        print("FAILED" if failed else "passed", self._suite, check.__name__, flush=True)

    def finish(self) -> NoReturn:
        """Print the sum and exit."""
        n_passed = list(self._failed.values()).count(False)
        print(f"{self._suite}: {n_passed} of {len(self._failed)} passed")
        sys.exit(n_passed < len(self._failed))
