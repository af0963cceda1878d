/* Publishes messages of many devices over one connection, at QoS 1, at most WINDOW without their PUBACK.
 * Prints the seconds until the broker had acknowledged all of them, and how many it refused, as one JSON line.
 *
 * usage: mqtt_flood PORT MESSAGES WINDOW
 *   MESSAGES  for each message: length of topic and length of payload, 32 bits little endian, topic, payload */
#include "mqtt.h"
#include <time.h>

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }

int main(int argc, char **argv) {
    if (argc != 4) { fprintf(stderr, "usage: mqtt_flood PORT MESSAGES WINDOW\n"); return 2; }
    char client[32];
    snprintf(client, sizeof client, "bench-flood-%d", getpid());
    int fd = open_session(atoi(argv[1]), client, "bench/nothing", 0);
    FILE *f = fopen(argv[2], "rb");
    if (!f) die(argv[2]);
    size_t window = atoi(argv[3]), flying = 0, sent = 0, refused = 0, have = 0, room = 1 << 20;
    uint8_t *in = malloc(room);
    static uint8_t text[1 << 20];
    struct bytes out = {0};
    uint32_t lengths[2];
    int more = 1;
    unsigned mid = 0;
    double begin = now();
    while (more || flying) {
        out.length = 0;
        while (flying < window && (more = more && fread(lengths, 4, 2, f) == 2)) {
            size_t all = lengths[0] + lengths[1];
            if (all > sizeof text || fread(text, 1, all, f) != all) die("message");
            append_header(&out, 0x32, 2 + lengths[0] + 2 + 1 + lengths[1]);
            append_text(&out, text, lengths[0]);
            append_u16(&out, mid = mid % 65535 + 1);
            append_u8(&out, 0);
            append(&out, text + lengths[0], lengths[1]);
            flying++, sent++;
        }
        for (size_t done = 0; done < out.length;) {
            ssize_t n = write(fd, out.at + done, out.length - done);
            if (n <= 0) die("write");
            done += n;
        }
        if (!flying) break;
        ssize_t n = read(fd, in + have, room - have);
        if (n <= 0) die("broker closed the connection");
        have += n;
        const uint8_t *at = in;
        struct packet packet;
        while (next_packet(&at, in + have, &packet)) {
            if (packet.first >> 4 != PUBACK) continue;
            flying--;
            if (packet.end - packet.body > 2 && packet.body[2] >= 0x80) refused++;
        }
        memmove(in, at, have -= at - in);
    }
    printf("{\"sent\":%zu,\"refused\":%zu,\"seconds\":%.6f}\n", sent, refused, now() - begin);
    return 0;
}
