"""`python -m vitadapt`: the command line where no script of that name is on the path."""

from .cli import main

main()
