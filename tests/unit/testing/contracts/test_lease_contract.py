"""The contract suite of leases catches a broken implementation; tests/unit/leases/test_sqlite.py passes it."""

from pathlib import Path

import pytest

from forge_otel.leases.sqlite import SQLiteLeases
from forge_otel.testing.contracts.lease_contract import LeasesContract
from forge_otel.types import Lease


class Careless(SQLiteLeases):
    """Accepts the result of every holder."""

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Report success without a check of the fence."""
        await super().commit(lease, value, ttl_s=ttl_s)
        return True


async def test_leases_without_fencing_fail(tmp_path: Path) -> None:
    """A holder that was paused past its lease must not commit."""
    async with SQLiteLeases(tmp_path / "fenced.db") as leases:
        await LeasesContract().test_a_higher_fence_rejects_a_lower_one(leases)
    async with Careless(tmp_path / "careless.db") as leases:
        with pytest.raises(AssertionError):
            await LeasesContract().test_a_higher_fence_rejects_a_lower_one(leases)
