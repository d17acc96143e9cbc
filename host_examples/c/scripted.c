/*
 * The host beside this file as `wsplugin certify` drives it: calls on stdin, outcomes on stdout.
 *
 * One JSON object a line, in both directions; ../certify.md describes them. The plugin's command is
 * in the environment, as WSPLUGIN. It is also an example of an event loop of the app's own, with
 * the host's descriptors in it, and of a consumer that takes its time without holding up others.
 *
 * $ cc -std=c11 -o build/c-scripted host_examples/c/scripted.c host_examples/c/host.c -ljansson
 * $ wsplugin certify -- build/c-scripted
 */
#define _POSIX_C_SOURCE 200809L

#include "host.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A connection of the script. They are kept to the end: a name may be used again. */
struct named {
    char *name;
    wsp_websocket *websocket; /* NULL if the host has refused its create, and after the end */
    long long delay_ms, ready; /* how long a message takes, and until when the last one does */
    struct named *next;
};

static wsp_host *host;
static struct named *connections;
static json_int_t starting = -1; /* the id of the call that has started the host */
static char no_host[200];        /* why there is none */
static char *script; /* what has been read of it */
static size_t script_size, script_capacity;
static long long awake; /* when the next line is read, after a sleep; 0 is now */

/* --- small things --- */

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void *need(void *memory)
{
    if (memory == NULL) {
        fputs("scripted: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static void fail(const char *words, const char *line)
{
    fprintf(stderr, "scripted: %s: %s\n", words, line);
    exit(2);
}

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *to_base64(const unsigned char *data, size_t size)
{
    char *text = need(calloc(size / 3 + 1, 4 + 1)), *end = text;
    for (size_t i = 0; i < size; i += 3) {
        unsigned bits = 0;
        for (size_t j = 0; j < 3; j++)
            bits = bits << 8 | (i + j < size ? data[i + j] : 0);
        for (size_t j = 0; j < 4; j++)
            *end++ = i + j <= size ? DIGITS[bits >> (18 - 6 * j) & 63] : '=';
    }
    return text;
}

static unsigned char *from_base64(const char *text, size_t *size)
{
    unsigned char *data = need(malloc(strlen(text) + 1));
    unsigned bits = 0, count = 0;
    *size = 0;
    for (const char *digit; *text != '\0' && (digit = strchr(DIGITS, *text)) != NULL; text++) {
        bits = bits << 6 | (unsigned)(digit - DIGITS);
        count += 6;
        if (count >= 8)
            data[(*size)++] = (unsigned char)(bits >> (count -= 8));
    }
    return data;
}

/* --- what is told --- */

/* Print a line at once, and free it. */
static void tell(json_t *line)
{
    json_dumpf(need(line), stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(line);
}

static void tell_outcome(json_int_t id, const char *outcome, const char *words)
{
    tell(json_pack("{s:I, s:s, s:s*}", "id", id, "outcome", outcome, "message", words));
}

static void on_open(void *context, wsp_websocket *websocket, const json_t *facts)
{
    const struct named *named = context;
    (void)websocket;
    tell(json_pack("{s:s, s:s, s:O?, s:O?, s:O?}", "on", named->name, "event", "open",
        "headers", json_object_get(facts, "headers"), "protocol", json_object_get(facts, "protocol"),
        "extensions", json_object_get(facts, "extensions")));
}

/* The listener's work on a message is a timer: the host goes on, and keeps what comes meanwhile. */
static void work(struct named *named)
{
    if (named->delay_ms > 0) {
        named->ready = now_ms() + named->delay_ms;
        wsp_hold(named->websocket, true);
    }
}

static void on_text(void *context, wsp_websocket *websocket, const char *text, size_t size)
{
    struct named *named = context;
    (void)websocket;
    tell(json_pack("{s:s, s:s, s:s%}", "on", named->name, "event", "message", "text", text, size));
    work(named);
}

static void on_binary(
    void *context, wsp_websocket *websocket, const unsigned char *data, size_t size)
{
    struct named *named = context;
    char *text = to_base64(data, size);
    (void)websocket;
    tell(json_pack("{s:s, s:s, s:s}", "on", named->name, "event", "message", "base64", text));
    free(text);
    work(named);
}

static void on_error(
    void *context, wsp_websocket *websocket, const char *code, const char *message, int status)
{
    const struct named *named = context;
    (void)websocket;
    tell(json_pack("{s:s, s:s, s:s, s:s, s:o*}", "on", named->name, "event", "error", "code", code,
        "message", message, "status", status != 0 ? json_integer(status) : NULL));
}

static void on_close(
    void *context, wsp_websocket *websocket, int code, const char *reason, const char *cause)
{
    const struct named *named = context;
    (void)websocket;
    tell(json_pack("{s:s, s:s, s:i, s:s, s:s}", "on", named->name, "event", "close", "code", code,
        "reason", reason, "cause", cause));
}

/* The outcome of a start is known when the plugin has said who it is. */
static void look_at_start(void)
{
    if (starting < 0 || host == NULL)
        return;
    if (wsp_description(host) != NULL)
        tell_outcome(starting, "ok", NULL);
    else if (wsp_failure(host) != NULL)
        tell_outcome(starting, "ended", wsp_failure(host));
    else
        return;
    starting = -1;
}

static void on_answer(void *context, const json_t *response, const wsp_error *error)
{
    json_int_t id = (intptr_t)context; /* that of the call */
    look_at_start();
    if (error == NULL)
        tell(json_pack("{s:I, s:s, s:O*}", "id", id, "outcome", "ok", "rtt",
            json_object_get(response, "rtt")));
    else if (strcmp(error->code, "plugin-ended") == 0)
        tell_outcome(id, "ended", error->message);
    else
        tell(json_pack("{s:I, s:s, s:s, s:s}", "id", id, "outcome", "refused", "code", error->code,
            "message", error->message));
}

/* --- calls --- */

static void free_host(void)
{
    if (host != NULL) {
        wsp_stop(host, 5000);
        look_at_start();
        wsp_free(host);
    }
    host = NULL;
    for (struct named *each = connections; each != NULL; each = each->next)
        each->websocket = NULL;
}

static void start(json_int_t id)
{
    const char *plugin = getenv("WSPLUGIN");
    const char *const command[] = {plugin != NULL ? plugin : "wsplugin", NULL};
    free_host();
    host = wsp_spawn(command, NULL);
    starting = id;
    if (host == NULL) {
        snprintf(no_host, sizeof no_host, "%s: %s", command[0], strerror(errno));
        tell_outcome(id, "ended", no_host);
        starting = -1;
    }
}

static const char *string_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static long integer_of(const json_t *object, const char *key, long otherwise)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (long)json_integer_value(value) : otherwise;
}

/* Headers as the host wants them; NULL if there are none. */
static const char **headers_of(const json_t *object, const char *key)
{
    json_t *headers = json_object_get(object, key), *value;
    const char *name;
    if (headers == NULL)
        return NULL;
    const char **list = need(calloc(2 * json_object_size(headers) + 1, sizeof *list)), **end = list;
    json_object_foreach(headers, name, value) {
        *end++ = name;
        *end++ = json_string_value(value);
    }
    return list;
}

static bool create(json_t *line, void *call)
{
    struct named *named = need(calloc(1, sizeof *named));
    const char *url = string_of(line, "url"), *name = string_of(line, "as");
    json_t *protocols = json_object_get(line, "protocols");
    const char **list = need(calloc(json_array_size(protocols) + 1, sizeof *list));
    if (url == NULL || name == NULL)
        fail("a create needs url and as", "");
    for (size_t i = 0; i < json_array_size(protocols); i++)
        list[i] = json_string_value(json_array_get(protocols, i));
    const char **headers = headers_of(line, "headers");
    const char **host_headers = headers_of(line, "hostHeaders");
    const wsp_options options = {
        .headers = headers,
        .protocols = protocols != NULL ? list : NULL,
        .host_headers = host_headers,
        .app = string_of(line, "app"),
        .timeout_ms = integer_of(line, "timeout", 0),
    };
    const wsp_listener listener = {named, on_open, on_text, on_binary, on_error, on_close};
    named->name = need(strdup(name));
    named->delay_ms = integer_of(line, "delay", 0);
    named->next = connections;
    connections = named;
    named->websocket = wsp_create(host, url, &options, &listener, on_answer, call);
    free(list);
    free(headers);
    free(host_headers);
    return named->websocket != NULL;
}

static bool send_message(wsp_websocket *websocket, const json_t *line, void *call)
{
    const json_t *text = json_object_get(line, "text");
    const char *base64 = string_of(line, "base64");
    size_t size;
    if (json_is_string(text))
        return wsp_send_text(
            websocket, json_string_value(text), json_string_length(text), on_answer, call);
    if (base64 == NULL)
        fail("a send needs text or base64", "");
    unsigned char *data = from_base64(base64, &size);
    bool sent = wsp_send_binary(websocket, data, size, on_answer, call);
    free(data);
    return sent;
}

static void carry_out(json_t *line, const char *text)
{
    const char *name = string_of(line, "call"), *to = string_of(line, "to");
    json_int_t id = json_integer_value(json_object_get(line, "id"));
    if (name == NULL || !json_is_integer(json_object_get(line, "id")))
        fail("no call", text);
    void *call = (void *)(intptr_t)id;
    struct named *named = connections;
    while (named != NULL && (to == NULL || strcmp(named->name, to) != 0))
        named = named->next;
    wsp_websocket *websocket = named != NULL ? named->websocket : NULL;
    long timeout = integer_of(line, "timeout", -1);
    bool made = true;
    if (strcmp(name, "start") == 0) {
        start(id);
        return;
    } else if (strcmp(name, "sleep") == 0) {
        awake = now_ms() + integer_of(line, "ms", 0);
        return;
    } else if (host == NULL) {
        tell_outcome(id, "ended", no_host);
        return;
    } else if (strcmp(name, "stop") == 0) {
        int status = wsp_stop(host, 5000);
        look_at_start();
        tell(json_pack("{s:I, s:s, s:i}", "id", id, "outcome", "ok", "status", status));
        return;
    }
    errno = ENOTCONN;
    if (strcmp(name, "create") == 0)
        made = create(line, call);
    else if (strcmp(name, "background") == 0)
        made = wsp_background(host, string_of(line, "app"), on_answer, call);
    else if (websocket == NULL)
        made = false;
    else if (strcmp(name, "send") == 0)
        made = send_message(websocket, line, call);
    else if (strcmp(name, "close") == 0)
        made = wsp_close(websocket, (int)integer_of(line, "code", 1000),
            string_of(line, "reason") != NULL ? string_of(line, "reason") : "", timeout, on_answer,
            call);
    else if (strcmp(name, "pause") == 0)
        made = wsp_pause(websocket, on_answer, call);
    else if (strcmp(name, "resume") == 0)
        made = wsp_resume(websocket, on_answer, call);
    else if (strcmp(name, "ping") == 0)
        made = wsp_ping(websocket, timeout, on_answer, call);
    else
        fail("no such call", text);
    if (!made) {
        const char *why = errno == EILSEQ ? "what is not UTF-8 cannot be sent"
            : errno == ENOTCONN           ? "there is no such connection"
                                          : strerror(errno);
        tell_outcome(id, "invalid", why);
    }
}

/* --- the loop --- */

/* Read once; false at the end. */
static bool read_script(void)
{
    if (script_capacity - script_size < 65536)
        script = need(realloc(script, script_capacity = 2 * script_capacity + 65536));
    ssize_t count = read(STDIN_FILENO, script + script_size, script_capacity - script_size);
    script_size += count > 0 ? (size_t)count : 0;
    return count > 0;
}

/* Carry out the lines that are whole, up to one that sleeps. */
static void carry_out_lines(void)
{
    char *start = script, *lf;
    while (script_size > 0 && awake <= now_ms()
        && (lf = memchr(start, '\n', (size_t)(script + script_size - start))) != NULL) {
        json_t *line = json_loadb(start, (size_t)(lf - start), JSON_ALLOW_NUL, NULL);
        *lf = '\0';
        carry_out(line, start);
        json_decref(line);
        start = lf + 1;
    }
    script_size -= (size_t)(start - script);
    if (script_size > 0 && start != script)
        memmove(script, start, script_size);
}

/* Let the time until a moment, 0 for never, be the time to wait at most. */
static void wait_until(long long moment, int *timeout)
{
    long long left = moment - now_ms();
    if (moment > 0 && (*timeout < 0 || left < *timeout))
        *timeout = left > 0 ? (int)left : 0;
}

int main(void)
{
    bool reading = true;
    start(0);
    while (reading || awake > 0) {
        struct pollfd set[5] = {{.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1}};
        int timeout = host != NULL ? wsp_poll_set(host, set) : -1;
        if (reading && awake == 0)
            set[4] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
        wait_until(awake, &timeout);
        for (struct named *each = connections; each != NULL; each = each->next)
            wait_until(each->ready, &timeout);
        if (poll(set, 5, timeout) < 0)
            continue;
        for (struct named *each = connections; each != NULL; each = each->next) {
            if (each->ready > 0 && each->ready <= now_ms()) {
                each->ready = 0;
                if (each->websocket != NULL)
                    wsp_hold(each->websocket, false);
            }
        }
        if (host != NULL)
            wsp_step(host, 0);
        look_at_start();
        if (set[4].fd >= 0 && set[4].revents != 0)
            reading = read_script();
        if (awake <= now_ms()) {
            awake = 0;
            carry_out_lines();
        }
    }
    free_host();
    free(script);
    while (connections != NULL) {
        struct named *next = connections->next;
        free(connections->name);
        free(connections);
        connections = next;
    }
    return 0;
}
