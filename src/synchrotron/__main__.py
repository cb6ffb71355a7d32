"""`python -m synchrotron`: the command line."""

from synchrotron.cli import main

main(prog_name="synchrotron")
