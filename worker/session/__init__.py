"""The shared authenticated session. `shared.py` describes how it works."""

from worker.session.key_files import check as check_keys
from worker.session.key_files import generate, generate_storage
from worker.session.leader import Renewal
from worker.session.login import Identity, Login
from worker.session.shared import SharedSession, State
from worker.session.tokens import Token

__all__ = [
    "Identity",
    "Login",
    "Renewal",
    "SharedSession",
    "State",
    "Token",
    "check_keys",
    "generate",
    "generate_storage",
]
