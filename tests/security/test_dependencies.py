"""What is installed, and what the image installs, is no older than is safe, and exactly what was locked."""

import re
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app.db.selfcheck import PATCHED_SERVERS, outdated_server

ROOT = Path(__file__).parents[2]
LOCKS = {"requirements.txt": ("project", "dependencies"), "build.txt": ("build-system", "requires")}
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux", "extra": ""}


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


FLOORS = toml(ROOT / "tests/security/floors.toml")


def entries(lock: str) -> list[str]:
    """The lines of a lock, each with its hashes."""
    text = (ROOT / ".docker" / lock).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def locked(lock: str) -> dict[str, Version]:
    found = [line.split()[0].partition("==") for line in entries(lock)]
    return {canonicalize_name(name): Version(pinned) for name, _, pinned in found}


@pytest.mark.parametrize("package", FLOORS["packages"])
def test_nothing_installed_or_locked_has_a_known_hole(package: str) -> None:
    floor = Version(FLOORS["packages"][package]["floor"])
    assert FLOORS["packages"][package]["because"]
    with suppress(PackageNotFoundError):
        assert Version(version(package)) >= floor
    for lock in LOCKS:
        assert locked(lock).get(canonicalize_name(package), floor) >= floor


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_what_the_project_asks_for(lock: str) -> None:
    section, key = LOCKS[lock]
    pinned = locked(lock)
    for line in toml(ROOT / "pyproject.toml")[section][key]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate(IMAGE):
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), f"lock {line} again: see {lock}"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_version_and_hashes_for_each_package_and_says_nothing_else(lock: str) -> None:
    """No index, no address, no file: where packages come from is for who builds the image to say."""
    for line in entries(lock):
        assert re.fullmatch(r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==[a-z0-9.!+]+( +--hash=sha256:[0-9a-f]{64})+", line), line
    assert "://" not in (ROOT / ".docker" / lock).read_text()


def test_the_image_installs_from_the_locks_alone() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:install|wheel) [^&\n]*", text)
    assert installs
    for install in installs:
        assert "--require-hashes -r .docker/" in install or "--no-deps" in install, install


def test_servers_with_known_holes_are_warned_about() -> None:
    assert {int(major): minor for major, minor in FLOORS["postgres"].items()} == PATCHED_SERVERS
    for major, minor in PATCHED_SERVERS.items():
        assert outdated_server(major, minor) is None
        assert f"{major}.{minor}" in str(outdated_server(major, minor - 1))
    assert outdated_server(max(PATCHED_SERVERS) + 1, 0) is None
