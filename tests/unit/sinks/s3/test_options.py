"""`s3://` URLs."""

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.sinks.s3.options import S3Options, parse


def test_a_bucket_is_enough() -> None:
    """Everything else has a default."""
    assert parse("s3://my-bucket") == S3Options(bucket="my-bucket")


@pytest.mark.parametrize("url", ["s3://my-bucket/team/one/", "s3://my-bucket?prefix=team/one"])
def test_the_prefix_is_a_path_or_an_option(url: str) -> None:
    """It ends in one slash."""
    assert parse(url).prefix == "team/one/"


def test_every_option_is_parsed() -> None:
    """All options of the documentation."""
    url = "s3://my-bucket?region=eu-west-1&endpoint_url=http://minio:9000&sse=AES256&compress=gzip&timeout_s=2.5"

    assert parse(url) == S3Options(
        bucket="my-bucket",
        region="eu-west-1",
        endpoint_url="http://minio:9000",
        encryption="AES256",
        compress=True,
        timeout_s=2.5,
    )


def test_all_faults_are_reported_together_without_secrets() -> None:
    """One attempt shows every fault, and no credential is repeated."""
    with pytest.raises(ConfigurationError) as found:
        parse("s3://key:hunter2@B?sse=yes&compress=zip&timeout_s=soon&endpoint_url=minio&colour=red&prefix=../x")

    assert len(found.value.faults) == 8
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize("timeout_s", ["0", "-1", "61", "nan", "inf"])
def test_the_timeout_has_bounds(timeout_s: str) -> None:
    """Above 0 and at most a minute."""
    with pytest.raises(ConfigurationError, match="timeout_s"):
        parse(f"s3://my-bucket?timeout_s={timeout_s}")
