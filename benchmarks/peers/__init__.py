"""The packages that are compared, each a script that runs in an environment of its own."""
