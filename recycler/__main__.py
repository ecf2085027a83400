"""`python -m recycler` is the command line."""

from recycler.cli import main

main()
