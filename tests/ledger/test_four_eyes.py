"""The ledger's own rule of four eyes: who opens the ledger obeys it, and nobody relaxes it unseen."""

import pytest
from sqlalchemy import text

from worker.ledger import Ledger, audit_of, open_ledger
from worker.ledger.four_eyes import RULES, Rule, rule_of, set_rule, stricter
from worker.operation import AuditEntry


def change(ledger: Ledger, rule: Rule) -> Rule:
    with ledger.writing() as connection:
        set_rule(connection, rule, "ada", "the auditor asks")
        return rule_of(connection)


def test_a_rule_is_stored_with_who_set_it_and_opened_ledgers_obey_it(own_ledger_url: str) -> None:
    before = open_ledger(own_ledger_url)
    assert (before.four_eyes, before.needs_approval("fees.process", "money")) == ("off", False)

    assert change(before, "off") == "off"
    assert audit_of(before, "four_eyes") == []
    assert change(before, "money") == "money"

    after = open_ledger(own_ledger_url)
    assert (after.four_eyes, after.needs_approval("fees.process", "bulk")) == ("money", True)
    [entry] = audit_of(after, "four_eyes")
    detail = {"before": {"rule": "off"}, "after": {"rule": "money"}}
    assert entry == AuditEntry(entry.at, "ada", "four eyes", "four_eyes", "the auditor asks", detail)
    for ledger in (before, after):
        ledger.close()


def test_a_rule_that_this_code_does_not_know_is_the_strictest(own_ledger_url: str) -> None:
    ledger = open_ledger(own_ledger_url)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_schema_version SET four_eyes = 'of a newer version'"))
        assert rule_of(connection) == "all"
        connection.execute(text("DELETE FROM b2copy_schema_version"))
        assert rule_of(connection) == "all"
    ledger.close()


@pytest.mark.parametrize("one", RULES)
@pytest.mark.parametrize("other", RULES)
def test_of_two_rules_the_stricter_one_counts(one: Rule, other: Rule) -> None:
    assert stricter(one, other) == ["off", "money", "all"][max(RULES.index(one), RULES.index(other))]
