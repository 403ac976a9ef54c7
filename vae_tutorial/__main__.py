"""``python -m vae_tutorial``: the four verbs of :mod:`vae_tutorial.cli`."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads: waiting ones leave the cores

import sys

from vae_tutorial import cli

if __name__ == "__main__":
    sys.exit(cli.main())
