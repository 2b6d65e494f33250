"""What the README promises stands in the code."""

import re
import subprocess
from pathlib import Path

import pytest

from sinkscope.subjects.catalogue import encoders_table, multimodal_table
from sinkscope.subjects.families import families_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_families_is_the_registrys() -> None:
    assert families_table() in README, "write the output of families_table() into the README"


def test_the_multimodal_families_and_encoders_are_the_registrys() -> None:
    assert multimodal_table() in README, "write the output of multimodal_table() into the README"
    assert encoders_table() in README, "write the output of encoders_table() into the README"


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).stat().st_size > 10_000 for picture in pictures)


def test_the_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    examples = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(examples) >= 3
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)


def test_ci_runs_the_readmes_own_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r'grep -m1 -F "([^"]+)" README.md', script).group(1)
    commands = [line for line in README.splitlines() if pattern in line]
    assert len(commands) == 1
    assert commands[0].endswith("&& pytest")
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
