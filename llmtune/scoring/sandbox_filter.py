"""Which calls to the kernel a program in the sandbox may make (seccomp), and which files it may open (Landlock).

Runs inside the sandboxed process, before the program; standard library only, Linux only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from typing import NamedTuple

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""by machine: column of the tables below, and what the kernel calls it (AUDIT_ARCH_*)"""

USUAL = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 close:3:57 fstat:5:80 lseek:8:62
mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 mremap:25:216 madvise:28:233 rt_sigaction:13:134
rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133
sigaltstack:131:132 pause:34:- access:21:- faccessat:269:48 faccessat2:439:439 stat:4:- lstat:6:- newfstatat:262:79
statx:332:291 getdents64:217:61 readlink:89:- readlinkat:267:78 getcwd:79:17 chdir:80:49 fchdir:81:50 statfs:137:43
fstatfs:138:44 dup:32:23 dup2:33:- dup3:292:24 fcntl:72:25 flock:73:32 fsync:74:82 fdatasync:75:83 pipe:22:-
pipe2:293:59 poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:-
epoll_pwait:281:22 eventfd2:290:19 sendfile:40:71 futex:202:98 sched_yield:24:124 sched_getaffinity:204:123
nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:-
times:100:153 getrusage:98:165 getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174 geteuid:107:175
getgid:104:176 getegid:108:177 getgroups:115:158 getresuid:118:148 getresgid:120:150 getpgrp:111:- getpgid:121:155
getsid:124:156 uname:63:160 sysinfo:99:179 getrandom:318:278 getrlimit:97:163 exit:60:93 exit_group:231:94
set_robust_list:273:99 get_robust_list:274:100 set_tid_address:218:96 rseq:334:293 arch_prctl:158:- membarrier:324:283
restart_syscall:219:128 alarm:37:- getitimer:36:102 setitimer:38:103 wait4:61:260 waitid:247:95 umask:95:166
recvfrom:45:207 shutdown:48:210 getsockopt:55:209 setsockopt:54:208 getsockname:51:204 getpeername:52:205
close_range:436:436
"""
"""name:x86_64:aarch64 of what a program in Python is made of and that reaches nothing outside its process"""
WRITING = """
unlink:87:- unlinkat:263:35 mkdir:83:- mkdirat:258:34 rmdir:84:- rename:82:- renameat:264:38 renameat2:316:276
link:86:- linkat:265:37 symlink:88:- symlinkat:266:36 truncate:76:45 ftruncate:77:46 chmod:90:- fchmod:91:52
fchmodat:268:53 utimensat:280:88 creat:85:-
"""
"""what changes files: allowed where the only files that can be seen are the program's own"""
SIGNALLING = "kill:62:129 tkill:200:130"
"""allowed where the only process that can be seen is the program's own"""
FORBIDDEN = """
socket:41:198 connect:42:203 bind:49:200 listen:50:201 accept:43:202 accept4:288:242 sendmsg:46:211 recvmsg:47:212
fork:57:- vfork:58:- execve:59:221 execveat:322:281 ptrace:101:117 mount:165:40 umount2:166:39 chroot:161:51
unshare:272:97 setns:308:268 process_vm_readv:310:270 process_vm_writev:311:271 memfd_create:319:279 shmget:29:194
keyctl:250:219 bpf:321:280 perf_event_open:298:241 setuid:105:146 setgid:106:144 setgroups:116:159 mknodat:259:33
chown:92:- fchown:93:55 fchownat:260:54 mknod:133:- setpriority:141:140 sched_setaffinity:203:122
"""
"""answered by "not permitted"; whatever stands in no list is answered by "no such call", as an older kernel would"""
OPEN, OPENAT, IOCTL, CLONE = "open:2:-", "openat:257:56", "ioctl:16:29", "clone:56:220"
PRLIMIT, TGKILL, SOCKETPAIR, SENDTO = "prlimit64:302:261", "tgkill:234:131", "socketpair:53:199", "sendto:44:206"

ALLOW, REFUSE, UNKNOWN, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
LOAD, EQUAL, ANY_BIT, MASK, RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
TEMPORARY = getattr(os, "O_TMPFILE", 0) & ~getattr(os, "O_DIRECTORY", 0)
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | TEMPORARY
TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)
"""is it a terminal, how wide, do not block, (do not) close on exec"""
CLONE_THREAD = 0x10000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER_MODE = 38, 22, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""by version of Landlock how many rights to files it knows; from version 5 on 16"""


class Freedom(NamedTuple):
    """What the walls around a program leave it to do."""

    own_files: bool
    """a file system of its own: it may write"""
    own_processes: bool
    """a process-id namespace of its own: it may signal"""


def can_filter() -> bool:
    """Are the numbers of this machine's calls known?"""
    return platform.machine() in MACHINES


def forbid_new_rights() -> None:
    """No program that is started can have more rights. Raises OSError."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1, 0)


def forbid_calls(freedom: Freedom) -> None:
    """Install the filter, for good. Raises OSError where the kernel has none."""
    code = b"".join(struct.pack("HBBI", *line) for line in program(platform.machine(), os.getpid(), freedom))
    held = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held)))
    _prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(header))


Line = tuple[int, int, int, int]


def program(machine: str, process: int, freedom: Freedom) -> list[Line]:
    """The filter as lines of classic BPF: code, jump if true, jump if false, value."""
    column, name = MACHINES[machine]
    lines: list[Line] = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, name), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    allowed = USUAL + (WRITING if freedom.own_files else "") + (SIGNALLING if freedom.own_processes else "")
    for word in allowed.split():
        lines += _where(word, column, [(RETURN, 0, 0, ALLOW)])
    for word, check in _checks(process, freedom).items():
        lines += _where(word, column, check)
    for word in FORBIDDEN.split() + SIGNALLING.split() + WRITING.split():
        lines += _where(word, column, [(RETURN, 0, 0, REFUSE)])
    return [*lines, (RETURN, 0, 0, UNKNOWN)]


def _checks(process: int, freedom: Freedom) -> dict[str, list[Line]]:
    """Calls that are allowed with some arguments: what to do where the call is this one."""
    to_itself = [] if freedom.own_processes else [(LOAD, 0, 0, _argument(0)), *_only(process)]
    return {
        OPEN: _without(1, WRITE_FLAGS, freedom.own_files),
        OPENAT: _without(2, WRITE_FLAGS, freedom.own_files),
        IOCTL: [(LOAD, 0, 0, _argument(1)), *_only(*TERMINAL_QUESTIONS)],
        CLONE: [(LOAD, 0, 0, _argument(0)), (ANY_BIT, 1, 0, CLONE_THREAD), (RETURN, 0, 0, REFUSE),
                (RETURN, 0, 0, ALLOW)],
        PRLIMIT: [(LOAD, 0, 0, _argument(0)), *_only(0, process)],
        TGKILL: to_itself or [(RETURN, 0, 0, ALLOW)],
        # a pair of connected streams reaches nobody else; datagrams could be sent to any named socket
        SOCKETPAIR: [(LOAD, 0, 0, _argument(1)), (MASK, 0, 0, 0xF), *_only(1)],
        SENDTO: [(LOAD, 0, 0, _argument(4)), (EQUAL, 1, 0, 0), (RETURN, 0, 0, REFUSE),
                 (LOAD, 0, 0, _argument(4) + 4), *_only(0)],
    }  # fmt: skip


def _where(word: str, column: int, then: Sequence[Line]) -> list[Line]:
    number = word.split(":")[1 + column]
    return [] if number == "-" else [(EQUAL, 0, len(then), int(number)), *then]


def _argument(place: int) -> int:
    """Where the low half of an argument stands in what the filter sees."""
    return 16 + 8 * place


def _only(*values: int) -> list[Line]:
    """Allowed where what was loaded is one of them."""
    lines: list[Line] = [(EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*lines, (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]


def _without(place: int, bits: int, anyway: bool) -> list[Line]:
    """Allowed where the argument has none of the bits."""
    if anyway:
        return [(RETURN, 0, 0, ALLOW)]
    return [(LOAD, 0, 0, _argument(place)), (ANY_BIT, 0, 1, bits), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]


def show_only(folders: Sequence[str]) -> None:
    """Landlock: files can be read under these folders, and nothing else can be done to any file.

    Raises:
        OSError: the kernel has no Landlock, or it is off.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = _checked(libc.syscall(LANDLOCK_CREATE, None, 0, 1))
    rights = ctypes.create_string_buffer(struct.pack("Q", (1 << FILE_RIGHTS.get(version, 16)) - 1), 8)
    rules = _checked(libc.syscall(LANDLOCK_CREATE, rights, 8, 0))
    for folder in folders:
        if not os.path.isdir(folder):
            continue
        handle = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", READ_FILE | READ_FOLDER, handle), 12)
        _checked(libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0))
        os.close(handle)
    _checked(libc.syscall(LANDLOCK_RESTRICT, rules, 0))
    os.close(rules)


def _prctl(option: int, value: int, pointer: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_ulong
    _checked(libc.prctl(option, word(value), word(pointer), word(0), word(0)))


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
