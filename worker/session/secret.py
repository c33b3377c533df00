"""A value that must not be shown: a token, a signed assertion, a password, the text of a key file."""

from typing import AnyStr, Generic, NoReturn


class Secret(Generic[AnyStr]):
    """Wraps a secret so that no repr, log line, pickle or error report shows it.

    Error trackers store the local variables of every frame of an error. So a secret travels wrapped, and `reveal` is
    called only where the value is sent, encrypted or parsed, in a frame that raises nothing.
    """

    __slots__ = ("_value",)

    def __init__(self, value: AnyStr) -> None:
        self._value: AnyStr = value

    def reveal(self) -> AnyStr:
        """Return the value. Do not bind it to a name in a frame that may raise."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not leave its process")
