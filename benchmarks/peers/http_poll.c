/* A closed loop of HTTP/1.1 GETs over keep-alive connections: C connections, one request in flight on each, requests
 * taken from a file in turn. Counts statuses and latencies; prints one JSON line. Blocks nowhere: one thread, poll(2).
 *
 * usage: http_poll PORT REQUESTS CONNECTIONS SECONDS WARM_SECONDS
 *   REQUESTS  whole requests, each preceded by its length as 32 bits little endian */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 16 };
struct connection { int fd; size_t have; uint64_t started; char in[ROOM]; };

static void die(const char *what) { perror(what); exit(2); }
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static int ascending(const void *a, const void *b) { uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b; return (x > y) - (x < y); }

static struct { const char *at; uint32_t length; } *requests;
static size_t count, next_request;

static void load(const char *name) {
    FILE *f = fopen(name, "rb");
    if (!f) die(name);
    fseek(f, 0, SEEK_END);
    size_t size = ftell(f);
    rewind(f);
    char *data = malloc(size), *end = data + size;
    if (fread(data, 1, size, f) != size) die(name);
    fclose(f);
    for (char *p = data; p < end;) {
        uint32_t length;
        memcpy(&length, p, 4);
        if (count % 4096 == 0 && !(requests = realloc(requests, (count + 4096) * sizeof *requests))) die("realloc");
        requests[count].at = p + 4;
        requests[count++].length = length;
        p += 4 + length;
    }
}

static void ask(struct connection *c) {
    const char *at = requests[next_request].at;
    size_t length = requests[next_request].length;
    next_request = (next_request + 1) % count;
    c->have = 0;
    c->started = now();
    if (write(c->fd, at, length) != (ssize_t)length) die("write"); /* small, and nothing is under way: fits the socket */
}

/* The status when the whole answer is there, else 0. */
static int answered(struct connection *c) {
    c->in[c->have] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    int status = atoi(c->in + 9);
    size_t body = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    if (length && length < end && status != 304) body = strtoul(length + 17, NULL, 10);
    return c->have >= (size_t)(end + 4 - c->in) + body ? status : 0;
}

int main(int argc, char **argv) {
    if (argc != 6) { fprintf(stderr, "usage: http_poll PORT REQUESTS CONNECTIONS SECONDS WARM_SECONDS\n"); return 2; }
    load(argv[2]);
    int n = atoi(argv[3]);
    struct connection *all = calloc(n, sizeof *all);
    struct pollfd *waits = calloc(n, sizeof *waits);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0, on = 1; i < n; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (void *)&to, sizeof to)) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        all[i].fd = fd;
        waits[i] = (struct pollfd){fd, POLLIN, 0};
        ask(&all[i]);
    }
    uint64_t begin = now() + (uint64_t)(atof(argv[5]) * 1e9), end = begin + (uint64_t)(atof(argv[4]) * 1e9);
    size_t statuses[600] = {0}, got = 0, room = 1 << 20;
    uint32_t *latency = malloc(room * 4);
    while (now() < end) {
        if (poll(waits, n, 1000) < 0) die("poll");
        for (int i = 0; i < n; i++) {
            if (!waits[i].revents) continue;
            struct connection *c = &all[i];
            ssize_t some = read(c->fd, c->in + c->have, ROOM - 1 - c->have);
            if (some <= 0) { fprintf(stderr, "the server closed a connection: %.200s\n", c->in); return 2; }
            c->have += some;
            int status = answered(c);
            if (!status) continue;
            uint64_t at = now();
            if (at >= begin && status < 600) {
                if (got == room && !(latency = realloc(latency, (room *= 2) * 4))) die("realloc");
                statuses[status]++;
                latency[got++] = (at - c->started) / 1000;
            }
            ask(c);
        }
    }
    if (!got) { fprintf(stderr, "no answer\n"); return 2; }
    qsort(latency, got, 4, ascending);
    printf("{\"answers\":%zu,\"per_second\":%.1f,\"p50_us\":%u,\"p95_us\":%u,\"p99_us\":%u,\"not_modified\":%zu,\"ok\":%zu}\n", got,
           got / atof(argv[4]), latency[got / 2], latency[(size_t)(got * .95)], latency[(size_t)(got * .99)], statuses[304], statuses[200]);
    return 0;
}
