"""Where a run stands in a comparison: a small file in its folder, for trackers and rows."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from fedmeta.errors import RunFolderError
from fedmeta.run_folder import write_json

FILE = "cell.json"


@dataclass(frozen=True)
class Place:
    """One cell of a comparison."""

    name: str
    """The contender, which the seeds of one setting share, such as ``fedadam · maml``."""
    labels: dict[str, str] = field(default_factory=dict)
    """By axis of the grid, such as ``strategy``."""
    config: str = ""
    """Path of the base config."""
    group: str = ""
    """The comparison."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Of a run folder; None where the run stands alone. Raises RunFolderError."""
        path = folder / FILE
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as e:
            raise RunFolderError(f"{path}: cannot be read ({e})") from e

    def write(self, folder: Path) -> None:
        """Into a run folder."""
        write_json(folder / FILE, asdict(self))
