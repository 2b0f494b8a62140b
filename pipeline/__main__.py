"""`python -m pipeline` is the command `secateur`."""

from pipeline.cli import main

main()
