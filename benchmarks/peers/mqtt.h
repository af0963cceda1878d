/* The little of MQTT 5 that the load generator and the echo peer share: one socket, packets in and out.
 * Source: OASIS MQTT 5.0. Blocking reads, whole packets, loopback only; no reconnect: these are measuring tools. */
#ifndef BENCH_MQTT_H
#define BENCH_MQTT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBACK = 9 };
enum { RESPONSE_TOPIC = 0x08, CORRELATION_DATA = 0x09, USER_PROPERTY = 0x26 };

static inline void die(const char *what) { perror(what); exit(2); }

struct bytes { uint8_t *at; size_t length, room; };

static inline void append(struct bytes *b, const void *from, size_t n) {
    if (b->length + n > b->room) {
        b->room = 2 * (b->length + n);
        if (!(b->at = realloc(b->at, b->room))) die("realloc");
    }
    memcpy(b->at + b->length, from, n);
    b->length += n;
}
static inline void append_u8(struct bytes *b, unsigned v) { uint8_t x = v; append(b, &x, 1); }
static inline void append_u16(struct bytes *b, unsigned v) { uint8_t x[2] = {v >> 8, v}; append(b, x, 2); }
static inline void append_text(struct bytes *b, const void *text, size_t n) { append_u16(b, n); append(b, text, n); }
static inline void append_varint(struct bytes *b, size_t n) {
    do { unsigned d = n % 128; n /= 128; append_u8(b, n ? d | 128 : d); } while (n);
}
static inline void append_header(struct bytes *b, unsigned first, size_t length) { append_u8(b, first); append_varint(b, length); }

/* Reads a variable byte integer; NULL when `end` comes first. */
static inline const uint8_t *read_varint(const uint8_t *p, const uint8_t *end, size_t *value) {
    *value = 0;
    for (int shift = 0; p < end && shift < 28; shift += 7) {
        *value |= (size_t)(*p & 127) << shift;
        if (!(*p++ & 128)) return p;
    }
    return NULL;
}

struct packet { unsigned first; const uint8_t *body, *end; };

/* The next whole packet between *at and end, or 0 when it has not come whole. */
static inline int next_packet(const uint8_t **at, const uint8_t *end, struct packet *out) {
    size_t length;
    if (end - *at < 2) return 0;
    const uint8_t *body = read_varint(*at + 1, end, &length);
    if (!body || (size_t)(end - body) < length) return 0;
    *out = (struct packet){**at, body, body + length};
    *at = body + length;
    return 1;
}

struct publish { const uint8_t *topic; size_t topic_length; unsigned qos, mid;
                 const uint8_t *response, *correlation, *payload; size_t response_length, correlation_length, payload_length; };

/* Takes a PUBLISH apart; properties other than the two are skipped. 0 when it holds one that is unknown here. */
static inline int parse_publish(struct packet in, struct publish *out) {
    const uint8_t *p = in.body;
    memset(out, 0, sizeof *out);
    out->qos = in.first >> 1 & 3;
    out->topic_length = p[0] << 8 | p[1];
    out->topic = p + 2;
    p += 2 + out->topic_length;
    if (out->qos) { out->mid = p[0] << 8 | p[1]; p += 2; }
    size_t length;
    if (!(p = read_varint(p, in.end, &length))) return 0;
    const uint8_t *end = p + length;
    while (p < end) {
        unsigned id = *p++, n = p[0] << 8 | p[1];
        switch (id) {
        case RESPONSE_TOPIC: out->response = p + 2; out->response_length = n; p += 2 + n; break;
        case CORRELATION_DATA: out->correlation = p + 2; out->correlation_length = n; p += 2 + n; break;
        case 0x03: p += 2 + n; break;                                            /* content type */
        case 0x01: p += 1; break;                                                /* payload format */
        case 0x02: p += 4; break;                                                /* message expiry */
        case 0x23: p += 2; break;                                                /* topic alias */
        case 0x0b: while (*p++ & 128) {} break;                                  /* subscription identifier */
        case USER_PROPERTY: p += 2 + n; n = p[0] << 8 | p[1]; p += 2 + n; break;
        default: return 0;
        }
    }
    out->payload = end;
    out->payload_length = in.end - end;
    return 1;
}

/* Connects to loopback, sends CONNECT and SUBSCRIBE, waits for both answers. */
static inline int open_session(int port, const char *client, const char *topic, unsigned qos) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || connect(fd, (void *)&to, sizeof to)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct bytes out = {0};
    append_header(&out, 0x10, 10 + 1 + 2 + strlen(client));
    append_text(&out, "MQTT", 4);
    append(&out, "\5\2\0\0\0", 5); /* version 5, clean start, no keepalive, no properties */
    append_text(&out, client, strlen(client));
    append_header(&out, 0x82, 2 + 1 + 2 + strlen(topic) + 1);
    append(&out, "\0\1\0", 3);
    append_text(&out, topic, strlen(topic));
    append_u8(&out, qos);
    if (write(fd, out.at, out.length) != (ssize_t)out.length) die("write");
    free(out.at);
    uint8_t in[512];
    const uint8_t *at = in;
    size_t have = 0;
    for (struct packet packet = {0}; packet.first >> 4 != SUBACK;) {
        while (!next_packet(&at, in + have, &packet)) {
            ssize_t n = read(fd, in + have, sizeof in - have);
            if (n <= 0) die("broker closed the connection");
            have += n;
        }
    }
    return fd;
}
#endif
