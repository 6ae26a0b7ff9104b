"""Features of a bucket, and their configuration."""

from typing import Any

import pytest
from tests.integration.sinks.s3.archives import ITEM
from tests.unit.sinks.builders import record

from forge_otel.sinks.s3.sink import S3Archive


async def test_features_are_probed(archive: S3Archive, is_emulator: bool) -> None:
    """Before and after the bucket is prepared; an unsupported feature differs from one that is off."""
    before = await archive.capabilities()
    await archive.prepare_bucket()
    after = await archive.capabilities()

    assert (before.versioning, after.versioning) == ("off", "on")
    assert (before.lifecycle, after.lifecycle) == (("off", "on") if is_emulator else ("unsupported", "unsupported"))
    assert before.encryption in {"on", "off"} if is_emulator else before.encryption == "unsupported"


async def test_missing_features_are_logged_once(
    archive: S3Archive, is_emulator: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names a bucket without lifecycle rules when the first artifact is stored."""
    await archive.deliver([ITEM])
    await archive.deliver([record(artifacts={"component.tsx": "other"})])

    (line,) = [entry.getMessage() for entry in caplog.records if "artifacts are never deleted" in entry.getMessage()]
    assert "lifecycle is off" in line if is_emulator else "lifecycle is unsupported" in line
    assert "forge-otel archive prepare" in line


@pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)
async def test_rules_are_merged_with_those_of_the_owner(archive: S3Archive, bucket: str, s3: Any) -> None:
    """Versioning is enabled, our rules are added, and a second run changes nothing."""
    owners = {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}
    await s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [owners]})
    first = await archive.prepare_bucket()
    rules = {rule["ID"]: rule for rule in (await s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]}
    second = await archive.prepare_bucket()

    assert (first.changed, first.unsupported, second.changed) == (("versioning", "lifecycle"), (), ())
    assert rules["logs"] == owners
    ours = rules["forge-otel-expire:components/"]
    assert ours["Filter"] == {"Prefix": "components/"}
    assert ours["Expiration"]["Days"] == ours["NoncurrentVersionExpiration"]["NoncurrentDays"] == 90
    assert ours["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert rules["forge-otel-markers:reports/"]["Expiration"]["ExpiredObjectDeleteMarker"] is True
    assert (await s3.get_bucket_versioning(Bucket=bucket))["Status"] == "Enabled"


@pytest.mark.strict_s3
@pytest.mark.parametrize("s3_endpoint", ["versitygw"], indirect=True)
async def test_an_unsupported_feature_is_skipped(archive: S3Archive, bucket: str, s3: Any) -> None:
    """Versioning is enabled on a store without lifecycle rules."""
    first, second = await archive.prepare_bucket(), await archive.prepare_bucket()

    assert (first.changed, first.unsupported) == (("versioning",), ("lifecycle",))
    assert second.changed == ()
    assert (await s3.get_bucket_versioning(Bucket=bucket))["Status"] == "Enabled"


@pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)
async def test_another_expiry_replaces_our_rules_only(archive: S3Archive, bucket: str, s3: Any) -> None:
    """Our rules are found by their ids."""
    await archive.prepare_bucket()
    assert (await archive.prepare_bucket(expire_days=30)).changed == ("lifecycle",)
    rules = (await s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]

    assert len(rules) == 4
    assert {rule["Expiration"]["Days"] for rule in rules if "expire" in rule["ID"]} == {30}
