"""What moto's IAM lacks: with a session policy, one may do what it and the role allow; batches have no own rights."""

from typing import Any

from moto.iam.access_control import AssumedRoleAccessKey, IAMPolicy, IAMRequestBase, PermissionResult
from moto.sts.models import sts_backends

_check_action_permitted = IAMRequestBase.check_action_permitted


def check_action_permitted(request: Any, resource: str) -> None:
    if request._service == "sqs":
        request._action = request._action.removesuffix("Batch")
    _check_action_permitted(request, resource)
    key = request._access_key
    if isinstance(key, AssumedRoleAccessKey):
        roles = sts_backends[key.account_id][key.partition].assumed_roles
        (policy,) = [role.policy for role in roles if role.access_key_id == key._access_key_id]
        if (
            policy
            and IAMPolicy(policy).is_action_permitted(request._action, resource) is not PermissionResult.PERMITTED
        ):
            request._raise_access_denied()


def patch(_aws: Any) -> None:
    setattr(IAMRequestBase, check_action_permitted.__name__, check_action_permitted)
