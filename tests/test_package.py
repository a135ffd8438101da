"""The package: what a wheel holds, and what importing costs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"onnxopt": "onnxopt", "passes": "onnxopt/passes", "cli": "onnxopt/cli", "models": "onnxopt/models"}
KINDS = {".py", ".onnx", ".npz", ".typed", ".j2", ".css", ".js"}


@pytest.mark.slow
def test_the_wheel_holds_the_tracked_files(tmp_path: Path) -> None:
    """Built from a copy of them, so that nothing untracked slips in; needs git, and the registry for setuptools."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    expected = set()
    for name in tracked:
        if not (ROOT / name).is_dir():  # a link to a folder
            (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "copy" / name)
        top, _, rest = name.partition("/")
        if top in PARTS and Path(name).suffix in KINDS:
            expected.add(f"{PARTS[top]}/{rest}")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), "."]
    subprocess.run(build, cwd=tmp_path / "copy", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as contents:
        held = {name for name in contents.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import onnxopt, onnxopt.errors, onnxopt.core, sys; print(sorted(set(sys.modules) & set(%r)))"
    heavy = ["onnx", "onnx_ir", "onnxruntime", "onnxsim", "torch", "numpy", "scipy", "rich"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
