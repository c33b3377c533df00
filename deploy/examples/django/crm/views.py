"""Request the fees of a withdrawal, and be told what became of them."""

import json
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Case, Value, When
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from standardwebhooks import Webhook

from crm.models import Withdrawal
from tasks import enqueue


@csrf_exempt
@require_POST
def request_withdrawal(request: HttpRequest) -> HttpResponse:
    """Store the withdrawal and request its fees, both or neither."""
    wanted: dict[str, Any] = json.loads(request.body)
    with transaction.atomic():
        withdrawal, is_new = Withdrawal.objects.get_or_create(id=wanted["id"], defaults={"login": wanted["login"]})
        if is_new:
            enqueue.fees(account_login=withdrawal.login, request_id=withdrawal.id, using="default")
            Withdrawal.objects.filter(id=withdrawal.id).update(fees="requested")
    return JsonResponse({"id": withdrawal.id}, status=202)


def show_withdrawal(request: HttpRequest, withdrawal_id: str) -> HttpResponse:
    withdrawal = get_object_or_404(Withdrawal, id=withdrawal_id)
    return JsonResponse({"id": withdrawal.id, "fees": withdrawal.fees, "may_be_paid": withdrawal.fees == "succeeded"})


@csrf_exempt
@require_POST
def receive_notice(request: HttpRequest) -> HttpResponse:
    """A notice of b2copy-sync: may come twice, and after a newer one."""
    secret = settings.WEBHOOK_SECRET_FILE.read_text().split()[0]
    try:
        Webhook(secret).verify(request.body, dict(request.headers))  # the raw bytes, before they are parsed
    except Exception:  # a malformed signature raises another error than a wrong one
        return HttpResponse(status=401)
    notice: dict[str, Any] = json.loads(request.body)
    if notice["type"].startswith("operation.") and notice["data"]["kind"] == "fees.process":
        data, payload = notice["data"], notice["data"]["payload"]
        # After `failed correct`, the fees may be those of another account: a person must look, and nothing is paid.
        of_ours = When(login=payload["account_login"], then=Value(data["state"]))
        Withdrawal.objects.filter(id=payload["request_id"], sequence__lt=data["sequence"]).update(
            fees=Case(of_ours, default=Value("other account")), sequence=data["sequence"]
        )
    return HttpResponse(status=204)  # only now: until a 2xx it comes again
