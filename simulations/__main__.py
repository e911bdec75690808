"""``python -m simulations`` is the ``fedmeta`` command."""

from simulations.cli import main

main()
