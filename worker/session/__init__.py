"""The shared authenticated session. `shared_session.py` describes how it works."""

from worker.session.key_files import check as check_keys
from worker.session.key_files import generate, generate_storage
from worker.session.login_interface import Login
from worker.session.renewal_leader import TERMINAL
from worker.session.session_identity import SessionIdentity
from worker.session.shared_session import SharedSession, State

__all__ = [
    "TERMINAL",
    "Login",
    "SessionIdentity",
    "SharedSession",
    "State",
    "check_keys",
    "generate",
    "generate_storage",
]
