from __future__ import annotations

from hpc.serving.health import Health, Limits

LIMITS = Limits(degraded_after=2, restart_after=4, max_restarts=2)


def ready() -> Health:
    health = Health(LIMITS)
    health.answered()
    return health


def test_nothing_is_published_before_the_first_token() -> None:
    health = Health(LIMITS)
    assert [health.unanswered("refused") for _ in range(50)] == ["keep"] * 50
    assert health.state == "LAUNCHING"
    assert health.answered() == "publish"
    assert health.state == "READY"
    assert health.answered() == "keep"


def test_a_server_that_never_answered_is_not_restarted() -> None:
    health = Health(LIMITS)
    assert health.broken("no such model") == "fail"
    assert (health.state, health.reason) == ("FAILED", "no such model")


def test_failed_probes_degrade_then_restart() -> None:
    health = ready()
    assert [health.unanswered("slow") for _ in range(4)] == ["keep", "withdraw", "keep", "restart"]
    assert health.state == "DEGRADED"
    assert "4 probes failed, the last: slow; restart 1 of 2" in health.reason


def test_an_answer_in_between_heals() -> None:
    health = ready()
    health.unanswered("slow")
    health.unanswered("slow")
    assert health.state == "DEGRADED"
    assert health.answered() == "publish"
    assert [health.unanswered("slow") for _ in range(2)] == ["keep", "withdraw"]


def test_restarts_end() -> None:
    health = ready()
    for _ in range(2):
        assert health.broken("died") == "restart"
        health.answered()
    assert health.broken("died") == "fail"
    assert health.reason == "died (after 2 restarts)"


def test_a_restart_that_does_not_boot_uses_up_another() -> None:
    health = ready()
    assert health.broken("died") == "restart"
    assert health.unanswered("refused") == "keep"
    assert health.broken("memory is still taken") == "restart"
    assert health.broken("memory is still taken") == "fail"


def test_a_refused_probe_is_final_even_after_success() -> None:
    health = ready()
    assert health.hopeless("HTTP 404") == "fail"
    assert health.state == "FAILED"
