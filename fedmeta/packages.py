"""Optional packages: what is asked for and not installed is said before any work."""

from importlib.util import find_spec

from fedmeta.errors import ConfigError


def require(what: str, extra: str, *packages: str) -> None:
    """Refuse ``what``, a key or a command, where a package of an extra is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ConfigError(f"{what}: {package} is not installed; pip install 'fedmeta[{extra}]'")
