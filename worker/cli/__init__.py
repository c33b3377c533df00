"""`b2copy-sync`: the command line."""


def main() -> None:
    raise SystemExit("not yet")
