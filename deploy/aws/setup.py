"""Makes what cluster.yaml needs in an AWS account, once; run again, it completes what is missing and changes nothing else.

    python deploy/aws/setup.py --bucket MY-BUCKET --region us-west-2 --ssh-from 203.0.113.7

- the bucket, private, with the rule of lifecycle.json: uploads that a lost machine left open are dropped after a day;
- a registry for the image;
- two roles with instance profiles: workers may use the bucket and pull the image (bucket.json), the head may also start and
  end the machines of the cluster (head.json);
- a security group: everything between the machines, SSH from one address, nothing else.

Needs `pip install 'orca-sweeper[aws]'` and credentials that may do this.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

FOLDER = Path(__file__).parent

EC2_MAY_TAKE_IT = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def make_bucket(session: boto3.Session, bucket: str) -> None:
    """A private bucket with the lifecycle rule."""
    s3 = session.client("s3")
    place = {} if session.region_name == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": session.region_name}}
    _unless_there(s3.create_bucket, "BucketAlreadyOwnedByYou", Bucket=bucket, **place)
    blocks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(blocks, True))
    rules = json.loads((FOLDER / "lifecycle.json").read_text())
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)


def make_registry(session: boto3.Session, name: str) -> str:
    """The address of the image, without its tag."""
    ecr = session.client("ecr")
    _unless_there(ecr.create_repository, "RepositoryAlreadyExistsException", repositoryName=name)
    return str(ecr.describe_repositories(repositoryNames=[name])["repositories"][0]["repositoryUri"])


def make_role(session: boto3.Session, name: str, policies: dict[str, str]) -> None:
    """A role that EC2 machines take by the instance profile of the same name; `policies` are JSON texts by name."""
    iam = session.client("iam")
    _unless_there(iam.create_role, "EntityAlreadyExists", RoleName=name, AssumeRolePolicyDocument=json.dumps(EC2_MAY_TAKE_IT))
    for policy, text in policies.items():
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=text)
    _unless_there(iam.create_instance_profile, "EntityAlreadyExists", InstanceProfileName=name)
    if not iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def make_security_group(session: boto3.Session, name: str, ssh_from: str) -> str:
    """The id of the group, in the default VPC."""
    ec2 = session.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    if not (found := ec2.describe_security_groups(Filters=filters)["SecurityGroups"]):
        ec2.create_security_group(GroupName=name, Description="Ray cluster for sweeps", VpcId=vpc)
        found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    group = str(found[0]["GroupId"])
    among_themselves = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]}
    for rule in (among_themselves, ssh):
        _unless_there(ec2.authorize_security_group_ingress, "InvalidPermission.Duplicate", GroupId=group, IpPermissions=[rule])
    return group


def read_policy(file: str, values: dict[str, str]) -> str:
    """The text of a policy with its placeholders (BUCKET, REGION, ACCOUNT, NAME) replaced."""
    text = (FOLDER / file).read_text()
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def set_up(session: boto3.Session, bucket: str, name: str, ssh_from: str) -> dict[str, str]:
    """Make everything; returns what belongs in cluster.yaml."""
    account = session.client("sts").get_caller_identity()["Account"]
    values = {"BUCKET": bucket, "REGION": str(session.region_name), "ACCOUNT": account, "NAME": name}
    make_bucket(session, bucket)
    use = {"bucket": read_policy("bucket.json", values)}
    make_role(session, f"{name}-worker", use)
    make_role(session, f"{name}-head", {**use, "machines": read_policy("head.json", values)})
    _unless_there(session.client("iam").create_service_linked_role, "InvalidInput EntityAlreadyExists", AWSServiceName="spot.amazonaws.com")
    return {
        "region": str(session.region_name),
        "image": make_registry(session, name) + ":latest",
        "SecurityGroupIds": f"[{make_security_group(session, name, ssh_from)}]",
    }


def _unless_there(make: Any, error_codes: str, **arguments: Any) -> None:
    """Call `make`; one of these error codes means that what it makes is there already."""
    try:
        make(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] not in error_codes.split():
            raise


def _read_network(text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        remedy = "give your IPv4 address as others see it, such as 203.0.113.7 (`curl https://checkip.amazonaws.com` prints it)"
        raise argparse.ArgumentTypeError(f"{error}; {remedy}") from None


def explain(error: BotoCoreError | ClientError) -> str:
    """What AWS, or the way to it, refuses, and what to do about it, in a sentence."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return (
            f"AWS credentials are missing ({str(error).rstrip('.')}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or call `aws configure`, then run this again."
        )
    if isinstance(error, ClientError):
        about = error.response["Error"]
        remedy = "Check that the credentials are valid and may do this; run again, it completes what is missing."
        return f"AWS refuses {error.operation_name} ({about['Code']}: {about['Message'].rstrip('.')}). {remedy}"
    return f"AWS cannot be reached ({str(error).rstrip('.')}). Check --region and the network, then run this again."


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket", required=True, help="name of the bucket, unique in the world")
    parser.add_argument("--region", required=True, help="such as us-west-2")
    parser.add_argument("--ssh-from", required=True, type=_read_network, help="your address, as others see it")
    parser.add_argument("--name", default="orca-sweeper", help="cluster_name in cluster.yaml (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    given = _read_arguments()
    try:
        lines = set_up(boto3.Session(region_name=given.region), given.bucket, given.name, str(given.ssh_from))
    except (BotoCoreError, ClientError) as error:
        sys.exit(explain(error))
    print("In cluster.yaml:")
    for key, value in lines.items():
        print(f"  {key}: {value}")
    print(f"Results: --results s3://{given.bucket}/results")
