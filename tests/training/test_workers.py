"""Errors of a training of several workers. Real workers: tests/e2e/test_distribution.py."""

import pytest

from pipeline.base.console import UserError
from pipeline.base.lazy import tf
from pipeline.training.workers import ending_together

GONE = "Collective ops is aborted by: Error reported from /job:worker/task:1: unhealthy"


def raised(monkeypatch, error, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(Exception) as caught, ending_together():
        raise error
    return caught.value


@pytest.mark.parametrize("kind", ["UnavailableError", "AbortedError", "InternalError"])
def test_end_of_another_worker_is_one_line_with_the_command(monkeypatch, kind):
    error = getattr(tf.errors, kind)(None, None, GONE)
    fault = raised(monkeypatch, error, "{}")
    assert isinstance(fault, UserError) and "\n" not in str(fault)
    assert "another worker ended" in str(fault) and "start all workers again" in str(fault)
    assert raised(monkeypatch, error, None) is error, "without other workers it is a fault of ours"


@pytest.mark.parametrize(
    "make_error",
    [
        lambda: ValueError(GONE),
        lambda: tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        lambda: UserError("fewer images than a batch has"),
    ],
    ids=["ValueError", "ResourceExhaustedError", "UserError"],
)
def test_other_errors_of_a_worker_stay_what_they_are(monkeypatch, make_error):
    error = make_error()
    assert raised(monkeypatch, error, "{}") is error
