/* The ceiling: answers every request at once with `bytes` constant bytes, no inference, no checks.
 * usage: mqtt_echo PORT TOPIC_FILTER QOS REPLY_BYTES   prints "ready" */
#include "mqtt.h"

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: mqtt_echo PORT TOPIC_FILTER QOS REPLY_BYTES\n"); return 2; }
    size_t size = atoi(argv[4]), room = 8 << 20, have = 0;
    unsigned mid = 0;
    int fd = open_session(atoi(argv[1]), "bench-echo", argv[2], atoi(argv[3]));
    uint8_t *in = malloc(room), *reply = calloc(1, size + 1);
    struct bytes out = {0};
    puts("ready");
    fflush(stdout);
    for (;;) {
        ssize_t n = read(fd, in + have, room - have);
        if (n <= 0) return 0;
        have += n;
        const uint8_t *at = in;
        struct packet packet;
        struct publish request;
        out.length = 0;
        while (next_packet(&at, in + have, &packet)) {
            if (packet.first >> 4 != PUBLISH || !parse_publish(packet, &request)) continue;
            unsigned qos = request.qos;
            if (qos) { append(&out, "\x40\x02", 2); append_u16(&out, request.mid); }
            if (!request.response || !request.correlation) continue;
            size_t properties = 3 + request.correlation_length;
            append_header(&out, 0x30 | qos << 1, 2 + request.response_length + (qos ? 2 : 0) + 1 + properties + size);
            append_text(&out, request.response, request.response_length);
            if (qos) { mid = mid % 65535 + 1; append_u16(&out, mid); }
            append_u8(&out, properties);
            append_u8(&out, CORRELATION_DATA);
            append_text(&out, request.correlation, request.correlation_length);
            append(&out, reply, size);
        }
        memmove(in, at, have -= at - in);
        for (size_t done = 0; done < out.length;) {
            ssize_t sent = write(fd, out.at + done, out.length - done);
            if (sent <= 0) return 0;
            done += sent;
        }
    }
}
