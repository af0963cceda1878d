"""Another process's wall clock, set ahead or back while it runs: a small library, preloaded over the C library.

Only CLOCK_REALTIME, `time` and `gettimeofday` move; the monotonic clock and all waiting stay true, as on a host whose
clock is set.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from tests.support.host.preloaded import preloaded

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = dlsym(RTLD_NEXT, "clock_gettime");
    const char *name = getenv("MOVED_CLOCK");
    int file = name ? open(name, O_RDONLY) : -1;
    if (file < 0) return;
    void *shared = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED) ahead = shared;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) begin();
    int result = real(clock, now);
    if (result == 0 && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class MovedClock:
    """The wall clock of every process that is started with `environment`."""

    def __init__(self, folder: Path) -> None:
        """Skips the test where there is no C compiler."""
        path = folder / "clock"
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._seconds = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(preloaded(SOURCE)), "MOVED_CLOCK": str(path)}

    def set_ahead(self, seconds: int) -> None:
        """From now on it is so many seconds ahead of the true time; less than 0: behind it."""
        self._seconds[:] = struct.pack("=q", seconds)
