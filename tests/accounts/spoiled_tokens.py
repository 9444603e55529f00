"""Tokens of the test's issuer, and all the ways in which one can be wrong."""

import base64
import json
import time
from typing import Any

import jwt

from accounts import tokens
from tests.accounts.jwks_server import SigningKey, signing_key

ISSUER = "https://login.example.com"
DAY = 24 * 3600


def good(**claims: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": ISSUER, "sub": "alice", "aud": "fanfare", "iat": now, "exp": now + 60} | claims


def without(name: str) -> dict[str, Any]:
    return {claim: value for claim, value in good().items() if claim != name}


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def oddly(claims: Any, key: SigningKey) -> str:
    """What PyJWT refuses to sign, signed all the same."""
    raw = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jwt.api_jws.encode(raw, key.private, algorithm="RS256", headers={"kid": key.kid})


def hmac_signed(claims: dict[str, Any], secret: bytes, kid: str = "one", algorithm: str = "HS256") -> str:
    """By hand: PyJWT does not take a public key for a secret."""
    text = f"{part({'alg': algorithm, 'typ': 'JWT', 'kid': kid})}.{part(claims)}"
    hashed = jwt.get_algorithm_by_name(algorithm).sign(text.encode(), secret)
    return f"{text}.{part(hashed)}"


def with_header(key: SigningKey, **header: Any) -> str:
    """By hand: PyJWT leaves out what it thinks is needless."""
    text = f"{part({'alg': 'RS256', 'kid': key.kid} | header)}.{part(good())}"
    return f"{text}.{part(jwt.get_algorithm_by_name('RS256').sign(text.encode(), key.private))}"


def spoiled() -> dict[str, Any]:
    """Made when a test runs: what else is right about them is right now."""
    key, mallory = signing_key("one"), SigningKey("one", "ES256")
    other = signing_key("two")
    whole = key.sign(good())
    head, body, signature = whole.split(".")
    now = int(time.time())
    jwk = other.jwk(kid="one")
    return {
        "algorithm none": f"{part({'alg': 'none', 'kid': 'one'})}.{body}.",
        "algorithm none with a signature": f"{part({'alg': 'none', 'kid': 'one'})}.{body}.{signature}",
        "algorithm nOnE": f"{part({'alg': 'nOnE', 'kid': 'one'})}.{body}.",
        "no algorithm": f"{part({'kid': 'one'})}.{body}.{signature}",
        "an algorithm that is a list": f"{part({'alg': ['RS256'], 'kid': 'one'})}.{body}.{signature}",
        "the public key as a secret": hmac_signed(good(), key.pem()),
        "the public key as a secret, trimmed": hmac_signed(good(), key.pem().strip()),
        "the public key as a secret of HS512": hmac_signed(good(), key.pem(), algorithm="HS512"),
        "the JWK as a secret": hmac_signed(good(), json.dumps(key.jwk()).encode()),
        "an empty secret": hmac_signed(good(), b""),
        "RS512 where RS256 is agreed": jwt.encode(good(), key.private, algorithm="RS512", headers={"kid": "one"}),
        "PS256 where RS256 is agreed": jwt.encode(good(), key.private, algorithm="PS256", headers={"kid": "one"}),
        "another kind of key": mallory.sign(good()),
        "somebody else's key": other.sign(good(), kid="one"),
        "somebody else's key, without kid": other.sign(good(), kid=None),
        "a kid that nobody has": key.sign(good(), kid="nobody"),
        "a kid that is a path": hmac_signed(good(), b"", kid="../../../../dev/null"),
        "a signed kid that is a path": key.sign(good(), kid="../../one"),
        "a kid that is SQL": key.sign(good(), kid="' UNION SELECT 'one'; --"),
        "a kid with NUL": key.sign(good(), kid="one\0"),
        "a kid that is a number": f"{part({'alg': 'RS256', 'kid': 1})}.{body}.{signature}",
        "a kid that is an object": f"{part({'alg': 'RS256', 'kid': {'a': 1}})}.{body}.{signature}",
        "a key of its own": other.sign(good(), kid="one", jwk=jwk),
        "a certificate of its own": other.sign(good(), kid="one", x5c=["A" * 400]),
        "an extension that is critical": key.sign(good(), crit=["x"], x=1),
        "an extension that PyJWT knows": with_header(key, crit=["b64"], b64=True),
        "a wrong audience": key.sign(good(aud="shop")),
        "wrong audiences": key.sign(good(aud=["shop", "fanfare.example"])),
        "no audience": key.sign(without("aud")),
        "an empty audience": key.sign(good(aud="")),
        "no audiences": key.sign(good(aud=[])),
        "an audience that is an object": key.sign(good(aud={"fanfare": 1})),
        "audiences that are not all texts": key.sign(good(aud=["fanfare", 1])),
        "a wrong issuer": key.sign(good(iss="https://evil.example.com")),
        "an issuer that begins alike": key.sign(good(iss=ISSUER + ".evil.com")),
        "an issuer with a slash more": key.sign(good(iss=ISSUER + "/")),
        "an issuer that ends alike": key.sign(good(iss="https://evil.com/?" + ISSUER)),
        "an issuer in capitals": key.sign(good(iss=ISSUER.upper())),
        "an issuer that is a list": oddly(good(iss=[ISSUER]), key),
        "no issuer": key.sign(without("iss")),
        "this service's issuer": key.sign(good(iss="fanfare")),
        "not valid yet": key.sign(good(nbf=now + 3600)),
        "issued in an hour": key.sign(good(iat=now + 3600)),
        "an iat before all time": key.sign(good(iat=-(10**18))),
        "an iat that is true": key.sign(good(iat=True)),
        "an iat that is a text": key.sign(good(iat="1")),
        "no exp": key.sign(without("exp")),
        "an exp that is null": key.sign(good(exp=None)),
        "an exp that is a text": key.sign(good(exp=str(now + 60))),
        "an exp that is infinite": key.sign(good(exp=float("inf"))),
        "an exp that is not a number": key.sign(good(exp=float("nan"))),
        "an exp beyond any clock": key.sign(good(exp=10**300)),
        "an exp in 32 days": key.sign(good(exp=now + 32 * DAY)),
        "an exp in 32 days without iat": key.sign(without("iat") | {"exp": now + 32 * DAY}),
        "a life of more than 31 days that is half over": key.sign(good(iat=now - 20 * DAY, exp=now + 20 * DAY)),
        "no sub": key.sign(without("sub")),
        "an empty sub": key.sign(good(sub="")),
        "a sub with a comma": key.sign(good(sub="alice,bob")),
        "a sub with a line feed": key.sign(good(sub="alice\n")),
        "a sub with a lone surrogate": key.sign(good(sub="alice\ud800")),
        "a sub of 201 bytes": key.sign(good(sub="x" * 201)),
        "a sub that is a number": oddly(good(sub=7), key),
        "a sub that is a list": oddly(good(sub=["alice"]), key),
        "an account with a comma": key.sign(good(account="acme,globex")),
        "an account that is a number": key.sign(good(account=7)),
        "an empty account": key.sign(good(account="")),
        "a body that was changed": f"{head}.{part(good(sub='mallory'))}.{signature}",
        "no signature": f"{head}.{body}.",
        "half a signature": whole[:-20],
        "two parts": f"{head}.{body}",
        "four parts": f"{whole}.{signature}",
        "a token in a token": key.sign(good(), cty="JWT").replace(body, part(whole.encode())),
        "claims that are a list": f"{head}.{part([1])}.{signature}",
        "claims that are no JSON": f"{head}.{part(b'{')}.{signature}",
        "claims that are very deep": f"{head}.{part(b'[' * 3000)}.{signature}",
        "claims that hide something very deep": oddly(
            json.dumps(good(x=0)).replace("0}", "[" * 2500 + "]" * 2500 + "}").encode(), key
        ),
        "a header that is very deep": f"{part(b'[' * 3000)}.{body}.{signature}",
        "a megabyte": "x" * 2**20,
        "a megabyte of dots": "." * 2**20,
        "a megabyte that looks like a token": f"{head}.{'A' * 2**20}.{signature}",
        "a good one that is too long": key.sign(good(padding="x" * tokens.MAX_BYTES)),
        "not ASCII": whole + "é",
        "NUL": whole + "\0",
        "dots": "..",
        "nothing in base64": "a.b.c",
    }


def very_deep() -> bytes:
    return json.dumps(good(x=0)).replace("0}", "[" * 2500 + "]" * 2500 + "}").encode()
