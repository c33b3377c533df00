"""The sandbox's OpenAPI document: the documented routes as we read them, served at /openapi.json.

B2COPY publishes none. What its pages leave open is left open here: those schemas say what the sandbox answers with its
switches as they are at the start.
"""

from typing import Any

from worker.sandbox import b2copy, generation1_api

_DOCS = "https://docs.b2copy.b2broker.com"
_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "integer"}
_REFUSALS = {
    "400": "unusable body",
    "401": "no, unknown or expired credentials",
    "429": "too many calls",
    "503": "away",
}


def _object(optional: dict[str, Any] | None = None, /, **required: Any) -> dict[str, Any]:
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": sorted(required)}


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _route(
    name: str, page: str, answer: Any, body: Any = None, security: str | None = "accessToken", **more: Any
) -> dict[str, Any]:
    refused = {"$ref": "#/components/schemas/Refused"}
    route: dict[str, Any] = {
        "operationId": name,
        "externalDocs": {"url": _DOCS, "description": page},
        "security": [{security: []}] if security else [],
        "responses": {
            "200": {"description": "done", "content": _content(answer)},
            **{code: {"description": why, "content": _content(refused)} for code, why in _REFUSALS.items()},
        },
        **more,
    }
    for code, why in {"403": "not permitted", "404": "not known", "409": "there already"}.items():
        route["responses"][code] = {"description": why, "content": _content(refused)}
    if body:
        route["requestBody"] = {"required": True, "content": _content(body)}
    return route


_PAIR = _object(accessToken=_TEXT, refreshToken=_TEXT)
_FEES = _object(account_login=_TEXT, request_id=_TEXT)
_WORDS = {name: {"type": "string"} for name in ("error", "message", "details")}
_FEES_STATUS = _object(_WORDS, account_login=_TEXT, request_id=_TEXT, status={"enum": [1, 2, 3]})
_DATED = _object(token=_TEXT, createdAt=_TEXT, expiresAt=_TEXT)
_SIGNED_IN = _object({"accessToken": _DATED, "refreshToken": _DATED}, **{"2faRequired": {"type": "boolean"}})
_NEW_ACCOUNT = _object(
    {"accountName": {"type": "string"}, "accountDescription": {"type": "string"}},
    clientId=_NUMBER,
    investmentPlatformId=_NUMBER,
    accountNumber=_TEXT,
    productCurrencyId=_NUMBER,
    isMaster={"enum": [0, 1]},
)
_ACCOUNT = {"allOf": [_NEW_ACCOUNT, _object(id=_NUMBER, createdAt=_TEXT)]}
_SEARCH = _object(
    {
        "investment_platform_id": _NUMBER,
        "account_number": _TEXT,
        "email": _TEXT,
        "is_master": {"type": "boolean"},
        "limit": _NUMBER,
        "offset": _NUMBER,
        "sort_by": {"const": "created_at"},
        "sort_order": {"enum": ["asc", "desc"]},
    }
)
_CLIENT = _object(id=_NUMBER, side_login=_TEXT, investment_platform_id=_TEXT, payment_account=_object(id=_NUMBER))
_WIZARD = _object(side_login=_TEXT, token=_TEXT, investment_platform_id=_TEXT, device_fingerprint=_TEXT)


def _enveloped(data: Any) -> dict[str, Any]:
    meta = _object(behaviours={"type": "array"}, status=_NUMBER)
    return _object(status={"const": 200}, meta=meta, data=data)


_CRM_GUIDE = "Integrate your external CRM system with B2COPY API"
_FEES_PAGE = "Initiate fee processing between Master and Investment accounts"
_SIGN_IN_PAGE = "Authorization in the Back Office"
_LIST_PAGE = "Get a list of Master and Investment accounts"
_CREATE_PAGE = "Create a Master or Investment account using the existing MT account"
_AUTH_PAGE = "Seamless authorization (only for a standalone solution)"
_CLIENT_PAGE = "Register a client and create their payment account (only for a standalone solution)"
_UUID = {"name": "uuid", "in": "path", "required": True, "schema": _TEXT}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "B2COPY as its public documentation describes it", "version": "1"},
    "paths": {
        b2copy.AUTH: {
            "post": _route("authexternalcrm", _CRM_GUIDE, _PAIR, _object(external_token=_TEXT), security=None)
        },
        b2copy.REFRESH: {"post": _route("refreshtoken", _CRM_GUIDE, _PAIR, security="refreshToken")},
        b2copy.PROCESS: {"post": _route("processext", _FEES_PAGE, _FEES_STATUS, _FEES)},
        generation1_api.SIGN_IN: {
            "post": _route("signin", _SIGN_IN_PAGE, _SIGNED_IN, _object(email=_TEXT, password=_TEXT), security=None)
        },
        generation1_api.ACCOUNTS: {
            "get": _route("accounts.list", _LIST_PAGE, {"type": "array", "items": _ACCOUNT}, _SEARCH)
        },
        generation1_api.CREATE: {"post": _route("accounts.create", _CREATE_PAGE, _ACCOUNT, _NEW_ACCOUNT)},
        generation1_api.AUTH_URL: {
            "post": _route(
                "auth_url",
                _AUTH_PAGE,
                _enveloped(_object(url=_TEXT)),
                _object(account_id=_TEXT, secret_key=_TEXT, investment_platform_id=_TEXT),
                security=None,
            )
        },
        generation1_api.INIT: {
            "get": _route("wizard.init", _CLIENT_PAGE, _enveloped(_object(uuid=_TEXT, workflow=_TEXT)), security=None)
        },
        generation1_api.WIZARDS + "{uuid}": {
            "post": _route("wizard", _CLIENT_PAGE, _enveloped(_CLIENT), _WIZARD, security=None, parameters=[_UUID])
        },
    },
    "components": {
        "securitySchemes": {
            "accessToken": {"type": "http", "scheme": "bearer"},
            "refreshToken": {
                "type": "http",
                "scheme": "bearer",
                "description": "the refresh token, not the access one",
            },
        },
        "schemas": {"Refused": _object(code=_NUMBER, message=_TEXT, details={"type": "array"})},
    },
}
