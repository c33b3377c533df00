"""Where `b2copy-sync` starts. A liveness probe is answered before the command line is loaded."""

import sys


def main() -> None:
    """Answer `health --live`, or run the command line."""
    if sys.argv[1:] == ["health", "--live"]:
        from worker.watch.heartbeat import check

        sys.exit(check())
    from worker.cli import main as run

    run()
