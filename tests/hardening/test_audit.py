"""Dependencies: each one that tersa runs with is pinned, pins fit the ranges, nothing else comes along.

This looks at names and versions. Whether a pinned version has a known vulnerability is asked by `make audit`,
which needs the advisory data base.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([A-Za-z0-9_.\-]+)==([^\s;]+)$")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NVIDIA = ("nvidia-", "cuda-", "triton")
"""Come with torch's builds for GPUs; torch itself pins them exactly."""


def pins() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = PIN.match(line)
            assert match, f"constraints.txt: '{line}' is not NAME==VERSION"
            name = canonicalize_name(match[1])
            assert name not in found, f"constraints.txt: {name} twice"
            found[name] = match[2]
    return found


def runtime() -> list[Requirement]:
    return [Requirement(text) for text in PROJECT["dependencies"]]


def closure() -> dict[str, str]:
    """Everything that the runtime dependencies need here, by name, with its installed version."""
    found: dict[str, str] = {}
    waiting = [(canonicalize_name(one.name), tuple(one.extras)) for one in runtime()]
    while waiting:
        name, extras = waiting.pop()
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        found[name] = package.version
        for text in package.requires or []:
            inner = Requirement(text)
            asked = [{"extra": extra} for extra in ("", *extras)]
            if inner.marker is None or any(inner.marker.evaluate(environment) for environment in asked):
                waiting.append((canonicalize_name(inner.name), tuple(inner.extras)))
    return found


@pytest.mark.parametrize("requirement", runtime(), ids=lambda one: one.name)
def test_every_runtime_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(version, prereleases=True)
    assert requirement.specifier, f"{requirement.name} has no lower bound"


def test_everything_that_comes_along_is_pinned() -> None:
    """A package that a dependency has begun to need shows here before it is shipped."""
    unexpected = {name for name in closure() if name not in pins() and not name.startswith(NVIDIA)}
    assert unexpected - {"setuptools"} == set()  # torch asks for it without a bound
    assert len(closure()) > len(runtime())


def test_what_is_installed_is_what_is_pinned() -> None:
    wrong = {
        name: (version, pins()[name])
        for name, version in closure().items()
        if name in pins() and version.partition("+")[0] != pins()[name]
    }
    if wrong:
        pytest.skip(f"this environment was not made with constraints.txt: {wrong}")


def test_optional_parts_are_bounded_too() -> None:
    for extra, texts in PROJECT["optional-dependencies"].items():
        for text in texts:
            own = Requirement(text).name == PROJECT["name"]
            assert own or Requirement(text).specifier, f"{extra}: {text} has no lower bound"


def test_the_audit_runs_in_ci() -> None:
    assert "make audit" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".ci/audit" in (ROOT / "Makefile").read_text(encoding="utf-8")
