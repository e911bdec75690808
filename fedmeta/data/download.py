"""Where a dataset's files come from: a folder the user names, or their canonical address."""

import os
from pathlib import Path

from fedmeta.errors import DataError


def local_root(root: str | None) -> Path | None:
    """``data.root``, else FEDMETA_DATA, else nothing."""
    chosen = root or os.environ.get("FEDMETA_DATA")
    if not chosen:
        return None
    if not Path(chosen).is_dir():
        source = "data.root" if root else "FEDMETA_DATA"
        raise DataError(f"{source}: {chosen} is not a folder; point it at local copies of the data")
    return Path(chosen)


def local_file(root: Path, dataset: str, pattern: str) -> Path:
    """The first file matching ``pattern`` in ``root`` or ``root/dataset``."""
    for folder in (root, root / dataset):
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise DataError(
        f"{dataset}: no {pattern} in {root} or {root / dataset}; put it there, "
        "or unset FEDMETA_DATA and data.root to download it"
    )


def download(url: str, sha256: str) -> Path:
    """The file at ``url`` in the user's cache, fetched and checked once."""
    import pooch

    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}", path=cache_folder()))
    except (OSError, ValueError) as e:  # no network; a hash that does not match
        first = _first(e)
        raise DataError(
            f"cannot download {url} ({type(first).__name__}: {first}); "
            "set FEDMETA_DATA or data.root to a folder that holds the file"
        ) from e


def _first(error: BaseException) -> BaseException:
    """What all others followed from: the socket's own words and not those of three libraries around it."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def cache_folder() -> Path:
    """The user's cache of downloads and decoded datasets."""
    import pooch

    return Path(pooch.os_cache("fedmeta"))
