"""The walls around a program in the sandbox: namespaces, a file system of its own, another user, limits.

Runs inside the sandboxed process, before the program; standard library only, Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any

NEW_FILES, NEW_UTS, NEW_IPC, NEW_USER, NEW_PROCESSES, NEW_NETWORK = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18
)  # fmt: skip
DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPABILITY_VERSION = 0x20080522
PR_SET_DEATH_SIGNAL, PR_SET_DUMPABLE = 1, 4
INSIDE_USER = 1000
"""the user's number in a user namespace"""
WORK = "/tmp"
"""the program's folder in a file system of its own"""
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store")
FILES = ("/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
SMALL = 1 << 20


def python_folders() -> list[str]:
    """Folders that hold Python's standard library and the shared libraries under it; none lies in another."""
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *sys.path]
    for prefix in {sys.base_prefix, sys.base_exec_prefix}:
        paths += [os.path.join(prefix, "lib"), os.path.join(prefix, "lib64")]
    found: list[str] = []
    for path in sorted({*LIBRARIES, *filter(None, paths)}, key=len):
        if os.path.isdir(path) and not any(path == one or path.startswith(one + "/") for one in found):
            found.append(path)
    return found


def enter_namespaces(with_user: bool) -> None:
    """Leave the machine's network, processes, files and shared memory; `with_user`: as nobody in particular.

    The next child is the first process of its own numbering; when it ends, the kernel kills whatever it started.

    Raises:
        OSError: the kernel, or the container, does not let this user do so.
    """
    user, group = os.getuid(), os.getgid()
    flags = NEW_FILES | NEW_UTS | NEW_IPC | NEW_PROCESSES | NEW_NETWORK | (NEW_USER if with_user else 0)
    _call("unshare", ctypes.c_int(flags))
    if with_user:
        for name, text in (
            ("setgroups", "deny"), ("uid_map", f"{INSIDE_USER} {user} 1"), ("gid_map", f"{INSIDE_USER} {group} 1"),
        ):  # fmt: skip
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def move_into(folder: str, folders: Sequence[str], folder_bytes: int, owner: int) -> None:
    """A new root: `folders`, read-only, and an empty folder for work that is gone afterwards; nothing else.

    Raises:
        OSError: the kernel does not let this user mount.
    """
    sources = [*folders, *(path for path in FILES if os.path.exists(path))]
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", folder, "tmpfs", NO_SUID | NO_DEVICES, f"size={SMALL},mode=755")
    for source in sources:
        _show(source, folder + source)
    work = folder + WORK
    os.makedirs(work, exist_ok=True)
    options = f"size={folder_bytes},nr_inodes=1000,mode=700,uid={owner},gid={owner}"
    _mount("tmpfs", work, "tmpfs", NO_SUID | NO_DEVICES | NO_EXEC, options)
    os.chdir(folder)
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _call("umount2", b".", DETACH)
    _mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEVICES)
    os.chdir(WORK)


def _show(source: str, target: str) -> None:
    """Make a folder or a file visible at `target`, read-only."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(os.path.realpath(source), target, None, BIND | RECURSIVE)
    # flags that another user has set on the file system can't be taken away, so they are said again
    kept = os.statvfs(target).f_flag & (NO_SUID | NO_DEVICES | NO_EXEC)
    devices = 0 if source.startswith("/dev/") else NO_DEVICES
    _mount(None, target, None, REMOUNT | BIND | READ_ONLY | NO_SUID | devices | kept)


def set_limits(limits: Mapping[str, Any], count_tasks: bool) -> None:
    """Limits of the kernel on this process; on threads only where `count_tasks`: its user has no other processes."""
    seconds = math.ceil(limits["seconds"])
    for name, value in {
        "CPU": seconds, "AS": limits["memory_bytes"], "FSIZE": limits["file_bytes"], "NOFILE": limits["open_files"],
        "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0, **({"NPROC": limits["tasks"]} if count_tasks else {}),
    }.items():  # fmt: skip
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def counts_by_namespace() -> bool:
    """Does this kernel count a user's tasks by user namespace? (5.14 and later)"""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (5, 14)


def become(user: int | None) -> None:
    """Be another user without rights (None: stay), and drop every capability, for good. Raises OSError."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())
    with contextlib.suppress(OSError):
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent() -> None:
    """Be killed when the process that started this one ends; to be said again after `become`."""
    _call("prctl", PR_SET_DEATH_SIGNAL, 9, 0, 0, 0)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), os.fsencode(options), what=f"mount {target}")


def _call(name: str, *arguments: Any, what: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(getattr(libc, name)(*arguments), what or name)


def _checked(answer: int, what: str) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
