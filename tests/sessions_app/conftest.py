import pytest
from django.conf import LazySettings

from adapters.aws import clients
from tests.emulators.aws import Aws
from tests.sessions_app.outside import ROLE_ARN, employ


@pytest.fixture
def queues(aws: Aws, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """Sessions may have queues in an AWS that lets nobody do what their policies do not allow."""
    settings.SESSION_ROLE_ARN = ROLE_ARN
    for name, value in employ(aws).items():
        monkeypatch.setenv(name, value)
    clients.forget()
    aws.enforce_iam()
    return aws
