"""Runs the server's own tools out of its container's files, whatever image that is, without being in that image.

`root` is /proc/PID/root of any living process of that container; the supervisor lives while mariadbd is dead. The
tool's own loader and libraries are used, so nothing has to fit our image but the kernel. Links are followed inside
of the root: the kernel would follow an absolute one in ours, and Debian 12's loader is behind such a one.
ADR 0018. Not for what a tool is asked to do.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mariadb_operator.runtime.errors import Permanent, Transient, Uncertain

_FOLDERS = ("usr/bin", "bin", "usr/sbin", "usr/local/bin", "usr/libexec", "opt/mariadb/bin")
_CHARACTER_SETS = ("usr/share/mariadb/charsets", "usr/share/mysql/charsets")
_TRIPLETS = {62: "x86_64-linux-gnu", 183: "aarch64-linux-gnu"}  # ELF's number of the machine
_IDENTITY = struct.Struct("<4sBBB9xHHI")  # magic, class, byte order, version, type, machine, version
_PROGRAM_HEADERS = struct.Struct("<Q")
_PROGRAM_HEADER = struct.Struct("<IIQQQQ")  # type, flags, offset, address, address, length in the file
_INTERPRETER = 3
_MOST_LINKS = 40
_STDERR_BYTES = 64 << 10
_CHECK_SECONDS = 10.0


class ToolMissing(Permanent):
    """The container's image has not got what is needed; the message names it."""


class ContainerGone(Transient):
    """The process through which the container's files were seen has ended."""


class ToolFailed(Permanent):
    """A tool ended with an error of its own."""


class ToolStopped(Uncertain):
    """A tool did not end in time and was killed: what it had done by then is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One program of the container, ready to be run from here."""

    program: Path
    loader: Path
    libraries: tuple[Path, ...]
    character_sets: Path | None

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs it."""
        search = ":".join(str(path) for path in self.libraries)
        # Without its cache, which is ours: it names our libraries.
        loader = [str(self.loader), "--inhibit-cache", "--library-path", search]
        return [*loader, str(self.program), *arguments]

    async def run(
        self,
        *arguments: str,
        deadline_seconds: float,
        options: str = "",
        stdin: IO[bytes] | int = asyncio.subprocess.DEVNULL,
        stdout: IO[bytes] | int = asyncio.subprocess.DEVNULL,
    ) -> str:
        """Run it to its end; returns what it said on stderr, the last 64 KiB.

        `options` is the text of an option file, for what must not be in an argument list; no other is read.

        Raises:
            ToolFailed: it ended with another code than 0.
            ToolStopped: not within the deadline.
            ContainerGone: it could not be started any more.
        """
        descriptor = _option_file(options)
        try:
            file = f"--defaults-file=/proc/self/fd/{descriptor}"
            sets = (f"--character-sets-dir={self.character_sets}",) if self.character_sets is not None else ()
            command = self.command(file, *sets, *arguments)
            return await _run(command, deadline_seconds, (descriptor,), stdin, stdout)
        finally:
            os.close(descriptor)


async def find(root: Path, name: str) -> Tool:
    """Find a tool below a container's root, with its loader and libraries, and see that they fit.

    Raises:
        ToolMissing: the image lacks the tool, its loader, or one of its libraries.
        ContainerGone: the root can't be read any more.
    """
    tool = await asyncio.to_thread(_located, root, name)
    await _check_libraries(tool, root, name)
    return tool


def _located(root: Path, name: str) -> Tool:
    if not root.is_dir():
        raise ContainerGone(f"{root} is not there")
    program = next((path for path in (_inside(root, f"{each}/{name}") for each in _FOLDERS) if path), None)
    if program is None:
        raise ToolMissing(f"the image has no {name} in {', '.join('/' + each for each in _FOLDERS)}")
    machine, interpreter = _elf(program, name)
    loader = _inside(root, interpreter)
    if loader is None:
        raise ToolMissing(f"the image has no {interpreter}, the loader of {name}")
    sets = next((path for path in (_inside(root, each) for each in _CHARACTER_SETS) if path), None)
    return Tool(
        program=program,
        loader=loader,
        libraries=_library_folders(root, _TRIPLETS[machine]),
        character_sets=sets,
    )


def _inside(root: Path, path: str) -> Path | None:
    """The path below the root with every link followed as a process of the container would; None if it leads nowhere."""
    left = list(reversed(PurePosixPath("/" + path).parts[1:]))
    done: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        try:
            target = here.readlink() if here.is_symlink() else None
        except OSError:
            return None
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.is_absolute():
            done = []
        left.extend(reversed([each for each in target.parts if each != "/"]))
    found = root.joinpath(*done)
    return found if found.exists() else None


def _elf(program: Path, name: str) -> tuple[int, str]:
    """The machine that a program is for, and its loader."""
    try:
        with program.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ToolMissing(f"{name} of the image can't be read: {error.strerror}") from error
    if len(head) < 64 or head[:4] != b"\x7fELF":
        raise ToolMissing(f"{name} of the image is no program but a script")
    _, bits, order, _, _, machine, _ = _IDENTITY.unpack_from(head)
    if bits != 2 or order != 1 or machine not in _TRIPLETS:
        raise ToolMissing(f"{name} of the image is for another machine than amd64 and arm64 (ELF {machine})")
    (start,) = _PROGRAM_HEADERS.unpack_from(head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    for number in range(count):
        place = start + number * size
        if place + _PROGRAM_HEADER.size + 8 > len(head):
            break
        kind, _, offset, _, _, length = _PROGRAM_HEADER.unpack_from(head, place)
        if kind == _INTERPRETER and offset + length <= len(head):
            loader = head[offset : offset + length].rstrip(b"\0").decode("utf-8", "replace")
            if "musl" in loader:
                raise ToolMissing(f"{name} of the image uses {loader}; only glibc's loader is supported")
            return machine, loader
    raise ToolMissing(f"{name} of the image names no loader")


def _library_folders(root: Path, triplet: str) -> tuple[Path, ...]:
    """Where the container's loader would look: what its configuration names, then Debian's and Red Hat's folders."""
    names = [
        *_configured(root, "etc/ld.so.conf"),
        f"lib/{triplet}",
        f"usr/lib/{triplet}",
        *("lib64", "usr/lib64", "lib", "usr/lib"),
    ]
    found = (_inside(root, name) for name in names)
    return tuple(dict.fromkeys(path for path in found if path is not None and path.is_dir()))


def _configured(root: Path, name: str) -> list[str]:
    path = _inside(root, name)
    if path is None:
        return []
    folders: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("include"):
            pattern = PurePosixPath(text.removeprefix("include").strip())
            folder = _inside(root, str(pattern.parent))
            parts = sorted(folder.glob(pattern.name)) if folder is not None else []
            folders += [each for part in parts for each in _configured(root, f"{pattern.parent}/{part.name}")]
        elif text:
            folders.append(text)
    return folders


async def _check_libraries(tool: Tool, root: Path, name: str) -> None:
    """Every library is found, and in the container: one of ours would be of another build."""
    search = ":".join(str(path) for path in tool.libraries)
    command = [
        str(tool.loader),
        *("--inhibit-cache", "--library-path", search, "--list"),
        str(tool.program),
    ]
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        with os.fdopen(writer, "wb") as end:
            try:
                await _run(command, _CHECK_SECONDS, (), asyncio.subprocess.DEVNULL, end)
            except ToolFailed as error:
                raise ToolMissing(f"{name} of the image does not load: {error}") from error
        lines = output.read().decode("utf-8", "replace").splitlines()
    for line in lines:
        library, arrow, where = line.strip().partition(" => ")
        if arrow and "not found" in where:
            raise ToolMissing(f"the image has no {library}, which {name} needs")
        if arrow and not where.startswith(f"{root}/"):
            raise ToolMissing(f"{library}, which {name} needs, is not in the image's library folders")


def _option_file(text: str) -> int:
    """An option file that is nowhere on a disk."""
    descriptor = os.memfd_create("options", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)  # one that anybody may write is ignored
        os.write(descriptor, text.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


async def _run(
    command: Sequence[str],
    deadline_seconds: float,
    descriptors: Sequence[int],
    stdin: IO[bytes] | int,
    stdout: IO[bytes] | int,
) -> str:
    name = Path(command[-1] if "--list" in command else command[4]).name
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=tuple(descriptors),
            env={"LC_ALL": "C"},
        )
    except OSError as error:
        raise ContainerGone(f"{name} could not be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline_seconds):
            said = await _last_words(process)
            code = await process.wait()
    except TimeoutError as error:
        raise ToolStopped(f"{name} did not end within {deadline_seconds} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        raise ToolFailed(f"{name} ended with {code}: {said.strip()[-500:]}")
    return said


async def _last_words(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = b""
    while piece := await process.stderr.read(_STDERR_BYTES):
        said = (said + piece)[-_STDERR_BYTES:]
    return said.decode("utf-8", "replace")
