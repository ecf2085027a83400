"""`python -m recycler` is the command line."""

from recycler.cli.main import main

main()
