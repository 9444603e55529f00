"""JWT_ISSUERS: what is wrong or weak stops the start, and says where."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from django.conf import LazySettings

from accounts import checks, issuer_settings
from tests.accounts.jwks_server import signing_key

pytestmark = pytest.mark.any_database

SECRET = "a secret of 32 bytes, for the tests"


def test_presets_fill_in_what_is_known() -> None:
    entries = [
        {"preset": "firebase", "project": "my-project"},
        {"preset": "auth0", "domain": "x.eu.auth0.com", "audiences": ["https://api"]},
    ]
    firebase, auth0 = issuer_settings.read(entries).values()
    assert firebase.name == "https://securetoken.google.com/my-project"
    assert firebase.jwks_url == issuer_settings.FIREBASE_CERTIFICATES
    assert firebase.audiences == frozenset({"my-project"})
    assert firebase.algorithms == ("RS256",)
    assert auth0.name == "https://x.eu.auth0.com/"
    assert auth0.jwks_url == "https://x.eu.auth0.com/.well-known/jwks.json"


KEYED = {"issuer": "https://a", "jwks_url": "https://a/keys", "audiences": []}
WITH_SECRET = {"issuer": "a", "secret": SECRET, "audiences": []}
WRONG: dict[str, tuple[Any, str]] = {
    "no list": ({"issuer": "a"}, "list"),
    "no object": (["https://a"], "object"),
    "nothing in it": ([{}], "issuer"),
    "neither keys nor secret": ([{"issuer": "a", "audiences": []}], "either jwks_url or secret"),
    "keys and secret": ([KEYED | {"secret": SECRET}], "either jwks_url or secret"),
    "a key that does not exist": ([KEYED | {"audience": "x"}], "audience"),
    "a text for a list": ([KEYED | {"audiences": "x"}], "audiences"),
    "no audiences": ([{"issuer": "a", "jwks_url": "https://a/keys"}], "audiences"),
    "an empty audience": ([KEYED | {"audiences": [""]}], "audience is empty"),
    "algorithm none": ([KEYED | {"algorithms": ["none"]}], "algorithms"),
    "algorithm none among others": ([KEYED | {"algorithms": ["RS256", "none"]}], "algorithms"),
    "no algorithm": ([KEYED | {"algorithms": []}], "algorithms"),
    "an algorithm that does not exist": ([KEYED | {"algorithms": ["RS1"]}], "algorithms"),
    "two families": ([KEYED | {"algorithms": ["RS256", "ES256"]}], "one family"),
    "a secret's and keys' families": ([KEYED | {"algorithms": ["RS256", "HS256"]}], "one family"),
    "HS256 with keys": ([KEYED | {"algorithms": ["HS256"]}], "go with secret"),
    "RS256 with a secret": ([WITH_SECRET | {"algorithms": ["RS256"]}], "secret goes with"),
    "EdDSA with a secret": ([WITH_SECRET | {"algorithms": ["EdDSA"]}], "secret goes with"),
    "a public key as a secret": ([WITH_SECRET | {"secret": signing_key("one").pem().decode()}], "no secret"),
    "the same issuer twice": ([KEYED, KEYED], "twice"),
    "our own name": ([KEYED | {"issuer": "fanfare"}], "own tokens"),
    "a file": ([KEYED | {"jwks_url": "file:///etc/passwd"}], "https://"),
    "no host": ([KEYED | {"jwks_url": "https:///keys"}], "https://"),
    "an address with a line feed": ([KEYED | {"jwks_url": "https://a/keys\r\nX: 1"}], "https://"),
    "an address with a password": ([KEYED | {"jwks_url": "https://u:p@a/keys"}], "user"),
    "a port that is none": ([KEYED | {"jwks_url": "https://a:99999/keys"}], "ort"),
    "a preset that does not exist": ([{"preset": "okta"}], "preset"),
    "cognito without issuer": ([{"preset": "cognito", "audiences": []}], "issuer"),
    "firebase without project": ([{"preset": "firebase"}], "project"),
    "auth0 with an address": ([{"preset": "auth0", "domain": "https://x/", "audiences": []}], "domain"),
    "a project without preset": ([KEYED | {"project": "x"}], "firebase"),
    "a preset with a secret": ([{"preset": "firebase", "project": "x", "secret": SECRET}], "secret"),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_wrong_setting_is_an_error_at_the_start(settings: LazySettings, which: str) -> None:
    settings.JWT_ISSUERS, reason = WRONG[which]
    (error,) = checks.check_jwt_issuers()
    assert error.id == "accounts.E001"
    assert error.msg.startswith("JWT_ISSUERS")
    assert reason in error.msg
    assert SECRET not in error.msg


WEAK = {
    "keys over http": KEYED | {"jwks_url": "http://a/keys"},
    "a short secret": WITH_SECRET | {"secret": "31 characters are one too few.."},
    "a secret shorter than its hash": WITH_SECRET | {"algorithms": ["HS256", "HS512"]},
}


@pytest.mark.parametrize("which", WEAK)
def test_a_weak_setting_is_an_error_in_production(settings: LazySettings, which: str) -> None:
    settings.JWT_ISSUERS = [WEAK[which]]
    (warning,) = checks.check_jwt_issuers()
    assert warning.id == "accounts.W002"
    settings.PRODUCTION = True
    (error,) = checks.check_jwt_issuers()
    assert error.id == "accounts.E002"
    assert error.msg.startswith("JWT_ISSUERS")


def test_good_settings_pass_and_no_issuer_is_one_of_them(settings: LazySettings) -> None:
    settings.PRODUCTION = True
    for value in ([], [KEYED, WITH_SECRET]):
        settings.JWT_ISSUERS = value
        assert checks.check_jwt_issuers() == []
    assert checks.check_credential_days() == []
    settings.CREDENTIAL_MAX_DAYS = 0
    assert [error.id for error in checks.check_credential_days()] == ["accounts.E003"]


def test_a_secret_does_not_show_in_the_log(settings: LazySettings) -> None:
    settings.JWT_ISSUERS = [WITH_SECRET]
    assert SECRET not in repr(issuer_settings.issuers())


def test_the_documented_example_is_a_good_one(settings: LazySettings) -> None:
    page = (settings.BASE_DIR / "docs/settings.md").read_text()
    (example,) = re.findall(r"`JWT_ISSUERS`[^`]*```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    settings.PRODUCTION = True
    settings.JWT_ISSUERS = json.loads(example)
    assert checks.check_jwt_issuers() == []
    assert len(issuer_settings.issuers()) == 5


def test_a_setting_that_is_no_json_stops_every_command_and_an_empty_one_is_none() -> None:
    def start(value: str) -> subprocess.CompletedProcess[str]:
        code = "from django.conf import settings; print(settings.JWT_ISSUERS)"
        env = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings", "JWT_ISSUERS": value}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)

    wrong = start('[{"secret": "hush"')
    assert wrong.returncode != 0
    assert "JWT_ISSUERS is not JSON" in wrong.stderr
    assert "hush" not in wrong.stderr
    assert start("").stdout == start("[]").stdout == "[]\n"
