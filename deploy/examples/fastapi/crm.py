"""A small CRM on FastAPI and SQLAlchemy: it requests the fees of withdrawals, and is told what became of them.

    pip install fastapi uvicorn sqlalchemy standardwebhooks b2copy-sync
    CRM_WEBHOOK_SECRET_FILE=... uvicorn crm:app

Its database, CRM_DATABASE_URL, holds the ledger's tables too (`b2copy-sync migrate`): B2COPY_DATABASE_URL names the same
one. To another host, its URL must itself say sslmode=verify-full and name sslrootcert.
"""

import json
import os
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from tasks import enqueue

crm = create_engine(os.environ["CRM_DATABASE_URL"])
webhook = Webhook(Path(os.environ["CRM_WEBHOOK_SECRET_FILE"]).read_text().split()[0])
# After `failed correct`, the fees may be those of another account: a person must look, and nothing is paid.
TELL = """UPDATE withdrawals SET sequence = :sequence,
    fees = CASE WHEN login = :account_login THEN :state ELSE 'other account' END
    WHERE id = :request_id AND sequence < :sequence"""


@asynccontextmanager
async def make_table(_: FastAPI) -> Any:
    with crm.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE IF NOT EXISTS withdrawals (id VARCHAR(40) PRIMARY KEY, login VARCHAR(20) NOT NULL,"
                " fees VARCHAR(20) NOT NULL DEFAULT 'requested', sequence BIGINT NOT NULL DEFAULT 0)"
            )
        )
    yield


def transaction() -> Iterator[Session]:
    """One transaction for each request: committed at its end, rolled back by an exception."""
    with Session(crm) as session, session.begin():
        yield session


app = FastAPI(lifespan=make_table)
# Committed before the answer is sent: a 2xx must mean that it is stored.
Transaction = Annotated[Session, Depends(transaction, scope="function")]


class Withdrawal(BaseModel):
    id: str
    login: str


# Without `async`, FastAPI calls these in threads, so that the database does not block its event loop.
@app.post("/withdrawals", status_code=202)
def request_withdrawal(wanted: Withdrawal, session: Transaction) -> dict[str, str]:
    """Store the withdrawal and request its fees, both or neither. The same withdrawal again changes nothing."""
    insert = "INSERT INTO withdrawals (id, login) VALUES (:id, :login) ON CONFLICT (id) DO NOTHING"
    session.execute(text(insert), wanted.model_dump())
    enqueue.fees(account_login=wanted.login, request_id=wanted.id, connection=session)
    return {"id": wanted.id}


@app.get("/withdrawals/{withdrawal_id}")
def show_withdrawal(withdrawal_id: str, session: Transaction) -> dict[str, Any]:
    fees = session.execute(text("SELECT fees FROM withdrawals WHERE id = :id"), {"id": withdrawal_id}).scalar()
    if fees is None:
        raise HTTPException(404)
    return {"id": withdrawal_id, "fees": fees, "may_be_paid": fees == "succeeded"}


async def genuine(request: Request) -> dict[str, Any]:
    """Return the notice in a request, if its signature is right."""
    body = await request.body()  # the raw bytes: verify them, then parse
    try:
        webhook.verify(body, dict(request.headers))
    except Exception:  # a malformed signature raises another error than a wrong one
        raise HTTPException(401) from None
    return dict(json.loads(body))


@app.post("/webhooks/b2copy", status_code=204)
def receive_notice(notice: Annotated[dict[str, Any], Depends(genuine)], session: Transaction) -> None:
    """A notice of b2copy-sync: may come twice, and after a newer one."""
    data = notice["data"]
    if notice["type"].startswith("operation.") and data["kind"] == "fees.process":
        session.execute(text(TELL), {**data["payload"], "state": data["state"], "sequence": data["sequence"]})
