"""The exception tree: every message is one line that a person can act on.

FedmetaError            the run cannot go on                          exit code 1
├── RefusedError        a device does not do what a server asks of it
└── InputError          something the user gave must change           exit code 2
    ├── ConfigError     a key of the experiment
    ├── DataError       a dataset or a shard
    └── RunFolderError  a run folder, a checkpoint or the disk under it
"""


class FedmetaError(Exception):
    """The run cannot go on."""

    exit_code = 1


class RefusedError(FedmetaError):
    """The owner of a device does not allow what a server asks of it."""


class InputError(FedmetaError):
    """Something the user gave must change."""

    exit_code = 2


class ConfigError(InputError):
    """A key of the experiment is unknown, ill-typed or out of range."""


class DataError(InputError):
    """A dataset is missing or broken, or a shard is too small for the episode asked of it."""


class RunFolderError(InputError):
    """A run folder or checkpoint is missing, taken, of another config, or cannot be written."""
