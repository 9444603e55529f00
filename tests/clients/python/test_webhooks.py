"""verify_webhook, beside what the server signs."""

import time

import pytest

from accounts import signatures
from fanfare_client import InvalidSignature, sign_webhook, verify_webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_bm90IHRoZSBzYW1lIHNlY3JldA=="
BODY = b'{"type": "message", "data": 1}'


def signed(secret: str = SECRET, age: int = 0, body: bytes = BODY) -> dict[str, str]:
    at = int(time.time()) - age
    return {
        "Webhook-Id": "m1",
        "webhook-timestamp": str(at),
        "WEBHOOK-SIGNATURE": signatures.sign(secret, "m1", at, body),
    }


def test_what_the_server_signs_is_taken() -> None:
    assert verify_webhook(signed(), BODY, SECRET) == {"type": "message", "data": 1}
    assert verify_webhook(signed(OTHER), BODY, [SECRET, OTHER])["data"] == 1
    rotated = signed() | {"WEBHOOK-SIGNATURE": f"v1,AAAA {signed()['WEBHOOK-SIGNATURE']}"}
    assert verify_webhook(rotated, BODY, SECRET)["data"] == 1
    assert sign_webhook(SECRET, "m1", 7, BODY) == signatures.sign(SECRET, "m1", 7, BODY)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY),
        (signed(OTHER), BODY),
        (signed(), BODY + b" "),
        (signed(age=4000), BODY),
        (signed(age=-4000), BODY),
        (signed() | {"Webhook-Id": "m2"}, BODY),
        (signed() | {"webhook-timestamp": "٣"}, BODY),
        (signed() | {"webhook-timestamp": "9" * 400}, BODY),
        (signed() | {"WEBHOOK-SIGNATURE": ""}, BODY),
        (signed() | {"WEBHOOK-SIGNATURE": "v1,é\N{SNOWMAN}"}, BODY),
        (signed() | {"WEBHOOK-SIGNATURE": "v1,\udce9"}, BODY),
        (signed() | {"Webhook-Id": "\udce9"}, BODY),
        (signed(body=b"{"), b"{"),
    ],
)
def test_anything_else_is_refused(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(InvalidSignature):
        verify_webhook(headers, body, SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%"])
def test_a_secret_that_is_none_is_a_fault_of_the_program(secret: str) -> None:
    with pytest.raises(ValueError, match=r"secret|base64"):
        verify_webhook(signed(), BODY, secret)
