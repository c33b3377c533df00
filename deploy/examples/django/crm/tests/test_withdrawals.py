"""The CRM's own tests, with the fixture `b2copy`: see deploy/testing-your-crm.md of b2copy-sync."""

import pytest

from crm.models import Withdrawal


def request(client, withdrawal="W1", login="123456"):
    return client.post("/withdrawals", {"id": withdrawal, "login": login}, content_type="application/json")


def tell(client, b2copy, secret):
    """Deliver every notice to our webhook, as b2copy-sync does."""
    for notice in b2copy.notices:
        answer = client.post(
            "/webhooks/b2copy", notice.body, content_type="application/json", headers=notice.headers(secret)
        )
        assert answer.status_code == 204


def test_a_withdrawal_may_be_paid_when_its_fees_are_charged(client, b2copy, webhook_secret):
    b2copy.fees("123456", pending_polls=2)

    assert request(client).status_code == 202
    assert client.get("/withdrawals/W1").json()["may_be_paid"] is False
    b2copy.run_until_idle()
    tell(client, b2copy, webhook_secret)

    assert client.get("/withdrawals/W1").json() == {"id": "W1", "fees": "succeeded", "may_be_paid": True}
    assert [call.route for call in b2copy.calls] == ["processext"] * 3


def test_a_withdrawal_is_not_paid_when_the_fees_have_failed(client, b2copy, webhook_secret):
    b2copy.fees("123456", ends="ERROR", message="the account is locked")

    request(client)
    b2copy.run_until_idle()
    tell(client, b2copy, webhook_secret)

    assert client.get("/withdrawals/W1").json()["may_be_paid"] is False
    assert b2copy.notices[0].data["server_message"] == "the account is locked"


def test_an_outage_of_b2copy_delays_and_fails_nothing(client, b2copy, webhook_secret):
    b2copy.faults({"what": "status", "status": 503})
    request(client)
    b2copy.run_once()
    assert b2copy.operations[0].state == "waiting"

    b2copy.faults()
    b2copy.run_until_idle()
    tell(client, b2copy, webhook_secret)

    assert client.get("/withdrawals/W1").json()["may_be_paid"] is True


def test_a_withdrawal_that_is_requested_twice_is_charged_once(client, b2copy):
    request(client)
    request(client)
    b2copy.run_until_idle()

    assert len(b2copy.operations) == 1


def test_a_withdrawal_that_cannot_be_stored_requests_no_fees(client, b2copy, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the CRM's own fault, after the fees were requested")

    monkeypatch.setattr("django.db.models.query.QuerySet.update", fail)
    with pytest.raises(RuntimeError):
        request(client)
    b2copy.run_until_idle()

    assert (b2copy.operations, list(Withdrawal.objects.all())) == ([], [])


def test_a_forged_notice_changes_nothing(client, b2copy, webhook_secret):
    request(client)
    b2copy.run_until_idle()
    [notice] = b2copy.notices

    forged = client.post(
        "/webhooks/b2copy", notice.body + " ", content_type="application/json", headers=notice.headers(webhook_secret)
    )

    assert forged.status_code == 401
    assert Withdrawal.objects.get().fees == "requested"


def test_a_test_that_needs_no_b2copy_does_without(client):
    assert client.get("/webhooks/b2copy").status_code == 405
