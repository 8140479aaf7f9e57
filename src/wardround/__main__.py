"""`python -m wardround` is the command `wardround`."""

from wardround.cli import main

main()
