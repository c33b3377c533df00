"""The sandbox's OpenAPI document: the twelve documented routes as we read them, served at /openapi.json.

B2COPY publishes none. Where its pages leave an answer open, the schema describes the sandbox's answer with the default
switches.
"""

from typing import Any

from worker.sandbox import routes

_DOCS = "https://docs.b2copy.b2broker.com"
_TEXT = {"type": "string", "minLength": 1}
_ANY_TEXT = {"type": "string"}
_INTEGER = {"type": "integer"}
_NOT_NEGATIVE = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_PLATFORM_TEXT = {"type": "string", "minLength": 1, "examples": ["1"]}
_REFUSALS = {
    "400": "a field or parameter is not usable",
    "401": "credentials are missing, unknown or expired",
    "403": "not permitted",
    "404": "not found",
    "409": "exists already",
    "429": "too many calls",
    "503": "unavailable",
}

_CRM_GUIDE = "Integrate your external CRM system with B2COPY API"
_FEES_PAGE = "Initiate fee processing between Master and Investment accounts"
_SIGN_IN_PAGE = "Authorization in the Back Office"
_LIST_PAGE = "Get a list of Master and Investment accounts"
_CREATE_PAGE = "Create a Master or Investment account using the existing MT account"
_STATISTICS_PAGE = "Get data for the statistics widget"
_LEADERBOARD_PAGE = "Get data for the leaderboard widget"
_AUTH_PAGE = "Seamless authorization (only for a standalone solution)"
_CLIENT_PAGE = "Register a client and create their payment account (only for a standalone solution)"


def _object(optional: dict[str, Any] | None = None, /, **required: Any) -> dict[str, Any]:
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": sorted(required)}


def _enveloped(data: Any) -> dict[str, Any]:
    meta = _object(behaviours={"type": "array"}, status=_INTEGER)
    return _object(status={"const": 200}, meta=meta, data=data)


def _parameter(name: str, schema: Any, where: str = "query") -> dict[str, Any]:
    return {"name": name, "in": where, "required": True, "schema": schema}


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _route(
    name: str,
    page: str,
    answer: Any,
    body: Any = None,
    security: str | None = "accessToken",
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    refused = _content({"$ref": "#/components/schemas/Refused"})
    route: dict[str, Any] = {
        "operationId": name,
        "externalDocs": {"url": _DOCS, "description": page},
        "security": [{security: []}] if security else [],
        "responses": {
            "200": {"description": "done", "content": _content(answer)},
            **{code: {"description": reason, "content": refused} for code, reason in _REFUSALS.items()},
        },
    }
    if body:
        route["requestBody"] = {"required": True, "content": _content(body)}
    if parameters:
        route["parameters"] = parameters
    return route


_PAIR = _object(accessToken=_TEXT, refreshToken=_TEXT)
_FEES = _object(account_login=_TEXT, request_id=_TEXT)
_MESSAGES = dict.fromkeys(("error", "message", "details"), _ANY_TEXT)
_FEES_STATUS = _object(_MESSAGES, account_login=_TEXT, request_id=_TEXT, status={"enum": [1, 2, 3]})
_DATED = _object(token=_TEXT, createdAt=_TEXT, expiresAt=_TEXT)
_SIGNED_IN = _object({"accessToken": _DATED, "refreshToken": _DATED}, **{"2faRequired": {"type": "boolean"}})
_NEW_ACCOUNT = _object(
    {"accountName": _ANY_TEXT, "accountDescription": _ANY_TEXT},
    clientId=_INTEGER,
    investmentPlatformId=_INTEGER,
    accountNumber=_TEXT,
    productCurrencyId=_INTEGER,
    isMaster={"type": "integer", "enum": [0, 1]},
)
_ACCOUNT = {"allOf": [_NEW_ACCOUNT, _object(id=_INTEGER, email=_TEXT, createdAt=_TEXT)]}
_SEARCH = _object(
    {
        "investment_platform_id": _INTEGER,
        "account_number": _TEXT,
        "email": _TEXT,
        "is_master": {"type": "boolean"},
        "limit": _NOT_NEGATIVE,
        "offset": _NOT_NEGATIVE,
        "sort_by": {"const": "created_at"},
        "sort_order": {"enum": ["asc", "desc"]},
    }
)
_DETAIL = _object(
    id=_INTEGER,
    aum=_TEXT,
    followers=_INTEGER,
    badge=_ANY_TEXT,
    created=_TEXT,
    currency=_TEXT,
    description=_ANY_TEXT,
)
_LEADER = _object(
    name=_ANY_TEXT,
    badge=_ANY_TEXT,
    created=_TEXT,
    login=_TEXT,
    currency=_TEXT,
    risk=_TEXT,
    profit={"type": "array"},
)
_VISITOR = _object(account_id=_TEXT, secret_key=_TEXT, investment_platform_id=_PLATFORM_TEXT)
_WIZARD = _object(side_login=_TEXT, token=_TEXT, investment_platform_id=_PLATFORM_TEXT, device_fingerprint=_TEXT)
_CLIENT = _object(id=_INTEGER, side_login=_TEXT, investment_platform_id=_TEXT, payment_account=_object(id=_INTEGER))
_OF_PLATFORM = _parameter("investment_platform_id", _NOT_NEGATIVE)
_OF_ACCOUNT = [_parameter("account", _TEXT, "path"), _OF_PLATFORM]
_OF_BOARD = [_OF_PLATFORM, _parameter("platform", {"type": "integer", "enum": [1, 2, 3]})]

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "B2COPY as its public documentation describes it", "version": "1"},
    "paths": {
        routes.AUTH: {
            "post": _route("authexternalcrm", _CRM_GUIDE, _PAIR, _object(external_token=_TEXT), security=None)
        },
        routes.REFRESH: {"post": _route("refreshtoken", _CRM_GUIDE, _PAIR, security="refreshToken")},
        routes.PROCESS: {"post": _route("processext", _FEES_PAGE, _FEES_STATUS, _FEES)},
        routes.SIGN_IN: {
            "post": _route("signin", _SIGN_IN_PAGE, _SIGNED_IN, _object(email=_TEXT, password=_TEXT), security=None)
        },
        routes.ACCOUNTS: {"get": _route("accounts.list", _LIST_PAGE, {"type": "array", "items": _ACCOUNT}, _SEARCH)},
        routes.CREATE: {"post": _route("accounts.create", _CREATE_PAGE, _ACCOUNT, _NEW_ACCOUNT)},
        routes.DETAIL + "{account}": {
            "get": _route("widget.detail", _STATISTICS_PAGE, _enveloped(_DETAIL), parameters=_OF_ACCOUNT)
        },
        routes.STATISTICS + "{account}": {
            "get": _route("widget.statistics", _STATISTICS_PAGE, _enveloped({"type": "object"}), parameters=_OF_ACCOUNT)
        },
        routes.LEADERBOARD: {
            "get": _route(
                "widget.leaderboard",
                _LEADERBOARD_PAGE,
                _enveloped(_object(accounts={"type": "array", "items": _LEADER})),
                parameters=_OF_BOARD,
            )
        },
        routes.AUTH_URL: {
            "post": _route("auth_url", _AUTH_PAGE, _enveloped(_object(url=_TEXT)), _VISITOR, security=None)
        },
        routes.INIT: {
            "get": _route("wizard.init", _CLIENT_PAGE, _enveloped(_object(uuid=_TEXT, workflow=_TEXT)), security=None)
        },
        routes.WIZARDS + "{uuid}": {
            "post": _route(
                "wizard",
                _CLIENT_PAGE,
                _enveloped(_CLIENT),
                _WIZARD,
                security=None,
                parameters=[_parameter("uuid", _TEXT, "path")],
            )
        },
    },
    "components": {
        "securitySchemes": {
            "accessToken": {"type": "http", "scheme": "bearer"},
            "refreshToken": {
                "type": "http",
                "scheme": "bearer",
                "description": "the refresh token, not the access token",
            },
        },
        "schemas": {"Refused": _object(code=_INTEGER, message=_TEXT, details={"type": "array"})},
    },
}
