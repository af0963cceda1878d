/* Asks a Modelfleet device over MQTT 5 with libmosquitto.
 *
 *   cc -Wall -o ask ask.c -lmosquitto
 *   ./ask HOST PORT edge-1 lenet x 1,1,28,28 image.f32 [COUNT]
 *
 * image.f32 holds the FP32 input x of that shape, little-endian and row-major. Request and answer are in binary form: a JSON
 * header, whose length stands in a user property, and the tensors. So no JSON library is needed: every output of the
 * answer follows the header. An error is JSON without that property, for instance
 * {"error":"...","code":"unknown_model"}; docs/codes.md lists the codes.
 *
 * MQTT itself promises no answer: a request without one is sent again after a while and after a lost connection, until its
 * time is over. A device runs a request with an id once, however often it comes.
 */

#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEADER_LENGTH "inference-header-content-length"
#define TIMEOUT_SECONDS 20
#define REPEAT_SECONDS 3
#define HEADER_ROOM 1024

struct asker {
    struct mosquitto *client;
    char topic[256], reply_topic[64];
    const char *input, *shape;
    char *room; /* HEADER_ROOM bytes, then the tensor */
    size_t tensor, header;
    pthread_mutex_t lock;
    pthread_cond_t news;
    bool subscribed, pending;
    unsigned number; /* of the request: its correlation data */
    int result;      /* 0 when it was answered with a result */
};

static void publish(struct asker *ask) {
    mosquitto_property *properties = NULL;
    char length[16];
    snprintf(length, sizeof length, "%zu", ask->header);
    mosquitto_property_add_string(&properties, MQTT_PROP_RESPONSE_TOPIC, ask->reply_topic);
    mosquitto_property_add_binary(&properties, MQTT_PROP_CORRELATION_DATA, &ask->number, sizeof ask->number);
    mosquitto_property_add_int32(&properties, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL, TIMEOUT_SECONDS);
    mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, HEADER_LENGTH, length);
    int rc = mosquitto_publish_v5(ask->client, NULL, ask->topic, (int)(ask->header + ask->tensor),
                                  ask->room + HEADER_ROOM - ask->header, 1, false, properties);
    if (rc != MOSQ_ERR_SUCCESS) fprintf(stderr, "publish: %s\n", mosquitto_strerror(rc));
    mosquitto_property_free_all(&properties);
}

static void on_connect(struct mosquitto *client, void *data, int rc) {
    struct asker *ask = data;
    if (rc) fprintf(stderr, "broker: %s\n", mosquitto_connack_string(rc));
    else mosquitto_subscribe(client, NULL, ask->reply_topic, 1);
}

static void on_subscribe(struct mosquitto *client, void *data, int mid, int count, const int *granted) {
    struct asker *ask = data;
    (void)client, (void)mid, (void)count, (void)granted;
    pthread_mutex_lock(&ask->lock);
    ask->subscribed = true;
    /* Also after a lost connection, to which libmosquitto returns by itself: what is not answered is asked again. */
    if (ask->pending) publish(ask);
    pthread_cond_signal(&ask->news);
    pthread_mutex_unlock(&ask->lock);
}

static void on_message(struct mosquitto *client, void *data, const struct mosquitto_message *message,
                       const mosquitto_property *properties) {
    struct asker *ask = data;
    void *correlation = NULL;
    uint16_t correlation_size = 0;
    char *name = NULL, *value = NULL;
    long header = -1;
    (void)client;
    mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &correlation, &correlation_size, false);
    const mosquitto_property *at = mosquitto_property_read_string_pair(properties, MQTT_PROP_USER_PROPERTY, &name, &value, false);
    while (at != NULL) {
        if (strcmp(name, HEADER_LENGTH) == 0) header = strtol(value, NULL, 10);
        free(name), free(value);
        name = value = NULL;
        at = mosquitto_property_read_string_pair(at, MQTT_PROP_USER_PROPERTY, &name, &value, true);
    }
    pthread_mutex_lock(&ask->lock);
    bool ours = ask->pending && correlation_size == sizeof ask->number &&
                memcmp(correlation, &ask->number, sizeof ask->number) == 0;
    if (ours && header < 0) { /* an error */
        fprintf(stderr, "%.*s\n", message->payloadlen, (char *)message->payload);
        ask->result = 1;
    } else if (ours && header <= message->payloadlen) {
        const char *tensor = (const char *)message->payload + header;
        for (long left = (message->payloadlen - header) / 4; left > 0; left--, tensor += 4) {
            float element;
            memcpy(&element, tensor, 4);
            printf("%g%s", element, left > 1 ? " " : "\n");
        }
        fflush(stdout);
        ask->result = 0;
    }
    if (ours) ask->pending = false;
    pthread_cond_signal(&ask->news);
    pthread_mutex_unlock(&ask->lock);
    free(correlation);
}

/* Puts the header of the next request before its tensor. */
static void make_header(struct asker *ask) {
    char header[HEADER_ROOM];
    ask->header = (size_t)snprintf(header, sizeof header,
        "{\"id\":\"%u\",\"inputs\":[{\"name\":\"%s\",\"datatype\":\"FP32\",\"shape\":[%s],"
        "\"parameters\":{\"binary_data_size\":%zu}}],\"parameters\":{\"binary_data_output\":true}}",
        ask->number, ask->input, ask->shape, ask->tensor);
    if (ask->header >= sizeof header) exit((fprintf(stderr, "input and shape are too long\n"), 2));
    memcpy(ask->room + HEADER_ROOM - ask->header, header, ask->header);
}

/* Sends the request and waits for its answer. */
static int ask_once(struct asker *ask) {
    struct timespec until;
    pthread_mutex_lock(&ask->lock);
    ask->number++;
    make_header(ask);
    ask->pending = true;
    for (int waited = 0; ask->pending && waited < TIMEOUT_SECONDS; waited += REPEAT_SECONDS) {
        if (ask->subscribed) publish(ask);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += REPEAT_SECONDS;
        while (ask->pending && pthread_cond_timedwait(&ask->news, &ask->lock, &until) == 0) {}
    }
    if (ask->pending) {
        fprintf(stderr, "no answer within %d s\n", TIMEOUT_SECONDS);
        ask->pending = false;
        ask->result = 1;
    }
    pthread_mutex_unlock(&ask->lock);
    return ask->result;
}

/* Reads the tensor behind the room for the header. */
static int read_tensor(struct asker *ask, const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) return perror(path), 1;
    ask->tensor = (size_t)ftell(file);
    rewind(file);
    ask->room = malloc(HEADER_ROOM + ask->tensor);
    bool whole = ask->room != NULL && fread(ask->room + HEADER_ROOM, 1, ask->tensor, file) == ask->tensor;
    fclose(file);
    return whole ? 0 : (fprintf(stderr, "%s cannot be read\n", path), 1);
}

int main(int argc, char **argv) {
    if (argc < 8) return fprintf(stderr, "usage: ask HOST PORT DEVICE MODEL INPUT SHAPE FILE [COUNT]\n"), 2;
    struct asker ask = {.lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER,
                        .input = argv[5], .shape = argv[6]};
    snprintf(ask.topic, sizeof ask.topic, "modelfleet/v1/devices/%s/infer/%s", argv[3], argv[4]);
    snprintf(ask.reply_topic, sizeof ask.reply_topic, "modelfleet-replies/ask/%d-%ld", getpid(), (long)time(NULL));
    /* Where the broker has the rules of docs/broker.md, its user name stands in place of "ask". */
    if (read_tensor(&ask, argv[7])) return 1;
    mosquitto_lib_init();
    ask.client = mosquitto_new(NULL, true, &ask);
    mosquitto_int_option(ask.client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_int_option(ask.client, MOSQ_OPT_TCP_NODELAY, 1); /* without it an answer takes 40 ms longer */
    mosquitto_reconnect_delay_set(ask.client, 1, 30, true);
    mosquitto_connect_callback_set(ask.client, on_connect);
    mosquitto_subscribe_callback_set(ask.client, on_subscribe);
    mosquitto_message_v5_callback_set(ask.client, on_message);
    int rc = mosquitto_connect(ask.client, argv[1], atoi(argv[2]), 5);
    if (rc != MOSQ_ERR_SUCCESS) return fprintf(stderr, "%s: %s\n", argv[1], mosquitto_strerror(rc)), 1;
    mosquitto_loop_start(ask.client);
    int result = 0;
    for (int left = argc > 8 ? atoi(argv[8]) : 1; left > 0; left--) {
        result |= ask_once(&ask);
        if (left > 1) usleep(100000);
    }
    mosquitto_disconnect(ask.client);
    mosquitto_loop_stop(ask.client, false);
    mosquitto_destroy(ask.client);
    mosquitto_lib_cleanup();
    free(ask.room);
    return result;
}
