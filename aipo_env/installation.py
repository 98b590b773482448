"""What this library is installed as, and the command that adds one of its extras to this very installation."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import shlex
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aipo_env.errors import MissingDependencyError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "aipo-rl"
"""The distribution's name. `aipo` on the package index is another project's."""
COMMON_NAMES = ("algorithms", "benchmarks")
"""Those of its packages whose names others use as well."""
ROOT = Path(__file__).resolve().parent.parent
"""The folder in which all its packages stand."""


def require_own(package: str) -> None:
    """Refuses to go on where Python finds another package, or a folder, in the place of one of ours.

    Raises:
        MissingDependencyError: with what was found, where ours is, and how to come to it.
    """
    spec = importlib.util.find_spec(package)
    found = next(iter((spec.submodule_search_locations or [spec.origin or ""]) if spec else []), "nothing")
    if Path(found).resolve() != ROOT / package:
        raise MissingDependencyError(
            f"expected the package {package!r} of {DISTRIBUTION} in {ROOT / package}, but Python finds {found} first. Start "
            f"from another folder or take that one off PYTHONPATH; if it was installed, give {DISTRIBUTION} an environment "
            "of its own."
        )


def doubly_installed() -> dict[str, list[str]]:
    """Packages of ours that other distributions installed too, over the same files or beside them: name and distributions."""
    owners = importlib.metadata.packages_distributions()
    others = {name: sorted(set(owners.get(name, ())) - {DISTRIBUTION}) for name in COMMON_NAMES}
    return {name: found for name, found in others.items() if found}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed versions of some distributions; those that are not installed are left out."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def requirements(extra: str = "") -> list[Requirement]:
    """What an extra needs, or the library alone, as its metadata have it."""
    from packaging.requirements import Requirement

    every = map(Requirement, importlib.metadata.requires(DISTRIBUTION) or [])
    return [r for r in every if (r.marker.evaluate({"extra": extra}) if r.marker else not extra)]


def install_command(extra: str = "") -> str:
    """The shell command that installs an extra where this installation came from: a clone, an address, or the index.

    Args:
        extra: a name of `[project.optional-dependencies]`; none for the library alone.

    Example:
        >>> install_command("eval").startswith("pip install ")
        True
    """
    wanted = f"[{extra}]" if extra else ""
    origin = _origin()
    if origin is None:
        return _pip(f"{DISTRIBUTION}{wanted}")
    url = str(origin.get("url", ""))
    if "dir_info" not in origin:
        scheme = origin.get("vcs_info", {}).get("vcs", "")
        return _pip(f"{DISTRIBUTION}{wanted} @ {f'{scheme}+' if scheme else ''}{url}")
    folder = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    place = "." if Path(folder) == Path.cwd() else folder
    return _pip(f"{place}{wanted}", editable=bool(origin["dir_info"].get("editable")))


def _pip(what: str, *, editable: bool = False) -> str:
    return f"pip install {'-e ' if editable else ''}{shlex.quote(what)}"


def _origin() -> dict[str, Any] | None:
    """Where it was installed from (PEP 610), if not from the index; a source tree that nobody installed counts as a clone."""
    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {"url": ROOT.as_uri(), "dir_info": {"editable": True}}
    return json.loads(text) if text else None
