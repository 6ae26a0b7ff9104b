"""Real servers for the tests: each one a context manager with its own port, its own folder and its own process."""

from tests.servers.collector import CollectorServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server, ServerFailed, ServerMissing
from tests.servers.redis import RedisServer
from tests.servers.s3 import S3Server
from tests.servers.strict_s3 import StrictS3Server

__all__ = [
    "CollectorServer",
    "PostgresServer",
    "RedisServer",
    "S3Server",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "StrictS3Server",
]
