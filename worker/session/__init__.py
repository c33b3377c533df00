"""The shared authenticated session. `shared_session.py` describes how it works."""

from worker.session.key_files import check as check_keys
from worker.session.key_files import generate, generate_storage
from worker.session.login_interface import Login
from worker.session.renewal_leader import TERMINAL, Renewal
from worker.session.session_identity import SessionIdentity
from worker.session.shared_session import SharedSession, State
from worker.session.tokens import Token

__all__ = [
    "TERMINAL",
    "Login",
    "Renewal",
    "SessionIdentity",
    "SharedSession",
    "State",
    "Token",
    "check_keys",
    "generate",
    "generate_storage",
]
