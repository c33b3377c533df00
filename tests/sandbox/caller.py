"""A plain HTTP caller of the sandbox: it signs assertions, logs in and calls routes."""

import socket
import time
from typing import Any

import jwt
import requests
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from worker.sandbox.routes import AUTH, PROCESS, REFRESH
from worker.testbed.keys import KeyPair


class Caller:
    def __init__(self, base_url: str, keys: KeyPair) -> None:
        self.base_url, self.keys = base_url, keys
        self.http = requests.Session()
        self.http.trust_env = False
        self._key: Any = load_pem_private_key(keys.private_file.read_bytes(), None)

    def assertion(self, **changes: Any) -> str:
        """Return a valid assertion with changed claims; None leaves a claim out."""
        now = int(time.time())
        valid = {"admin_id": 42, "device_ip": "127.0.0.1", "key_id": self.keys.key_id}
        claims = valid | {"iss": "test", "iat": now, "exp": now + 300} | changes
        return jwt.encode({name: value for name, value in claims.items() if value is not None}, self._key, "ES256")

    def log_in(self, **claims: Any) -> requests.Response:
        return self.post(AUTH, {"external_token": self.assertion(**claims)})

    def pair(self) -> tuple[str, str]:
        """Log in; return access and refresh token."""
        pair = self.log_in().json()
        return pair["accessToken"], pair["refreshToken"]

    def refresh(self, token: str) -> requests.Response:
        return self.post(REFRESH, token=token)

    def fees(self, token: str, login: str = "1001", request_id: str = "W1") -> requests.Response:
        return self.post(PROCESS, {"account_login": login, "request_id": request_id}, token)

    def post(self, path: str, body: Any = None, token: str | None = None, timeout: float = 5.0) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.http.post(self.base_url + path, json=body, headers=headers, timeout=timeout, allow_redirects=False)

    def raw(self, path: str, body: bytes, token: str, keep: bool = False) -> bytes:
        """Return all bytes until the connection ends; with `keep` the request does not ask to close it."""
        host, _, port = self.base_url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as wire:
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            head += f"Connection: {'keep-alive' if keep else 'close'}\r\n"
            wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            received = b""
            while part := wire.recv(65536):
                received += part
            return received
