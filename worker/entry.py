"""Where `b2copy-sync` starts. A liveness probe and Celery's processes do not load the command line."""

import sys

from worker.celery_commands import NAMES, run


def main() -> None:
    """Answer `health --live`, run a worker or beat, or run the command line."""
    arguments = sys.argv[1:]
    if arguments == ["health", "--live"]:
        from worker.watch.heartbeat import check

        sys.exit(check())
    elif arguments and arguments[0] in NAMES:
        run(arguments[0], arguments[1:])
    else:
        from worker.cli import main as run_command_line

        run_command_line()


if __name__ == "__main__":
    main()
