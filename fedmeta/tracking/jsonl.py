"""``metrics.jsonl``: a line per round and split."""

from typing import TextIO

from fedmeta.run_folder import line, read_lines, write_lines
from fedmeta.tracking.recorder import Row, Run


class JsonLines:
    """Appends rows; a resumed run first takes back the rows after its checkpoint."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    def start(self, run: Run) -> None:
        """Open the file at the round the run continues from."""
        path = run.folder / "metrics.jsonl"
        if path.exists():
            rows = [row for row in read_lines(path) if row["round"] <= run.resumed_at]
            write_lines(path, [row for row in rows if row["split"] not in ("test", "seen")])
        self._file = path.open("a", buffering=1)

    def record(self, row: Row) -> None:
        """One line, flushed."""
        assert self._file is not None
        self._file.write(line(row))

    def finish(self, summary: Row | None) -> None:
        """Close the file; the summary has a file of its own."""
        if self._file is not None:
            self._file.close()
