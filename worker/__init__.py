"""The worker, and what it shares with CRMs, the command line and the console. `README.md` says what is where."""
