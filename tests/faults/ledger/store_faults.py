"""Faults of what we store in: Redis, the ledger's database, the disk; and messages that cannot be used."""

import resource

from tests.faults.ledger.poison import send_all
from tests.faults.ledger.system import System, postgres
from tests.support import until
from worker.ledger.schema import c
from worker.testbed.ports import free_port


def redis_killed(system: System, seconds: float = 5.0) -> None:
    """SIGKILL Redis. It starts again with the data of its AOF."""
    with system.fault():
        system.stage.broker.kill()
        system.go_on(seconds)
        system.stage.broker.start()


def redis_flushed(system: System, times: int = 3) -> None:
    """Redis loses all its data."""
    for _ in range(times):
        with system.fault():
            system.go_on(1.0)
            system.stage.broker.flush()


def redis_full(system: System, seconds: float = 20.0) -> None:
    """Redis has reached `maxmemory` and evicts nothing: it answers reads and refuses writes."""
    with system.fault(), system.stage.broker.client as client:
        client.config_set("maxmemory", "1")
        system.go_on(seconds)
        client.config_set("maxmemory", "0")


def redis_read_only(system: System, seconds: float = 20.0) -> None:
    """Redis is a replica, as after a failover that our URL did not follow: it answers reads and refuses writes."""
    with system.fault(), system.stage.broker.client as client:
        client.replicaof("127.0.0.1", str(free_port()))
        system.go_on(seconds)
        client.replicaof("NO", "ONE")


def database_unavailable(system: System, seconds: float = 20.0) -> None:
    """PostgreSQL is killed and starts again. Of SQLite another process holds the write lock."""
    with system.fault():
        if system.database == "postgresql":
            postgres().kill()
            system.go_on(seconds)
            postgres().start()
        else:
            with system.ledger_locked():
                system.go_on(seconds)


def disk_full(system: System, seconds: float = 12.0) -> None:
    """No worker can write a byte to any file, neither to the ledger nor to its log."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with system.fault():
        for worker in system.workers:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        system.go_on(seconds)
        for worker in system.workers:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, unlimited)


def unusable_messages(system: System) -> None:
    """Messages that no worker can use: each is stored as a failed operation, and all others are served."""
    stored = (c.kind == "message", c.failure_reason == "bad_payload")
    with system.fault():
        sent = send_all(system.stage.broker.url)
    until(lambda: system.count(*stored) == sent, within=20)
