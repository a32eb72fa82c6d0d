"""`python -m pointloom` is the command `pointloom`."""

from pointloom.cli import main

main()
