"""The doors of the house open one way, importing it is instant, and its files stay small."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import sinkscope

PACKAGE = Path(sinkscope.__file__).parent

EVERYWHERE = {"errors", "glossary", "__init__"}
DOORS = {
    "glossary": set(),
    "errors": set(),
    "layout": {"glossary"},
    "record": {"layout"},
    "avsr": set(),
    "subjects": {"layout", "record", "avsr"},
    "probes": {"record", "subjects"},
    "analysis": {"record"},
    "interventions": {"probes", "analysis"},
    "training": {"avsr", "probes", "analysis"},
    "plots": {"record", "analysis"},
    "reports": {"plots"},
}
NEVER_TORCH = ("analysis", "plots", "reports")


def behind(room: str) -> set[str]:
    """What stands behind a room's doors, and behind theirs."""
    direct = DOORS[room]
    return direct.union(*(behind(other) for other in direct)) if direct else set()


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "sinkscope" and len(parts) > 1 else None


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("room", DOORS)
def test_doors_open_one_way(room: str) -> None:
    allowed = behind(room) | EVERYWHERE | {room}
    for path in files():
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") != room:
            continue
        for module in imported_modules(path):
            other = room_of(module)
            if (
                other is not None
                and (PACKAGE / other).with_suffix(".py").exists() | (PACKAGE / other).is_dir()
            ):
                assert other in allowed, f"{path} opens a door to {other}"


@pytest.mark.parametrize("room", NEVER_TORCH)
def test_rooms_without_torch(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        heavy = {name for name in imported_modules(path) if name.split(".")[0] == "torch"}
        assert not heavy, f"{path} imports {heavy}"


def test_what_is_imported_is_declared() -> None:
    """An environment without the tests' extras must hold all that the package imports."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w.-]", line)[0].lower() for line in project["dependencies"]}
    homes = packages_distributions()
    for path in files():
        for module in {name.split(".")[0] for name in imported_modules(path)}:
            if module in sys.stdlib_module_names or module == "sinkscope":
                continue
            found = {home.lower().replace("_", "-") for home in homes[module]}
            assert found & declared, f"{path} imports {module}, which pyproject.toml does not name"


def test_importing_is_light() -> None:
    code = (
        "import sys, sinkscope; "
        "heavy = {'torch', 'pandas', 'xarray', 'transformers', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'find_sinks' in dir(sinkscope)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_analysis_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import sinkscope as ss, numpy as np; "
        "alpha = ss.key_attention(np.full((2, 4, 4), .25)); ss.sink_rate(alpha); "
        "ss.plots, ss.find_sinks, ss.merge"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    for name in sinkscope.__all__:
        assert getattr(sinkscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'find_sink'"):
        _ = sinkscope.find_sink


def test_files_stay_small() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in files()}
    long = {str(path): length for path, length in lengths.items() if length > 300}
    assert not long
    assert sorted(lengths.values())[len(lengths) // 2] <= 150
