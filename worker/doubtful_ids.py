"""Ids that look as if a spreadsheet had changed them. They may be right nevertheless.

`123456` becomes `123.456` where a dot separates thousands, `01-45` becomes `Jan-45`, and of more than 15 digits a
spreadsheet keeps 15 and fills up with zeros.
"""

import re

_MONTH = (
    "(?:jan(?:uary?)?|feb(?:ruary?)?|mar(?:ch)?|mrz|apr(?:il)?|ma[iy]|jun[ei]?|jul[iy]?|aug(?:ust)?"
    "|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_NUMBER_OR_DATE = {  # each of them holds a separator
    "is a number with a decimal point or with separators": r"\d+\.\d+|\d{1,3}(?:[.']\d{3})+",
    "is what a spreadsheet makes of a date": (
        rf"\d{{1,2}}[-. /]{_MONTH}(?:[-. /]\d{{2,4}})?|{_MONTH}[-. /]\d{{2,4}}"
        r"|\d{1,2}([-./])\d{1,2}\1\d{2,4}|\d{4}([-./])\d{1,2}\2\d{1,2}"
    ),
}
_CUT = re.compile(r"[1-9]\d{14}0+")


def number_or_date(text: str) -> str:
    """Return what a text looks like if it is a number with separators or a date, or an empty text."""
    if text.isalnum():  # nearly all logins are, and an import checks a million
        return ""
    return next((what for what, form in _NUMBER_OR_DATE.items() if re.fullmatch(form, text, re.IGNORECASE)), "")


def doubt_about(text: str) -> str:
    """Return what an id looks like that a spreadsheet may have changed, or an empty text."""
    if _CUT.fullmatch(text):
        return "has only zeros after its 15th digit, as when a spreadsheet cuts a long number"
    return number_or_date(text)
