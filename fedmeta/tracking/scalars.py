"""A row of nested numbers as flat scalars, for trackers that draw one line per name."""

from fedmeta.tracking.recorder import Row


def scalars(row: Row) -> dict[str, float]:
    """For example ``val/after/accuracy``; curves over inner steps are left to the tables."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        inner = value if isinstance(value, dict) else {"": value}
        for key, number in inner.items():
            if name != "round" and isinstance(number, int | float):
                flat["/".join(part for part in (row["split"], name, key) if part)] = number
    return flat
