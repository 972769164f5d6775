"""Makes the launch scripts and the fake cloud importable, as they import each other."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "launch/tpu")]
