"""Make the buckets that compose.yaml's services write to: `python buckets.py NAME...`; those that exist stay."""

from __future__ import annotations

import sys

import boto3


def main(names: list[str]) -> None:
    """Address and keys come from the environment, as every AWS client reads them."""
    client = boto3.client("s3")
    have = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in have:
            client.create_bucket(Bucket=name)


main(sys.argv[1:])
