"""The yardstick: bare ASGI that parses the same body and answers a constant of the same size."""

import msgspec

from shadow_mlops.example import ENTITY, FEATURES

_KINDS = {"number": float, "integer": float, "boolean": float, "string": str}
Body = msgspec.defstruct("Body", [(ENTITY, str), *((f.name, _KINDS[f.kind] | None) for f in FEATURES)])
_decode = msgspec.json.Decoder(Body).decode

_ANSWER = (
    b'{"probability":0.4212345678901234,"label":0,"confidence":0.5787654321098766,"risk_tier":"MEDIUM",'
    b'"model_version":"2.1.0","request_id":"0123456789abcdef0123456789abcdef"}'
)
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_ANSWER)).encode()),
        (b"x-request-id", b"0123456789abcdef0123456789abcdef"),
    ],
}
_BODY = {"type": "http.response.body", "body": _ANSWER}
_REFUSED = {"type": "http.response.start", "status": 422, "headers": [(b"content-length", b"0")]}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    try:
        _decode(body)
    except msgspec.DecodeError:
        await send(_REFUSED)
        await send({"type": "http.response.body", "body": b""})
        return
    await send(_START)
    await send(_BODY)
