"""The wheel carries everything: unpacked alone, it runs from any directory."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import REPO


def test_a_wheel_runs_from_another_directory_with_its_own_configs(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(REPO)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert "kdbench/configs/config.yaml" in names
    assert "kdbench/data/digits.npz" in names
    assert "hydra_plugins/kdbench/launcher.py" in names
    assert not [name for name in names if name.startswith(("configs/", "tests/"))]
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "configs").mkdir(parents=True)  # a user's own folder of this name must not get in the way
    command = "import kdbench, sys; print(kdbench.__file__); from kdbench.cli import main; sys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", command, "teacher=none", "trainer.max_epochs=1", "trainer.limit_train_batches=2"],
        cwd=elsewhere,
        env={**_without(os.environ, "KDBENCH_OUTPUTS"), "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(tmp_path / "site"))
    assert (elsewhere / "outputs" / "store").is_dir()


def _without(environment: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}
