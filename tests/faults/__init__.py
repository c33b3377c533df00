"""Real processes, real faults, counted from outside. `python -m tests.faults` runs them all and prints the tables."""
