"""The scripts on devices are no package, and use those of two other folders."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS / name) for name in ("device", "models")]
