"""Receive notices in Python.  pip install standardwebhooks;  python receiver.py PORT SECRET_FILE DATABASE"""

import json
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook

port, secret_file, database = sys.argv[1:]
webhook = Webhook(Path(secret_file).read_text().split()[0])
UPSERT = """INSERT INTO fees (key, state, sequence) VALUES (:key, :state, :sequence)
    ON CONFLICT (key) DO UPDATE SET state = excluded.state, sequence = excluded.sequence
    WHERE excluded.sequence > fees.sequence"""  # a notice may come twice, or after a newer one


LIMIT = 1024 * 1024  # bytes of a body; a notice has less


class Receiver(BaseHTTPRequestHandler):
    timeout = 20  # seconds to wait for a sender that has gone away or is slow

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return self.answer(411)
        if int(length) > LIMIT:
            return self.answer(413)
        body = self.rfile.read(int(length))  # these bytes are signed: verify them, then parse
        try:
            webhook.verify(body, dict(self.headers))
        except Exception:  # a malformed signature raises another error than a wrong one
            return self.answer(401)
        with closing(sqlite3.connect(database)) as crm, crm:
            if json.loads(body)["type"].startswith("operation."):  # not of `b2copy-sync webhook test`
                # Before a withdrawal is paid, compare data["payload"]["account_login"] with its account, too.
                crm.execute(UPSERT, json.loads(body)["data"])
        return self.answer(204)  # only now: until a 2xx it comes again

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver).serve_forever()
