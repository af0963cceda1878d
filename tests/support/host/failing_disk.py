"""A disk below one folder that takes no writes, is full or fails, while another process works: a preloaded library.

What the process has open stays open, as when a kernel makes a filesystem read-only after an error. Needs no root.
"""

from __future__ import annotations

import errno
import mmap
import struct
from pathlib import Path

from tests.support.host.preloaded import preloaded

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile int32_t *failure;
static const char *under;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAILING_DISK");
    under = getenv("FAILING_DISK_UNDER");
    int file = name ? open(name, O_RDONLY) : -1;
    if (file < 0) return;
    void *shared = mmap(NULL, sizeof *failure, PROT_READ, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED) failure = shared;
    close(file);
}

static int below(const char *path) { return under && strncmp(path, under, strlen(under)) == 0; }

static int open_below(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* The errno with which a change of `path` fails now; 0: it does not. */
static int of_path(const char *path) { return failure && *failure && below(path) ? *failure : 0; }
static int of_file(int file) { return failure && *failure && open_below(file) ? *failure : 0; }

#define REAL(type, name, ...) type (*real)(__VA_ARGS__) = dlsym(RTLD_NEXT, name)
#define FAIL(number) do { int with = (number); if (with) { errno = with; return -1; } } while (0)

static int opening(const char *name, const char *path, int flags, mode_t mode) {
    int with = of_path(path);
    if (with && (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) {
        struct stat found;
        int there = stat(path, &found) == 0;
        if (with == EROFS || (!there && (flags & O_CREAT))) { errno = with; return -1; }
    }
    REAL(int, name, const char *, int, ...);
    return real(path, flags, mode);
}

#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list more; va_start(more, flags); mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; va_end(more); \
    return opening(#name, path, flags, mode); }
OPEN(open)
OPEN(open64)

#define WRITE(name, offset_t) ssize_t name(int file, const void *data, size_t size, offset_t at) { \
    FAIL(of_file(file)); REAL(ssize_t, #name, int, const void *, size_t, offset_t); return real(file, data, size, at); }
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

ssize_t write(int file, const void *data, size_t size) {
    FAIL(of_file(file));
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(file, data, size);
}

#define ON_FILE(name) int name(int file) { \
    FAIL(of_file(file) == EIO ? EIO : 0); REAL(int, #name, int); return real(file); }
ON_FILE(fsync)
ON_FILE(fdatasync)

int mkdir(const char *path, mode_t mode) {
    FAIL(of_path(path));
    REAL(int, "mkdir", const char *, mode_t);
    return real(path, mode);
}

int unlink(const char *path) {
    FAIL(of_path(path) == ENOSPC ? 0 : of_path(path));
    REAL(int, "unlink", const char *);
    return real(path);
}

int rename(const char *from, const char *to) {
    FAIL(of_path(to));
    REAL(int, "rename", const char *, const char *);
    return real(from, to);
}

#define TRUNCATE(name, offset_t) int name(int file, offset_t size) { \
    FAIL(of_file(file) == ENOSPC ? 0 : of_file(file)); REAL(int, #name, int, offset_t); return real(file, size); }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
"""


class FailingDisk:
    """The disk of every process that is started with `environment`, below `folder`."""

    def __init__(self, scratch: Path, folder: Path) -> None:
        """Skips the test where there is no C compiler."""
        path = scratch / "failing-disk"
        path.write_bytes(bytes(4))
        with path.open("r+b") as file:
            self._errno = mmap.mmap(file.fileno(), 4)
        self.environment = {
            "LD_PRELOAD": str(preloaded(SOURCE)),
            "FAILING_DISK": str(path),
            "FAILING_DISK_UNDER": f"{folder}/",
        }

    def fail(self, number: int) -> None:
        """From now on every change fails with this errno, as ENOSPC, EROFS or EIO do; 0: none does."""
        assert number == 0 or number in errno.errorcode
        self._errno[:] = struct.pack("=i", number)
