/*
 * An app of the C host whose memory runs out, at each place in turn: memory
 *
 * Each round plays the same story with a plugin, which is this program too. In it the first, second,
 * … allocation fails, and in a second run all from there on. Whatever fails: a request that was
 * taken gets one answer, a connection that was created one close, and nothing is left at the end.
 */
#include "host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long allocations, failing;
static bool for_good;

static bool fails(void)
{
    allocations++;
    bool now = failing > 0 && (for_good ? allocations >= failing : allocations == failing);
    if (now)
        errno = ENOMEM;
    return now;
}

/* The linker puts these in the place of what host.c calls: see --wrap. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    return fails() ? NULL : __real_realloc(memory, size);
}

/* --- the plugin --- */

static int fake(void)
{
    char line[65536];
    long long id;
    int connections = 0, number;
    setvbuf(stdout, NULL, _IOFBF, 65536);
    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *event = "{\"event\":\"websocket-event\",\"payload\":{\"id\":\"ws-%d\",\"name\":"
                            "\"%s\",\"payload\":%s}}\n";
        sscanf(line, "{\"id\":%lld", &id);
        if (strstr(line, "plugin-describe") != NULL) {
            printf("{\"id\":%lld,\"response\":{\"name\":\"wsplugin\",\"protocol\":1,\"features\":"
                   "[\"pause\"]}}\n", id);
        } else if (strstr(line, "websocket-create") != NULL) {
            printf("{\"id\":%lld,\"response\":{\"id\":\"ws-%d\"}}\n", id, ++connections);
            printf(event, connections, "open", "{\"headers\":{}}");
            printf(event, connections, "message", "{\"type\":\"text\",\"data\":\"text\"}");
            printf(event, connections, "message", "{\"type\":\"base64\",\"data\":\"AAEC\"}");
        } else {
            printf("{\"id\":%lld,\"response\":{}}\n", id);
        }
        if (strstr(line, "websocket-close") != NULL
            && sscanf(strstr(line, "\"ws-"), "\"ws-%d", &number) == 1)
            printf(event, number, "close", "{\"code\":1000,\"reason\":\"\",\"cause\":\"host\"}");
        fflush(stdout);
    }
    return 0;
}

/* --- the app --- */

struct connection {
    bool created, forgotten;
    int closes;
};

static int taken, answered;

static bool count(bool made)
{
    taken += made;
    return made;
}

static void on_answer(void *context, const json_t *response, const wsp_error *error)
{
    struct connection *connection = context;
    answered++;
    if (connection != NULL)
        connection->created = error == NULL;
    if ((response == NULL) == (error == NULL))
        exit(4);
}

static void on_open(void *context, wsp_websocket *websocket, const json_t *facts)
{
    (void)context, (void)facts;
    count(wsp_send_text(websocket, "text", 4, on_answer, NULL));
    count(wsp_send_binary(websocket, "binary", 6, on_answer, NULL));
    count(wsp_ping(websocket, 100, on_answer, NULL));
    count(wsp_pause(websocket, on_answer, NULL));
    count(wsp_resume(websocket, on_answer, NULL));
}

static void on_text(void *context, wsp_websocket *websocket, const char *text, size_t size)
{
    (void)context, (void)websocket, (void)text, (void)size;
}

static void on_binary(
    void *context, wsp_websocket *websocket, const unsigned char *data, size_t size)
{
    struct connection *connection = context;
    (void)data, (void)size;
    if (!count(wsp_close(websocket, 1000, "", 100, on_answer, NULL))) {
        connection->forgotten = true;
        wsp_forget(websocket);
    }
}

static void on_close(
    void *context, wsp_websocket *websocket, int code, const char *reason, const char *cause)
{
    struct connection *connection = context;
    (void)websocket, (void)code, (void)reason, (void)cause;
    connection->closes++;
}

/* Play it; false if what was promised does not hold. */
static bool story(const char *program)
{
    static const char *const pairs[] = {"name", "value", NULL}, *const names[] = {"chat", NULL};
    const char *const command[] = {program, "plugin", NULL};
    const wsp_options options = {.headers = pairs, .host_headers = pairs, .protocols = names,
        .app = "shop", .timeout_ms = 100, .no_per_message_deflate = true};
    struct connection connections[2] = {{0}};
    bool kept = true;
    allocations = taken = answered = 0;
    wsp_host *host = wsp_spawn(command, &(wsp_settings){.queue_messages = 1});
    if (host == NULL)
        return errno == ENOMEM;
    for (int i = 0; i < 2; i++) {
        const wsp_listener listener = {
            &connections[i], on_open, on_text, on_binary, NULL, on_close};
        wsp_websocket *websocket = wsp_create(
            host, "ws://localhost/", &options, &listener, on_answer, &connections[i]);
        if (!count(websocket != NULL) && errno != ENOMEM)
            kept = false;
        else if (websocket != NULL)
            wsp_hold(websocket, i == 1);
    }
    count(wsp_background(host, "shop", on_answer, NULL));
    count(wsp_request(host, "any", NULL, on_answer, NULL)); /* could not be made */
    while (connections[0].closes == 0 && !connections[0].forgotten && wsp_step(host, 1000))
        if (answered == taken && !connections[0].created)
            break;
    wsp_stop(host, 5000);
    wsp_free(host);
    for (int i = 0; i < 2; i++)
        kept = kept && connections[i].closes + connections[i].forgotten == connections[i].created;
    return kept && taken == answered;
}

int main(int argc, char *argv[])
{
    if (argc > 1)
        return fake();
    json_set_alloc_funcs(__wrap_malloc, free);
    for (int run = 0; run < 2; run++) {
        for_good = run == 1;
        for (failing = 1; failing == 1 || allocations >= failing - 1; failing++) {
            if (!story(argv[0])) {
                printf("broken when allocation %ld fails%s: %d taken, %d answered\n", failing,
                    for_good ? " and all after it" : "", taken, answered);
                return 1;
            }
        }
        printf("rounds %ld\n", failing - 1);
    }
    return 0;
}
