"""The tests. This file is imported before anything slow is."""

import os
import sys
from pathlib import Path

if sys.dont_write_bytecode:
    # Else every process that a test starts compiles torch and Lightning again, which takes longer than most tests.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parents[1] / ".pytest_cache/bytecode")
    sys.dont_write_bytecode = False
