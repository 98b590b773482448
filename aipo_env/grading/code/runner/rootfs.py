"""A root directory that holds the Python standard library, shared libraries and nothing else.

It is a tmpfs that exists in a private mount namespace only, so it leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sysconfig
from collections.abc import Sequence

from . import linux

OLD_ROOT = "/.old"
PRIVATE_FOLDERS = ("/tmp", "/box")
"""Where a test's private folder is mounted; the second one where an interpreter or package lies below the first."""
_BASE = "/tmp"
_LIBRARIES = ("/lib", "/lib64", "/lib32", "/libx32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/libx32")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"stdin": "0", "stdout": "1", "stderr": "2"}


def readable_paths(extra: Sequence[str]) -> list[str]:
    """The directories of the host that a submission may read."""
    config = sysconfig.get_paths()
    base = sysconfig.get_config_var("installed_base") or ""
    wanted = [*_LIBRARIES, config["stdlib"], config["platstdlib"]]
    if base and base not in ("/", "/usr"):
        wanted += [f"{base}/lib", f"{base}/lib64"]
    wanted += extra
    # Resolved ones too: shared libraries are found through either name.
    wanted += [os.path.realpath(path) for path in wanted if path.startswith(base or "//")]
    return sorted({path for path in wanted if os.path.isdir(path)})


def build(extra: Sequence[str], whole_proc: bool) -> None:
    """Builds the root and moves this mount namespace into it; the old root stays reachable at OLD_ROOT.

    Args:
        extra: further directories that a submission may read, for instance one that holds numpy.
        whole_proc: bind /proc with what is mounted inside it; without privileges there is no other way.
    """
    sources = [(path, os.path.realpath(path)) for path in readable_paths(extra)]
    links = {path: os.readlink(path) for path in _LIBRARIES if os.path.islink(path)}
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", _BASE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=1m")
    os.mkdir(_BASE + OLD_ROOT)
    linux.pivot_root(_BASE, _BASE + OLD_ROOT)
    os.chdir("/")
    for path, target in links.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    mounted: list[str] = []
    for path, source in sources:
        if path in links or any(source == path and path.startswith(above + "/") for above in mounted):
            continue
        _bind(source, path)
        mounted.append(path)
    _hide_packages(mounted, [os.path.realpath(path) for path in extra])
    for path in extra:
        if path not in mounted:
            _bind(os.path.realpath(path), path)
    _make_devices()
    for name in ("/proc", PRIVATE_FOLDERS[0], PRIVATE_FOLDERS[1]):
        os.makedirs(name, exist_ok=True)
    with contextlib.suppress(OSError):
        # The kernel lets a user namespace mount its own /proc only while another one is in sight.
        linux.mount(OLD_ROOT + "/proc", "/proc", None, linux.MS_BIND | (linux.MS_REC if whole_proc else 0))


def seal() -> None:
    """Lets go of the old root and makes the new one read-only."""
    linux.unmount(OLD_ROOT)
    os.rmdir(OLD_ROOT)
    linux.mount(None, "/", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)


def _bind(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    linux.mount(OLD_ROOT + source, target, None, linux.MS_BIND | linux.MS_REC)
    linux.make_read_only(target)


def _hide_packages(mounted: list[str], keep: list[str]) -> None:
    """Covers directories of installed packages: they may hold data, and a submission has no use for them."""
    for top in mounted:
        names = [top, *(f"{top}/{name}" for name in os.listdir(top) if name.startswith("python"))]
        for folder in (f"{name}/{kind}" for name in names for kind in ("site-packages", "dist-packages")):
            if os.path.isdir(folder) and not any(path == folder or path.startswith(folder + "/") for path in keep):
                linux.mount("tmpfs", folder, "tmpfs", linux.MS_RDONLY | linux.MS_NOSUID, "mode=0755,size=4k")


def _make_devices() -> None:
    os.mkdir("/dev", 0o755)
    for name in _DEVICES:
        source = f"{OLD_ROOT}/dev/{name}"
        if os.path.exists(source) and stat.S_ISCHR(os.stat(source).st_mode):
            os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o644))
            linux.mount(source, f"/dev/{name}", None, linux.MS_BIND)
    os.symlink("/proc/self/fd", "/dev/fd")
    for name, number in _LINKS.items():
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
