/*
 * The story that all the examples tell, with the host beside this file.
 *
 * jansson is Debian's (apt-get install libjansson-dev). An echo server, then the demo; the
 * plugin's command line may follow the URL.
 *
 * $ python3 -m venv .venv && .venv/bin/pip install .
 * $ python3 host_examples/python/echo_server.py 8765 &
 * $ mkdir -p build
 * $ cc -std=c11 -o build/c-demo host_examples/c/demo.c host_examples/c/host.c -ljansson
 * $ build/c-demo ws://127.0.0.1:8765/ .venv/bin/wsplugin
 */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct story {
    bool closed;   /* the connection */
    bool finished; /* the last request has been answered */
};

/* Every request of the story but the last must succeed. */
static void check(void *context, const json_t *response, const wsp_error *error)
{
    (void)context, (void)response;
    if (error != NULL) {
        bool ended = strcmp(error->code, "plugin-ended") == 0;
        fprintf(stderr, "%s: %s\n", ended ? "PluginEnded" : error->code, error->message);
        exit(1);
    }
}

static void on_open(void *context, wsp_websocket *websocket, const json_t *facts)
{
    static const char text[] = "Grüße 👋";
    (void)facts;
    puts("open");
    wsp_send_text(websocket, text, strlen(text), check, context);
}

static void on_text(void *context, wsp_websocket *websocket, const char *text, size_t size)
{
    static const unsigned char data[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
    printf("text: ");
    fwrite(text, 1, size, stdout);
    printf("\n");
    wsp_send_binary(websocket, data, sizeof data, check, context);
}

static void on_binary(
    void *context, wsp_websocket *websocket, const unsigned char *data, size_t size)
{
    printf("binary:");
    for (size_t i = 0; i < size; i++)
        printf(" %02x", data[i]);
    printf("\n");
    wsp_close(websocket, 1000, "done", -1, check, context);
}

static void on_error(
    void *context, wsp_websocket *websocket, const char *code, const char *message, int status)
{
    (void)context, (void)websocket, (void)status;
    printf("error: %s: %s\n", code, message);
}

static void on_close(
    void *context, wsp_websocket *websocket, int code, const char *reason, const char *cause)
{
    struct story *story = context;
    (void)websocket;
    printf("close: %d %s (%s)\n", code, reason, cause);
    story->closed = true;
}

static void on_refused(void *context, const json_t *response, const wsp_error *error)
{
    struct story *story = context;
    if (error == NULL || strcmp(error->code, "plugin-ended") == 0)
        check(context, response, error);
    else
        printf("refused: %s\n", error->code);
    story->finished = true;
}

int main(int argc, char *argv[])
{
    static const char *const installed[] = {"wsplugin", NULL};
    if (argc < 2) {
        fprintf(stderr, "usage: %s URL [COMMAND [ARGUMENT...]]\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    wsp_host *host = wsp_spawn(argc > 2 ? (const char *const *)argv + 2 : installed, NULL);
    if (host == NULL) {
        perror("cannot start the plugin");
        return 1;
    }
    while (wsp_description(host) == NULL && wsp_step(host, -1))
        continue;
    if (wsp_failure(host) != NULL) {
        fprintf(stderr, "PluginEnded: %s\n", wsp_failure(host));
        return 1;
    }
    struct story story = {0};
    const wsp_listener listener = {&story, on_open, on_text, on_binary, on_error, on_close};
    wsp_websocket *websocket = wsp_create(host, argv[1], NULL, &listener, check, &story);
    while (!story.closed && wsp_step(host, -1))
        continue;
    wsp_send_text(websocket, "too late", strlen("too late"), on_refused, &story);
    while (!story.finished && wsp_step(host, -1))
        continue;
    printf("exit status: %d\n", wsp_stop(host, 5000));
    wsp_free(host);
    return 0;
}
