"""What a person of the console may do."""

from enum import StrEnum


class Role(StrEnum):
    """Each role includes reading, and no other role."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
