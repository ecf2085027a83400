"""`python -m recycler` is the command line."""

from recycler.cli.commands import main

main()
