"""The tools of the cluster's tests, proven without pannier: a Redis that can be killed and frozen, and a
way to it that can be cut."""
import socket
import threading

import pytest

from support.net import HOST
from support.redis_server import Client, Link, RedisError
from support.wait import until


@pytest.fixture
def link(redis):
    link = Link(redis.port)
    yield link
    link.close()


def is_broken(client):
    try:
        client.ask("PING")
        return False
    except OSError:
        return True


def test_what_is_in_redis_can_be_read(redis):
    redis.ask("SET", "t:key", b"two\r\nlines")
    redis.ask("HSET", "t:hash", "a", 1, "b", "")
    assert redis.ask("GET", "t:key") == "two\r\nlines"
    assert redis.ask("GET", "t:none") is None
    assert redis.ask("STRLEN", "t:key") == 10
    assert redis.hash("t:hash") == {"a": "1", "b": ""}
    assert redis.keys("t:*") == ["t:hash", "t:key"]
    with pytest.raises(RedisError, match="WRONGTYPE"):
        redis.ask("GET", "t:hash")


def test_a_redis_that_is_restarted_is_empty_and_at_the_same_port(redis):
    redis.ask("SET", "t:key", "value")
    port = redis.port
    redis.restart_empty()
    assert redis.port == port and redis.keys() == []


def test_a_killed_redis_refuses_connections(redis):
    redis.kill()
    with pytest.raises(ConnectionRefusedError):
        redis.ask("PING")
    redis.revive()
    assert redis.ask("PING") == "PONG"


def test_a_frozen_redis_answers_when_it_thaws(redis):
    redis.freeze()
    said = []
    asking = threading.Thread(target=lambda: said.append(redis.ask("PING")))
    asking.start()
    with socket.create_connection((HOST, redis.port)) as s:
        s.sendall(b"PING\r\n")
        s.settimeout(0.1)
        with pytest.raises(TimeoutError):
            s.recv(10)
    assert said == []
    redis.thaw()
    asking.join()
    assert said == ["PONG"]


def is_cut(port):
    """Who connects is broken off at once, which may be before connect() has returned."""
    try:
        with Client(port) as client:
            return is_broken(client)
    except OSError:
        return True


def test_a_link_carries_cuts_and_heals(redis, link):
    with Client(link.port) as through:
        assert through.ask("PING") == "PONG"
        link.cut()
        assert is_broken(through)
    assert is_cut(link.port)
    assert redis.ask("PING") == "PONG"
    link.heal()
    with Client(link.port) as healed:
        assert healed.ask("PING") == "PONG"


def test_a_link_cut_in_silence_breaks_nothing_and_delivers_later(redis, link):
    with Client(link.port) as through:
        assert through.ask("SET", "t:key", "before") == "OK"
        link.cut(silent=True)
        said = []
        asking = threading.Thread(target=lambda: said.append(through.ask("SET", "t:key", "after")))
        asking.start()
        asking.join(0.1)
        assert redis.ask("GET", "t:key") == "before" and said == []
        link.heal()
        asking.join()
    assert said == ["OK"] and redis.ask("GET", "t:key") == "after"


def test_one_cut_link_is_not_the_other_ones(redis, link):
    other = Link(redis.port)
    try:
        link.cut()
        with Client(other.port) as through:
            assert through.ask("PING") == "PONG"
    finally:
        other.close()


def test_a_link_to_a_killed_redis_breaks_and_works_again(redis, link):
    with Client(link.port) as through:
        through.ask("PING")
        redis.kill()
        assert is_broken(through)
    redis.start()

    def works():
        with Client(link.port) as again:
            return not is_broken(again)
    until(works, "the link works again")
