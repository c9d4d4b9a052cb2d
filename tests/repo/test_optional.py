"""A package that is missing skips a test, and fails it where every test has to run."""

from __future__ import annotations

import sys

import pytest

from tests.helpers.optional import (
    DEVICE_PYTHON,
    MODEL_PACKAGES,
    REQUIRE_ALL,
    device_needs,
    folder_with,
    needs,
)


@pytest.fixture(params=["1", "", None], ids=["every test has to run", "empty", "not set"])
def outcome(request, monkeypatch):
    """The exception that ends a test without its package."""
    monkeypatch.delenv(REQUIRE_ALL, raising=False)
    if request.param is not None:
        monkeypatch.setenv(REQUIRE_ALL, request.param)
    return pytest.fail.Exception if request.param == "1" else pytest.skip.Exception


def test_package_of_this_python(outcome):
    needs("pytest")
    with pytest.raises(outcome, match="the package no_such_package is not installed; pip install"):
        needs("no_such_package")


@pytest.mark.parametrize("python", [sys.executable, "/no/such/python"])
def test_module_of_another_python(outcome, monkeypatch, python):
    monkeypatch.setenv(DEVICE_PYTHON, sys.executable)
    device_needs("json")
    monkeypatch.setenv(DEVICE_PYTHON, python)
    with pytest.raises(outcome, match=rf"{python} cannot import no_such_package .*DEVICE_PYTHON"):
        device_needs("no_such_package")


def test_package_of_networks(outcome, monkeypatch, tmp_path):
    (tmp_path / "networks").mkdir()
    monkeypatch.setenv(MODEL_PACKAGES, str(tmp_path))
    assert folder_with("networks") == str(tmp_path)
    with pytest.raises(outcome, match=rf"other is not in {tmp_path}; pip .*MODEL_PACKAGES"):
        folder_with("other")
    monkeypatch.delenv(MODEL_PACKAGES)
    with pytest.raises(outcome, match="networks is not in any folder"):
        folder_with("networks")
