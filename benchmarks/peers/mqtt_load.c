/* A closed loop of requests: W in flight, each with response topic, correlation data and, with a header, the length of
 * its JSON header as user property. Every reply is matched to its request by the whole correlation data, and the FP32
 * values at its end are compared with the expected ones. Prints one JSON line; exit code 1 when a reply was wrong.
 *
 * usage: mqtt_load PORT TOPIC BODIES VARIANTS WINDOW COUNT WARM QOS HEADER_LENGTH [EXPECTED [TOLERANCE]]
 *   BODIES    a file with VARIANTS request bodies of equal size, one after the other
 *   EXPECTED  a file with VARIANTS arrays of FP32; without it replies are only counted */
#include "mqtt.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <time.h>

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static int ascending(const void *a, const void *b) { uint64_t x = *(uint64_t *)a, y = *(uint64_t *)b; return (x > y) - (x < y); }

static uint8_t *slurp(const char *name, size_t *size) {
    FILE *f = fopen(name, "rb");
    if (!f) die(name);
    fseek(f, 0, SEEK_END);
    *size = ftell(f);
    rewind(f);
    uint8_t *data = malloc(*size);
    if (fread(data, 1, *size, f) != *size) die(name);
    fclose(f);
    return data;
}

static struct {
    int fd, variants, window, qos;
    const char *topic;
    char reply_topic[64], header_length[16];
    uint8_t *bodies, *expected;
    float tolerance; /* relative to max(1, |value|) */
    size_t body, values, done; /* bytes a body, FP32 values a reply, bytes of out that are sent */
    struct bytes out;
    uint64_t *started;
    uint32_t *turn; /* how often a place of the window was used: part of its correlation data */
    uint8_t *busy;
} g;

struct correlation { uint32_t place, turn; char mark[8]; };

static void request(uint32_t place) {
    struct correlation mark = {place, ++g.turn[place], "modelflt"};
    size_t reply = strlen(g.reply_topic), digits = strlen(g.header_length), topic = strlen(g.topic);
    static const char name[] = "inference-header-content-length";
    size_t properties = 3 + reply + 3 + sizeof mark + (digits ? 5 + sizeof name - 1 + digits : 0);
    append_header(&g.out, 0x30 | g.qos << 1, 2 + topic + (g.qos ? 2 : 0) + 1 + properties + g.body);
    append_text(&g.out, g.topic, topic);
    if (g.qos) append_u16(&g.out, place + 1);
    append_varint(&g.out, properties);
    append_u8(&g.out, RESPONSE_TOPIC);
    append_text(&g.out, g.reply_topic, reply);
    append_u8(&g.out, CORRELATION_DATA);
    append_text(&g.out, &mark, sizeof mark);
    if (digits) {
        append_u8(&g.out, USER_PROPERTY);
        append_text(&g.out, name, sizeof name - 1);
        append_text(&g.out, g.header_length, digits);
    }
    append(&g.out, g.bodies + place % g.variants * g.body, g.body);
    g.busy[place] = 1;
    g.started[place] = now();
}

static void flush(void) {
    while (g.done < g.out.length) {
        ssize_t n = write(g.fd, g.out.at + g.done, g.out.length - g.done);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) die("write");
        g.done += n;
    }
    g.done = g.out.length = 0;
}

/* Are the FP32 values at the end of the reply those of this variant? */
static int right(const struct publish *reply, uint32_t place) {
    size_t bytes = g.values * 4;
    if (reply->payload_length < bytes) return 0;
    const uint8_t *got = reply->payload + reply->payload_length - bytes, *want = g.expected + place % g.variants * bytes;
    for (size_t i = 0; i < bytes; i += 4) {
        float a, b;
        memcpy(&a, got + i, 4);
        memcpy(&b, want + i, 4);
        if (!(fabsf(a - b) <= g.tolerance * fmaxf(1, fabsf(b)))) return 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 10) { fprintf(stderr, "usage: mqtt_load PORT TOPIC BODIES VARIANTS WINDOW COUNT WARM QOS HEADER_LENGTH [EXPECTED [TOLERANCE]]\n"); return 2; }
    size_t size;
    g.topic = argv[2];
    g.variants = atoi(argv[4]);
    g.bodies = slurp(argv[3], &size);
    g.body = size / g.variants;
    g.window = atoi(argv[5]);
    long count = atol(argv[6]), warm = atol(argv[7]), total = count + warm, sent = 0, got = 0, wrong = 0, unmatched = 0, refused = 0;
    g.qos = atoi(argv[8]);
    if (atoi(argv[9])) snprintf(g.header_length, sizeof g.header_length, "%s", argv[9]);
    g.tolerance = argc > 11 ? strtof(argv[11], NULL) : 1e-3f;
    if (argc > 10) { g.expected = slurp(argv[10], &size); g.values = size / g.variants / 4; }
    char client[32];
    snprintf(client, sizeof client, "bench-load-%d", getpid());
    snprintf(g.reply_topic, sizeof g.reply_topic, "bench/%s", client);
    g.fd = open_session(atoi(argv[1]), client, g.reply_topic, g.qos);
    fcntl(g.fd, F_SETFL, O_NONBLOCK);
    g.started = calloc(g.window, 8);
    g.turn = calloc(g.window, 4);
    g.busy = calloc(g.window, 1);
    uint64_t *latency = calloc(total, 8), begin = now(), counted_from = begin, deadline = begin + 60000000000ull;
    size_t room = 4 << 20, have = 0;
    uint8_t *in = malloc(room);
    for (int place = 0; place < g.window && sent < total; place++, sent++) request(place);
    flush();
    while (got < total && now() < deadline) {
        struct pollfd wait = {g.fd, POLLIN | (g.out.length ? POLLOUT : 0), 0};
        poll(&wait, 1, 1000);
        if (wait.revents & POLLOUT) flush();
        if (!(wait.revents & (POLLIN | POLLHUP | POLLERR))) continue;
        if (have == room && !(in = realloc(in, room *= 2))) die("realloc");
        ssize_t n = read(g.fd, in + have, room - have);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) { fprintf(stderr, "the broker closed the connection after %ld replies\n", got); return 2; }
        have += n;
        uint64_t at_time = now();
        const uint8_t *at = in;
        struct packet packet;
        struct publish reply;
        while (next_packet(&at, in + have, &packet)) {
            if (packet.first >> 4 == PUBACK && packet.end - packet.body > 2 && packet.body[2] >= 0x80) refused++;
            if (packet.first >> 4 != PUBLISH) continue;
            if (!parse_publish(packet, &reply)) { unmatched++; continue; }
            if (reply.qos) { append(&g.out, "\x40\x02", 2); append_u16(&g.out, reply.mid); }
            struct correlation mark = {0};
            if (reply.correlation_length == sizeof mark) memcpy(&mark, reply.correlation, sizeof mark);
            if (memcmp(mark.mark, "modelflt", 8) || mark.place >= (uint32_t)g.window || !g.busy[mark.place] || g.turn[mark.place] != mark.turn) {
                unmatched++;
                continue;
            }
            g.busy[mark.place] = 0;
            if (g.expected && !right(&reply, mark.place)) wrong++;
            latency[got++] = at_time - g.started[mark.place];
            if (got == warm) counted_from = now();
            if (sent < total) { request(mark.place); sent++; }
        }
        memmove(in, at, have -= at - in);
        flush();
    }
    uint64_t end = now();
    long n = got - warm;
    if (n <= 0) { fprintf(stderr, "timeout after %ld replies\n", got); return 2; }
    qsort(latency + warm, n, 8, ascending);
    printf("{\"requests\":%ld,\"lost\":%ld,\"per_second\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"wrong\":%ld,\"unmatched\":%ld,\"refused\":%ld}\n",
           n, total - got, n / ((end - counted_from) / 1e9), latency[warm + n / 2] / 1e3, latency[warm + (long)(n * .99)] / 1e3,
           latency[warm + n - 1] / 1e3, wrong, unmatched, refused);
    return wrong || unmatched || got < total;
}
