"""The models and clips that the package carries. Loads no torch."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

__all__ = ["Bundled", "bundled", "bundled_clips"]


@dataclass(frozen=True)
class Bundled:
    """A bundled model.

    Attributes:
        name: what ``load`` takes.
        folder: where it lies.
        summary: what it is, one sentence.
    """

    name: str
    folder: Path
    summary: str

    def __str__(self) -> str:
        return self.name


def bundled() -> list[Bundled]:
    """The bundled models, by name: every folder of ``sinkscope/assets`` with a ``config.json``."""
    folders = sorted(path.parent for path in _assets().glob("*/config.json"))
    return [Bundled(folder.name, folder, _summary(folder)) for folder in folders]


def bundled_clips() -> list[Path]:
    """The bundled clips: synthetic utterances of voices that no bundled model was trained on."""
    return sorted((_assets() / "clips").glob("*.mp4"))


def _assets() -> Path:
    return Path(str(resources.files("sinkscope"))) / "assets"


def _summary(folder: Path) -> str:
    """The first line of the folder's README that is no heading."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return next((line.strip() for line in lines if line.strip() and line[0] not in "#<!|["), "")
