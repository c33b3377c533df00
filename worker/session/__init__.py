"""The shared authenticated session, and calls through it. `shared.py` tells how it works."""

from worker.session.http import Http
from worker.session.keys import check as check_keys
from worker.session.keys import generate, generate_storage
from worker.session.leader import Renewal
from worker.session.shared import SharedSession, State
from worker.session.tokens import Token
from worker.session.transport import Answer

__all__ = ["Answer", "Http", "Renewal", "SharedSession", "State", "Token", "check_keys", "generate", "generate_storage"]
