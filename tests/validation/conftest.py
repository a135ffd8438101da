"""Tests in this folder import ``validation_nets`` from beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
