"""Which ledgers have workers on our Redis database."""

import pytest
import redis

from tests.odd_redis import ODD, redis_that_answers
from worker.ledgers_in_redis import LedgersInRedis
from worker.settings import CrmSettings, load
from worker.testbed.local_system import Environment


def test_each_ledger_finds_the_others(active_environment: Environment) -> None:
    noted = LedgersInRedis(load(CrmSettings))
    assert noted.others("ours") == []

    for ledger_id in ("ours", "theirs", "ours"):
        noted.note(ledger_id)

    assert (noted.others("ours"), noted.others("theirs")) == (["theirs"], ["ours"])
    noted.close()


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_an_odd_answer_of_redis_is_an_error_of_redis(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    with redis_that_answers(answer) as url:
        monkeypatch.setenv("B2COPY_REDIS_URL", url)
        noted = LedgersInRedis(load(CrmSettings))
        for ask in (noted.note, noted.others):
            with pytest.raises(redis.RedisError):
                ask("ours")
        noted.close()


def test_a_key_of_another_type_is_an_error_of_redis(active_environment: Environment) -> None:
    with active_environment.broker.client as client:
        client.set("b2copy:ledgers", "x")
    noted = LedgersInRedis(load(CrmSettings))

    for ask in (noted.note, noted.others):
        with pytest.raises(redis.RedisError):
            ask("ours")
    noted.close()
