"""`b2copy-sync demo --story book`: ten clients from their registration to their withdrawals' fees."""

import re
from pathlib import Path

from tests.cli.test_demo import finish, running_demo


def test_each_client_is_one_line_of_a_table_at_the_end(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--story", "book", COLUMNS="80") as process:
        text = finish(process, tmp_path)

    assert (text.returncode, text.left) == (0, []), text.out + text.err
    assert "\x1b" not in text.out
    table = text.out[text.out.index("client  MT login") :]
    lines = [line.split() for line in table.splitlines()[1:11]]
    assert [line[0] for line in lines] == [f"C-{number:02}" for number in range(1, 11)]
    assert [line[-1] for line in lines] == ["-", "-", "yes", "yes", "yes", "yes", "no", "yes", "yes", "yes"]
    fees = ["master", "master", "succeeded", "succeeded", "succeeded", "succeeded", "fee_error", *["succeeded"] * 3]
    assert [line[-2] for line in lines] == fees
    assert all(len(line) <= 80 for line in table.splitlines()[:11])
    assert "C-07, B2COPY says: the master account cannot be credited" in table
    assert "B2COPY has 10 clients and 10 accounts, 0 made twice. It took 1 login" in table


def test_options_of_the_other_story_are_refused(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--story", "book", "--rows", "3") as process:
        refused = finish(process, tmp_path)

    assert refused.returncode == 2
    assert re.search("--csv and --rows", refused.err)
