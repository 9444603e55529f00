"""deploy/cloudformation.yaml in the emulator: what moto's CloudFormation knows by it, the rest by boto3."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfnlint.decode import decode_str

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

TEMPLATE = Path(__file__).parents[2] / "deploy/cloudformation.yaml"
ACCOUNT, REGION = "123456789012", "us-east-1"
KNOWN = {"AWS::SQS::Queue", "AWS::SNS::Topic", "AWS::IAM::Role"}  # To moto.
PSEUDO = {"AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::Partition": "aws"}
Resource = dict[str, Any]


class Stack:
    """A deployed stage. `outputs` are those of the template; `key` is what the bus shows at the endpoint."""

    def __init__(self, aws: "Aws", endpoint: str, key: str, stage: str = "dev", **parameters: str) -> None:
        self.aws = aws
        self.template: dict[str, Any] = json.loads(json.dumps(decode_str(TEMPLATE.read_text())[0]))
        given = {"Stage": stage, "SecretsStage": stage, "Endpoint": endpoint, **parameters}
        defaults = {name: one["Default"] for name, one in self.template["Parameters"].items() if "Default" in one}
        self.parameters = {**defaults, **given}
        self.name = f"{self.parameters['Service']}-{stage}"
        self._key = key
        self._physical: dict[str, str] = {}
        self._attributes: dict[tuple[str, str], str] = {}
        self._undo: list[Callable[[], Any]] = []
        for section in ("Resources", "Outputs"):
            self.template[section] = {
                name: one
                for name, one in self.template[section].items()
                if "Condition" not in one or self._holds(self.template["Conditions"][one.pop("Condition")])
            }
        self._make_what_moto_knows()
        self._make_the_rest()
        self.outputs = {name: self.value(one["Value"]) for name, one in self.template["Outputs"].items()}

    def delete(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _make_what_moto_knows(self) -> None:
        formation, sqs, iam = (self.aws.client(name) for name in ("cloudformation", "sqs", "iam"))
        known = self.of(*KNOWN)
        part = {"Parameters": self.template["Parameters"], "Resources": known}
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in self.parameters.items()]
        formation.create_stack(StackName=self.name, TemplateBody=json.dumps(part), Parameters=parameters)
        self._undo.append(lambda: formation.delete_stack(StackName=self.name))
        for one in formation.describe_stack_resources(StackName=self.name)["StackResources"]:
            logical, physical = one["LogicalResourceId"], one["PhysicalResourceId"]
            if one["ResourceType"] == "AWS::SQS::Queue":
                name = physical.rpartition("/")[2]
                physical = sqs.get_queue_url(QueueName=name)["QueueUrl"]
                self._attributes[logical, "QueueName"] = name
                self._attributes[logical, "Arn"] = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
            elif one["ResourceType"] == "AWS::IAM::Role":
                self._attributes[logical, "Arn"] = iam.get_role(RoleName=physical)["Role"]["Arn"]
            self._physical[logical] = physical
        assert self._physical.keys() == known.keys()
        for role, one in self.of("AWS::IAM::Role").items():
            for policy in self.value(one["Properties"]["Policies"]):
                self._policy("", {**policy, "Roles": [self._physical[role]]})

    def _make_the_rest(self) -> None:
        """In the order of what needs what."""
        makers: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "AWS::CloudWatch::Alarm": self._alarm,
            "AWS::SQS::QueuePolicy": self._queue_policy,
            "AWS::IAM::Policy": self._policy,
            "AWS::Events::Connection": self._connection,
            "AWS::Events::ApiDestination": self._destination,
            "AWS::Events::Rule": self._rule,
        }
        types = {one["Type"] for one in self.template["Resources"].values()}
        assert types <= KNOWN | makers.keys()
        for kind, make in makers.items():
            for name, resource in self.of(kind).items():
                make(name, self.value(resource["Properties"]))

    def of(self, *types: str) -> dict[str, Resource]:
        return {name: one for name, one in self.template["Resources"].items() if one["Type"] in types}

    def _alarm(self, _name: str, given: dict[str, Any]) -> None:
        watch = self.aws.client("cloudwatch")
        watch.put_metric_alarm(**given)
        self._undo.append(lambda: watch.delete_alarms(AlarmNames=[given["AlarmName"]]))

    def _queue_policy(self, _name: str, given: dict[str, Any]) -> None:
        policy = json.dumps(given["PolicyDocument"])
        for queue in given["Queues"]:
            self.aws.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})

    def _policy(self, _name: str, given: dict[str, Any]) -> None:
        document = json.dumps(for_moto(given["PolicyDocument"]))
        for role in given["Roles"]:
            policy = {"RoleName": role, "PolicyName": given["PolicyName"], "PolicyDocument": document}
            self.aws.client("iam").put_role_policy(**policy)

    def _connection(self, name: str, given: dict[str, Any]) -> None:
        events = self.aws.client("events")
        self._attributes[name, "Arn"] = events.create_connection(**given)["ConnectionArn"]
        self._undo.append(lambda: events.delete_connection(Name=given["Name"]))

    def _destination(self, name: str, given: dict[str, Any]) -> None:
        events = self.aws.client("events")
        self._attributes[name, "Arn"] = events.create_api_destination(**given)["ApiDestinationArn"]
        self._undo.append(lambda: events.delete_api_destination(Name=given["Name"]))

    def _rule(self, _name: str, given: dict[str, Any]) -> None:
        events = self.aws.client("events")
        rule = {"EventBusName": given["EventBusName"]}
        events.put_rule(Name=given["Name"], EventPattern=json.dumps(given["EventPattern"]), **rule)
        events.put_targets(Rule=given["Name"], Targets=given["Targets"], **rule)

        def delete() -> None:
            events.remove_targets(Rule=given["Name"], Ids=[one["Id"] for one in given["Targets"]], **rule)
            events.delete_rule(Name=given["Name"], **rule)

        self._undo.append(delete)

    def value(self, given: Any) -> Any:
        """What an expression of the template comes to; None where it says that there is nothing."""
        match given:
            case {"Ref": "AWS::NoValue"}:
                return None
            case {"Ref": name}:
                return self._named(name)
            case {"Fn::GetAtt": [name, attribute]}:
                return self._attributes[name, attribute]
            case {"Fn::Sub": text}:
                return self._secrets(re.sub(r"\$\{([\w:]+)\}", lambda found: self._named(found[1]), text))
            case {"Fn::If": [condition, yes, no]}:
                return self.value(yes if self._holds(self.template["Conditions"][condition]) else no)
            case dict():
                values = {name: self.value(value) for name, value in given.items()}
                return {name: value for name, value in values.items() if value is not None}
            case list():
                return [self.value(one) for one in given]
        return given

    def _holds(self, condition: dict[str, Any]) -> bool:
        match condition:
            case {"Fn::Not": [other]}:
                return not self._holds(other)
            case {"Fn::Equals": [one, other]}:
                return bool(self.value(one) == self.value(other))
        raise ValueError(condition)

    def _named(self, name: str) -> str:
        return str({**PSEUDO, **self.parameters, **self._physical}[name])

    def _secrets(self, text: str) -> str:
        """References to Secrets Manager, where the key is put by whoever deploys first with these secrets."""
        secrets = self.aws.client("secretsmanager")
        for name in re.findall(r"\{\{resolve:secretsmanager:([\w/-]+)\}\}", text):
            there = [one["Name"] for one in secrets.list_secrets()["SecretList"]]
            if name not in there:
                secrets.create_secret(Name=name, SecretString=self._key)
                self._undo.append(partial(secrets.delete_secret, SecretId=name, ForceDeleteWithoutRecovery=True))
            key = secrets.get_secret_value(SecretId=name)["SecretString"]
            text = text.replace(f"{{{{resolve:secretsmanager:{name}}}}}", key)
        return text


def for_moto(policy: dict[str, Any]) -> dict[str, Any]:
    """As moto can enforce it: it knows no resources but queues, and rights for batches of their own."""
    statements = []
    for one in policy["Statement"]:
        actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
        batches = [f"{action}Batch" for action in actions if action in ("sqs:SendMessage", "sns:Publish")]
        resource = one["Resource"] if actions[0].startswith("sqs:") else "*"
        statements.append({**one, "Action": [*actions, *batches], "Resource": resource})
    return {**policy, "Statement": statements}
