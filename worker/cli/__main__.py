"""`python -m worker.cli`: the same as `b2copy-sync`."""

from worker.cli import main

main()
