/* The bare subscriber: takes COUNT messages of a topic filter at QoS 1, acknowledges each, looks at none of them.
 * Prints "ready", then the seconds from the first to the last message as one JSON line. Retained ones do not count.
 *
 * usage: mqtt_sink PORT TOPIC_FILTER COUNT */
#include "mqtt.h"
#include <time.h>

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }

int main(int argc, char **argv) {
    if (argc != 4) { fprintf(stderr, "usage: mqtt_sink PORT TOPIC_FILTER COUNT\n"); return 2; }
    long count = atol(argv[3]), got = 0;
    char client[32];
    snprintf(client, sizeof client, "bench-sink-%d", getpid());
    int fd = open_session(atoi(argv[1]), client, argv[2], 1);
    puts("ready");
    fflush(stdout);
    size_t room = 8 << 20, have = 0, retained = 0;
    uint8_t *in = malloc(room);
    struct bytes out = {0};
    double first = 0;
    while (got < count) {
        ssize_t n = read(fd, in + have, room - have);
        if (n <= 0) die("broker closed the connection");
        have += n;
        const uint8_t *at = in;
        struct packet packet;
        struct publish message;
        out.length = 0;
        while (next_packet(&at, in + have, &packet)) {
            if (packet.first >> 4 != PUBLISH || !parse_publish(packet, &message)) continue;
            if (message.qos) { append(&out, "\x40\x02", 2); append_u16(&out, message.mid); }
            if (packet.first & 1) { retained++; continue; }
            if (!got++) first = now();
        }
        memmove(in, at, have -= at - in);
        for (size_t done = 0; done < out.length;) {
            ssize_t sent = write(fd, out.at + done, out.length - done);
            if (sent <= 0) die("write");
            done += sent;
        }
    }
    printf("{\"messages\":%ld,\"retained\":%zu,\"seconds\":%.6f}\n", got, retained, now() - first);
    return 0;
}
