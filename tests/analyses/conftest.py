"""The scripts of analyses/ and what they share, as they find each other when they are run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "analyses"))
