"""`python -m raftkv.cli`."""

from raftkv.cli import main

main()
