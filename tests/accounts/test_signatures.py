"""Signatures as Standard Webhooks has them, so that its libraries in other languages can check ours."""

import time

import pytest

from accounts.signatures import TOLERANCE, sign, verify, verify_request

pytestmark = pytest.mark.any_database

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'


def now(later: float = 0) -> str:
    return str(int(time.time() + later))


def signed(timestamp: str, secret: str = SECRET, id: str = ID, body: bytes = BODY) -> str:
    return sign(secret, id, int(timestamp), body)


def test_the_specifications_own_example_comes_out() -> None:
    assert sign(SECRET, ID, 1614265330, BODY) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_without_prefix_is_its_own_key() -> None:
    at = now()
    assert signed(at, "whsec_c2VjcmV0") == signed(at, "secret")
    assert signed(at, "c2VjcmV0") != signed(at, "secret")


def test_what_was_signed_is_good() -> None:
    at = now()
    assert verify(SECRET, ID, at, BODY, signed(at))


def test_each_part_is_signed() -> None:
    at = now()
    good = signed(at)
    assert not verify("whsec_c2VjcmV0", ID, at, BODY, good)
    assert not verify(SECRET, ID + "x", at, BODY, good)
    assert not verify(SECRET, ID, now(1), BODY, good)
    assert not verify(SECRET, ID, at, BODY + b" ", good)


def test_one_good_signature_among_several_is_enough() -> None:
    at = now()
    assert verify(SECRET, ID, at, BODY, f"v1,b2xk v1a,x {signed(at)}")
    assert not verify(SECRET, ID, at, BODY, "v1,b2xk v1a,x")


def test_old_and_future_calls_are_refused() -> None:
    for later in (-TOLERANCE - 5, TOLERANCE + 5):
        at = now(later)
        assert not verify(SECRET, ID, at, BODY, signed(at))
        assert verify(SECRET, ID, at, BODY, signed(at), tolerance=2 * TOLERANCE)


@pytest.mark.parametrize("timestamp", ["", "x", "-1", "1.5", "1e9", "\u0661", " 1", "9" * 5000])
def test_a_timestamp_that_is_none_is_refused(timestamp: str) -> None:
    assert not verify(SECRET, ID, timestamp, BODY, "v1,x", tolerance=1e12)


@pytest.mark.parametrize("signatures", ["", " ", "v1", "v1,", "v2,x", "é", "v1,ÿ"])
def test_a_signature_that_is_none_is_refused(signatures: str) -> None:
    assert not verify(SECRET, ID, now(), BODY, signatures)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no base64", "whsec_a-b_"])
def test_a_secret_that_cannot_be_one_is_an_error(secret: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        sign(secret, ID, 1, BODY)


def headers(timestamp: str, secret: str = SECRET, id: str = ID) -> dict[str, str]:
    return {
        "Webhook-Id": id,
        "WEBHOOK-TIMESTAMP": timestamp,
        "webhook-signature": signed(timestamp, secret, id),
        "Host": "é",
    }


def test_a_request_is_good_by_either_secret_while_they_are_rotated() -> None:
    assert verify_request(["whsec_c2VjcmV0", SECRET], headers(now()), BODY)
    assert verify_request(["whsec_c2VjcmV0"], headers(now(), "whsec_c2VjcmV0"), BODY)
    assert not verify_request(["whsec_c2VjcmV0"], headers(now()), BODY)
    assert not verify_request([], headers(now()), BODY)


def test_a_request_that_is_old_changed_or_lacks_a_header_is_refused() -> None:
    good = headers(now())
    assert not verify_request([SECRET], good, BODY + b" ")
    assert not verify_request([SECRET], headers(now(-TOLERANCE - 5)), BODY)
    assert not verify_request([SECRET], headers(now(), id=""), BODY)
    for missing in list(good)[:3]:
        assert not verify_request([SECRET], {name: value for name, value in good.items() if name != missing}, BODY)
