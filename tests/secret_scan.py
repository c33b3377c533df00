"""`python -m tests.secret_scan` looks for secrets in every line that any commit ever added.

A key that was committed and removed is still in the history that everybody clones. It looks for what has a form of its
own: private keys, tokens of services, passwords in URLs. Exits with 1 and names commit and file of each find.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PLUGINS = (
    "ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "DiscordBotTokenDetector",
    "GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector", "NpmDetector",
    "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector",
    "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector", "TwilioKeyDetector",
)  # fmt: skip

# What looks like a secret and is none. Each pattern is for a line; made-up passwords are words that say so.
ALLOWED = (
    r"(?i)://[^/\s:@]*:(?:\{[^}]*\}|\$\{?\w+|\.\.\.|[a-z%#0-9/@;$<>*-]*(?:word|secret|pass|pw|hunter|canary)[^@\s]*)@",
    r"[\"'`].*-----BEGIN [A-Z ]*PRIVATE KEY(?:-----|[\"'] \+)(?!\\n[A-Za-z0-9+/]{30})",  # the line in a text about it
    r"eyJ[\w-]+\.[\w-]+\.c2lnbmF0dXJl",  # "signature"
)


def added_lines() -> Iterator[tuple[str, str, str]]:
    """Yield commit, file and text of each line that a commit of this history added."""
    git = ["git", "-C", str(ROOT), "log", "--no-merges", "--unified=0", "--no-color", "--format=%x00%h", "-p"]
    log = subprocess.run(git, check=True, capture_output=True).stdout.decode(errors="replace")
    commit = file = ""
    for line in log.splitlines():
        if line.startswith("\0"):
            commit = line[1:]
        elif line.startswith("+++ "):
            file = line[4:].removeprefix("b/")
        elif line.startswith("+"):
            yield commit, file, line[1:]


def found(lines: Iterator[tuple[str, str, str]]) -> list[str]:
    """Return a line for each secret: where it is and of what sort, never the secret."""
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    seen: set[str] = set()
    finds = []
    with transient_settings({"plugins_used": [{"name": name} for name in _PLUGINS]}):
        for commit, file, text in lines:
            if text in seen or len(text) < 16 or "--hash=sha256:" in text:
                continue
            seen.add(text)
            if any(re.search(pattern, text) for pattern in ALLOWED):
                continue
            finds += [f"{commit} {file}: {secret.type}" for secret in scan_line(text)]
    return finds


if __name__ == "__main__":
    finds = found(added_lines())
    print("\n".join(finds) or "no secret in the history")
    sys.exit(bool(finds))
