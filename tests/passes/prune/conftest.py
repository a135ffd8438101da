"""Tests in this folder import ``exactness``, ``random_nets`` and ``pruning`` from beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
