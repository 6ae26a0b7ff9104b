"""A strict S3 API over HTTP: Versity's gateway on a folder. It checks signatures, digests, expiry and preconditions.

It is built from its Go module by make go-tools. It has versions, and neither lifecycle rules nor encryption.
"""

import http.client
import os
import shutil
from contextlib import closing
from pathlib import Path

from tests.servers.process import LOOPBACK, PROBE_S, Server, ServerMissing

PROGRAM = "versitygw"


def is_built() -> bool:
    """Return whether this machine has the program."""
    return shutil.which(PROGRAM) is not None


class StrictS3Server(Server):
    """The gateway in its own process, for one account: that of the tests' environment."""

    name = "strict-s3"

    def __init__(self) -> None:
        super().__init__()
        found = shutil.which(PROGRAM)
        if found is None:
            raise ServerMissing(f"no strict S3 server: {PROGRAM} is not on the PATH (make go-tools builds it)")
        self._program = found

    @property
    def url(self) -> str:
        """The endpoint URL."""
        return f"http://{self.address}"

    def prepare(self) -> None:
        """Make the folders of objects and of their older versions."""
        super().prepare()
        for name in ("objects", "versions"):
            (self.folder / name).mkdir()

    def command(self) -> list[str | Path]:
        """The backend that keeps objects as files."""
        account = ["--access", os.environ["AWS_ACCESS_KEY_ID"], "--secret", os.environ["AWS_SECRET_ACCESS_KEY"]]
        places = ["posix", "--versioning-dir", self.folder / "versions", self.folder / "objects"]
        return [self._program, "--quiet", "--port", self.address, *account, *places]

    def probe(self) -> bool:
        """Ask without a signature, and be refused in S3's own words."""
        with closing(http.client.HTTPConnection(LOOPBACK, self.port, timeout=PROBE_S)) as connection:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status == 403 and b"<Code>AccessDenied</Code>" in answer.read()
