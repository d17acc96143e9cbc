/* The host of host.h. One thread, one poll(2), no signal handlers. */
#define _GNU_SOURCE /* pipe2 and syscall, beside POSIX */

#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#define CHUNK 65536
#define START_MS 5000
#define GRACE_MS 5000 /* for a plugin that has closed its stdout, to end by itself */
#define REST_MS 1000  /* for what is left in stdout once the plugin has ended */
#define LOOK_MS 10    /* between two looks at the process, where it cannot be polled */
#define TURN_MS 10    /* how long a step may call listeners, beyond one call a connection */
#define STDERR_MS 100 /* how long the app's stderr may hold up a step, once */
#define QUEUE_BYTES 1048576
#define QUEUE_MESSAGES 1024
#define NO_MEMORY "the host has no memory for what the plugin wrote"
#define OLD "this wsplugin is of 1.0; update it or start it without these options"

/* What some systems lack; they have SO_NOSIGPIPE, and a moment in which a process that another
 * thread starts would inherit the plugin's pipes. */
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef SOCK_CLOEXEC
#define SOCK_CLOEXEC 0
#define pipe2(fds, flags) pipe(fds)
#endif

extern char **environ;

struct buffer {
    char *data;
    size_t size, capacity;
};

/* An event that has not been handed to the listener yet. */
struct event {
    json_t *payload;
    size_t bytes, messages; /* what it counts in the queue */
    struct event *next;
};

struct wsp_websocket {
    wsp_host *host;
    wsp_listener listener;
    json_t *id; /* NULL before the answer of its create */
    bool creating, open; /* it is to have an answer to that, and an on_close */
    bool ending;         /* which is in the queue */
    struct event *events, **last_event;
    size_t bytes, messages;
    bool held, forgotten;   /* by the app */
    bool paused, throttled; /* its server: by the app, by the host as the queue is full */
    wsp_websocket *next;
};

/* A request without an answer. */
struct pending {
    wsp_answer *answer;
    void *context;
    wsp_websocket *creates;
};

/* What the plugin is about; but in RUNNING, the host's deadline says for how long. */
enum phase {
    STARTING, /* to answer plugin-describe; then it is given up */
    RUNNING,
    ENDING, /* to end; then it is killed */
    REST,   /* it has ended: what is left in its stdout, if somebody else holds that open */
    ENDED
};

struct wsp_host {
    wsp_settings settings;
    pid_t pid;
    bool reaped, killed;
    int status;
    int in, out, err;     /* the plugin's; -1 once closed */
    int process;          /* readable when it has ended, if the system has that; else -1 */
    struct buffer line;   /* read, without LF so far */
    struct buffer output; /* to be written, behind so many bytes that have been */
    size_t written;
    char error[1000]; /* the line of stderr that is being read, or the last one */
    size_t error_size;
    bool error_whole;
    bool stderr_blocked; /* the app's */
    json_t *pending;     /* id to the address of a struct pending, by age */
    wsp_websocket *websockets;
    long long requests;
    json_t *description;
    bool stopping;
    enum phase phase;
    long long deadline, turn_ends; /* on the clock of now_ms */
    char command[300];
    char failure[3000]; /* how it has ended, or why the host has given it up */
};

/* --- memory and JSON --- */

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* False, and the buffer is as it was, if there is no memory. */
static bool append(struct buffer *buffer, const void *data, size_t size)
{
    if (buffer->capacity - buffer->size < size) {
        size_t capacity = 2 * buffer->capacity + size;
        char *grown = realloc(buffer->data, capacity);
        if (grown == NULL)
            return false;
        buffer->data = grown;
        buffer->capacity = capacity;
    }
    if (size > 0)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return true;
}

static int append_json(const char *text, size_t size, void *buffer)
{
    return append(buffer, text, size) ? 0 : -1;
}

static void drop(struct buffer *buffer, size_t size)
{
    buffer->size -= size;
    if (buffer->size > 0) {
        memmove(buffer->data, buffer->data + size, buffer->size);
    } else if (buffer->capacity > 2 * CHUNK) { /* give the memory of a long line back */
        free(buffer->data);
        *buffer = (struct buffer){0};
    }
}

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *base64_encode(const unsigned char *data, size_t size)
{
    char *text = malloc((size + 2) / 3 * 4 + 1), *end = text;
    for (size_t i = 0; text != NULL && i < size; i += 3) {
        unsigned bits = (unsigned)data[i] << 16;
        bits |= i + 1 < size ? (unsigned)data[i + 1] << 8 : 0;
        bits |= i + 2 < size ? data[i + 2] : 0;
        *end++ = ALPHABET[bits >> 18];
        *end++ = ALPHABET[bits >> 12 & 63];
        *end++ = i + 1 < size ? ALPHABET[bits >> 6 & 63] : '=';
        *end++ = i + 2 < size ? ALPHABET[bits & 63] : '=';
    }
    if (text != NULL)
        *end = '\0';
    return text;
}

/* Standard base64 as the plugin writes it. */
static unsigned char *base64_decode(const char *text, size_t size, size_t *decoded)
{
    unsigned char value[256] = {0}, *data = malloc(size / 4 * 3 + 3);
    unsigned bits = 0;
    for (unsigned char i = 0; i < 64; i++)
        value[(unsigned char)ALPHABET[i]] = i;
    while (size > 0 && text[size - 1] == '=')
        size--;
    *decoded = 0;
    for (size_t i = 0; data != NULL && i < size; i++) {
        bits = bits << 6 | value[(unsigned char)text[i]];
        if (i % 4 != 0)
            data[(*decoded)++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
    }
    return data;
}

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* A number that is no integer of this library's counts as none. */
static long long integer_of(const json_t *object, const char *key)
{
    double value = json_number_value(json_object_get(object, key));
    return value > -9e15 && value < 9e15 ? (long long)value : 0;
}

/* --- requests --- */

/* Take the request with this id out; NULL if none waits for it. */
static struct pending *expected(wsp_host *host, const char *id)
{
    json_t *address = json_object_get(host->pending, id);
    struct pending *pending = (struct pending *)(intptr_t)json_integer_value(address);
    json_object_del(host->pending, id);
    return pending;
}

/* Take note of a request, of a connection if that must have its id. Steals the line, which has an id
 * to be set, and is NULL if it could not be made. Expects errno to have been 0 before that: ENOMEM
 * then says that a part may be missing; if nothing says so, what was given is not UTF-8. */
static struct pending *request(wsp_host *host, const wsp_websocket *websocket, json_t *line,
    wsp_answer *answer, void *context)
{
    char id[24];
    size_t before = host->output.size;
    bool known = websocket == NULL || websocket->id != NULL;
    struct pending *pending = calloc(1, sizeof *pending);
    snprintf(id, sizeof id, "%lld", ++host->requests);
    bool made = known && line != NULL && pending != NULL && errno != ENOMEM
        && json_object_set_new(line, "id", json_integer(host->requests)) == 0
        && json_object_set_new(host->pending, id, json_integer((intptr_t)pending)) == 0;
    if (made && host->in >= 0 && !host->stopping)
        made = json_dump_callback(line, append_json, &host->output, JSON_COMPACT) == 0
            && append(&host->output, "\n", 1);
    json_decref(line);
    if (!made) {
        int problem = errno == ENOMEM ? ENOMEM : known ? EILSEQ : ENOTCONN;
        host->output.size = before;
        json_object_del(host->pending, id);
        free(pending);
        errno = problem;
        return NULL;
    }
    *pending = (struct pending){answer, context, NULL};
    return pending;
}

/* An optional number, for json_pack; what is below the least is none. */
static json_t *number(long value, long least)
{
    return value >= least ? json_integer(value) : NULL;
}

/* Optional headers, for json_pack; not made if one is not UTF-8. */
static json_t *headers_of(const char *const *headers, bool *made)
{
    json_t *values = headers != NULL ? json_object() : NULL;
    for (; values != NULL && headers[0] != NULL; headers += 2)
        if (json_object_set_new(values, headers[0], json_string(headers[1])) != 0)
            *made = false;
    return values;
}

wsp_websocket *wsp_create(wsp_host *host, const char *url, const wsp_options *options,
    const wsp_listener *listener, wsp_answer *answer, void *context)
{
    static const wsp_options defaults = {0};
    bool made = true;
    if (options == NULL)
        options = &defaults;
    errno = 0;
    wsp_websocket *websocket = calloc(1, sizeof *websocket);
    json_t *protocols = options->protocols != NULL ? json_array() : NULL;
    for (const char *const *name = options->protocols; protocols != NULL && *name != NULL; name++)
        if (json_array_append_new(protocols, json_string(*name)) != 0)
            made = false;
    json_t *line = json_pack("{s:n, s:s, s:{s:s, s:s, s:o*, s:o*, s:o*, s:o*, s:o*}, s:s*, s:o*}",
        "id", "action", "websocket-create", "payload", "url", url, "binaryType", "base64",
        "headers", headers_of(options->headers, &made), "protocols", protocols,
        "timeout", number(options->timeout_ms, 1),
        "perMessageDeflate", options->no_per_message_deflate ? json_false() : NULL,
        "tcpNoDelay", options->delay_small_messages ? json_false() : NULL,
        "app", options->app, "headers", headers_of(options->host_headers, &made));
    if (!made) {
        json_decref(line);
        line = NULL;
    }
    struct pending *pending = request(host, NULL, line, answer, context);
    if (pending == NULL) {
        free(websocket);
        return NULL;
    }
    pending->creates = websocket;
    *websocket = (wsp_websocket){
        .host = host, .listener = *listener, .creating = true, .next = host->websockets};
    websocket->last_event = &websocket->events;
    host->websockets = websocket;
    return websocket;
}

bool wsp_send_text(
    wsp_websocket *websocket, const char *text, size_t size, wsp_answer *answer, void *context)
{
    errno = 0;
    json_t *line = json_pack("{s:n, s:s, s:{s:O, s:s, s:s%}}", "id", "action", "websocket-send",
        "payload", "id", websocket->id, "type", "text", "data", text, size);
    return request(websocket->host, websocket, line, answer, context) != NULL;
}

bool wsp_send_binary(
    wsp_websocket *websocket, const void *data, size_t size, wsp_answer *answer, void *context)
{
    errno = 0;
    char *text = base64_encode(data, size);
    json_t *line = json_pack("{s:n, s:s, s:{s:O, s:s, s:s}}", "id", "action", "websocket-send",
        "payload", "id", websocket->id, "type", "base64", "data", text);
    free(text);
    return request(websocket->host, websocket, line, answer, context) != NULL;
}

bool wsp_close(wsp_websocket *websocket, int code, const char *reason, long timeout_ms,
    wsp_answer *answer, void *context)
{
    errno = 0;
    json_t *line = json_pack("{s:n, s:s, s:{s:O, s:i, s:s, s:o*}}", "id", "action",
        "websocket-close", "payload", "id", websocket->id, "code", code, "reason", reason,
        "timeout", number(timeout_ms, 0));
    return request(websocket->host, websocket, line, answer, context) != NULL;
}

/* Pause or resume the server, without regard to who wants it. */
static bool set_paused(wsp_websocket *websocket, bool paused, wsp_answer *answer, void *context)
{
    errno = 0;
    json_t *line = json_pack("{s:n, s:s, s:{s:O}}", "id", "action",
        paused ? "websocket-pause" : "websocket-resume", "payload", "id", websocket->id);
    return request(websocket->host, websocket, line, answer, context) != NULL;
}

bool wsp_pause(wsp_websocket *websocket, wsp_answer *answer, void *context)
{
    bool made = set_paused(websocket, true, answer, context);
    websocket->paused = websocket->paused || made;
    return made;
}

bool wsp_resume(wsp_websocket *websocket, wsp_answer *answer, void *context)
{
    bool made = set_paused(websocket, false, answer, context);
    if (made)
        websocket->paused = websocket->throttled = false; /* a queue still full pauses again */
    return made;
}

bool wsp_ping(wsp_websocket *websocket, long timeout_ms, wsp_answer *answer, void *context)
{
    errno = 0;
    json_t *line = json_pack("{s:n, s:s, s:{s:O, s:o*}}", "id", "action", "websocket-ping",
        "payload", "id", websocket->id, "timeout", number(timeout_ms, 1));
    return request(websocket->host, websocket, line, answer, context) != NULL;
}

bool wsp_background(wsp_host *host, const char *app, wsp_answer *answer, void *context)
{
    errno = 0;
    json_t *line = json_pack("{s:n, s:s, s:s*}", "id", "action", "app-background", "app", app);
    return request(host, NULL, line, answer, context) != NULL;
}

bool wsp_request(
    wsp_host *host, const char *action, json_t *payload, wsp_answer *answer, void *context)
{
    errno = payload == NULL ? errno : 0;
    json_t *line = json_pack("{s:n, s:s, s:o}", "id", "action", action, "payload", payload);
    return request(host, NULL, line, answer, context) != NULL;
}

const json_t *wsp_description(const wsp_host *host)
{
    return host->description;
}

bool wsp_has_feature(const wsp_host *host, const char *feature)
{
    size_t index;
    json_t *each;
    json_array_foreach(json_object_get(host->description, "features"), index, each)
        if (json_is_string(each) && strcmp(json_string_value(each), feature) == 0)
            return true;
    return false;
}

const char *wsp_failure(const wsp_host *host)
{
    return host->phase == ENDED ? host->failure : NULL;
}

/* --- the end of the talk with the plugin --- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* The plugin is to end, and has some time for it. */
static void hang_up(wsp_host *host, long long grace_ms)
{
    close_fd(&host->in);
    drop(&host->output, host->output.size);
    host->written = 0;
    if (host->phase < ENDING || (host->phase == ENDING && host->deadline > now_ms() + grace_ms)) {
        host->phase = ENDING;
        host->deadline = now_ms() + grace_ms;
    }
}

/* There is nothing to be expected of the plugin any more: say why. */
static void give_up(wsp_host *host, const char *words, const char *detail)
{
    if (host->failure[0] != '\0')
        return;
    snprintf(host->failure, sizeof host->failure, "%s%.200s", words, detail);
    close_fd(&host->out);
    hang_up(host, 0);
}

/* --- answers --- */

static void answer(struct pending *pending, const json_t *response, const wsp_error *error)
{
    if (pending->creates != NULL)
        pending->creates->creating = false;
    if (pending->answer != NULL)
        pending->answer(pending->context, response, error);
    free(pending);
}

/* The answer to plugin-describe. */
static void start(void *context, const json_t *response, const wsp_error *error)
{
    wsp_host *host = context;
    if (error != NULL)
        give_up(host, "the plugin refused plugin-describe: ", error->message);
    else if (strcmp(string_of(response, "name"), "wsplugin") != 0)
        give_up(host, "the plugin is no wsplugin, but calls itself ", string_of(response, "name"));
    else if (integer_of(response, "protocol") != 1)
        give_up(host, "this host speaks protocol 1, but the plugin protocol ",
            integer_of(response, "protocol") == 2 ? "2" : "of another number");
    else
        host->description = json_incref((json_t *)response);
    if (host->phase == STARTING)
        host->phase = RUNNING;
}

static void take_answer(wsp_host *host, const json_t *message)
{
    const json_t *error = json_object_get(message, "error");
    const json_t *response = json_object_get(message, "response");
    json_t *ws_id = json_object_get(response, "id");
    char id[24];
    snprintf(id, sizeof id, "%lld", integer_of(message, "id"));
    struct pending *pending = expected(host, id);
    wsp_error failure = {"invalid-answer", "the plugin answered with no response and no error"};
    if (pending == NULL)
        return; /* a second answer, or one to a line that the plugin could not read */
    bool valid = json_is_object(response) && (pending->creates == NULL || json_is_string(ws_id));
    if (json_is_object(error)) {
        failure = (wsp_error){string_of(error, "code"), string_of(error, "errMsg")};
        valid = false;
    }
    if (pending->creates != NULL && valid) {
        pending->creates->id = json_incref(ws_id);
        pending->creates->open = true;
    }
    answer(pending, valid ? response : NULL, valid ? NULL : &failure);
}

/* After the end answer the requests that wait, but not those that are made meanwhile, or an answer
 * that tries again at once would never let the step end. */
static bool answer_all(wsp_host *host)
{
    size_t waiting = host->phase == ENDED ? json_object_size(host->pending) : 0;
    for (size_t i = 0; i < waiting; i++) {
        const wsp_error error = {"plugin-ended", host->failure};
        const char *oldest = json_object_iter_key(json_object_iter(host->pending));
        answer(expected(host, oldest), NULL, &error);
    }
    return waiting > 0;
}

/* --- events --- */

static void closed(wsp_websocket *websocket, int code, const char *reason, const char *cause)
{
    const wsp_listener listener = websocket->listener;
    websocket->open = false;
    if (listener.on_close != NULL)
        listener.on_close(listener.context, websocket, code, reason, cause);
}

static struct event *take_event(wsp_websocket *websocket)
{
    struct event *event = websocket->events;
    websocket->events = event->next;
    if (websocket->events == NULL)
        websocket->last_event = &websocket->events;
    websocket->messages -= event->messages;
    websocket->bytes -= event->bytes;
    return event;
}

static void free_event(struct event *event)
{
    json_decref(event->payload);
    free(event);
}

/* Call the listener once. */
static void hand_out(wsp_websocket *websocket)
{
    const wsp_listener *listener = &websocket->listener;
    if (websocket->events == NULL) { /* and the plugin has ended */
        closed(websocket, 1006, websocket->host->failure, "failure");
        return;
    }
    struct event *event = take_event(websocket);
    const char *name = string_of(event->payload, "name");
    const json_t *facts = json_object_get(event->payload, "payload");
    const json_t *data = json_object_get(facts, "data");
    const char *text = json_string_value(data), *type = string_of(facts, "type");
    size_t size = json_string_length(data);
    bool message = event->messages > 0 && text != NULL;
    if (message && strcmp(type, "text") == 0 && listener->on_text != NULL) {
        listener->on_text(listener->context, websocket, text, size);
    } else if (message && strcmp(type, "base64") == 0 && listener->on_binary != NULL) {
        unsigned char *bytes = base64_decode(text, size, &size);
        if (bytes != NULL)
            listener->on_binary(listener->context, websocket, bytes, size);
        else
            give_up(websocket->host, NO_MEMORY, "");
        free(bytes);
    } else if (strcmp(name, "open") == 0 && listener->on_open != NULL) {
        listener->on_open(listener->context, websocket, facts);
    } else if (strcmp(name, "error") == 0 && listener->on_error != NULL) {
        listener->on_error(listener->context, websocket, string_of(facts, "code"),
            string_of(facts, "errMsg"), (int)integer_of(facts, "status"));
    } else if (strcmp(name, "close") == 0) {
        closed(websocket, (int)integer_of(facts, "code"), string_of(facts, "reason"),
            string_of(facts, "cause"));
    }
    free_event(event);
}

/* Whether a listener may be called now. */
static bool is_ready(const wsp_websocket *websocket)
{
    const wsp_host *host = websocket->host;
    return websocket->open && !websocket->forgotten && (host->stopping || !websocket->held)
        && (websocket->events != NULL || host->phase == ENDED);
}

/* Queue an event, and hand it out at once if there is still time in this turn. */
static void take_event_line(wsp_host *host, json_t *payload)
{
    const json_t *facts = json_object_get(payload, "payload");
    size_t size = json_string_length(json_object_get(facts, "data"));
    wsp_websocket *websocket = host->websockets;
    while (websocket != NULL
        && (!websocket->open || !json_equal(websocket->id, json_object_get(payload, "id"))))
        websocket = websocket->next;
    if (websocket == NULL || websocket->ending || websocket->forgotten)
        return;
    struct event *event = calloc(1, sizeof *event);
    if (event == NULL) {
        give_up(host, NO_MEMORY, "");
        return;
    }
    event->payload = json_incref(payload);
    if (strcmp(string_of(payload, "name"), "message") == 0) {
        event->messages = 1;
        event->bytes = strcmp(string_of(facts, "type"), "text") == 0 ? size : size / 4 * 3;
    }
    websocket->messages += event->messages;
    websocket->bytes += event->bytes;
    *websocket->last_event = event;
    websocket->last_event = &event->next;
    websocket->ending = strcmp(string_of(payload, "name"), "close") == 0;
    while (is_ready(websocket) && now_ms() < host->turn_ends)
        hand_out(websocket);
}

/* Pause and resume servers by what waits for their listeners. */
static void throttle(wsp_host *host)
{
    size_t bytes = host->settings.queue_bytes, messages = host->settings.queue_messages;
    for (wsp_websocket *each = host->websockets; each != NULL; each = each->next) {
        bool full = each->bytes >= bytes || each->messages >= messages;
        bool half = each->bytes <= bytes / 2 && each->messages <= messages / 2;
        if (host->phase == RUNNING && each->open && !each->ending && !each->forgotten
            && (each->throttled ? half : full) && wsp_has_feature(host, "pause")
            /* While the app's own pause is on, the plugin has nothing to be told. */
            && (each->paused || set_paused(each, !each->throttled, NULL, NULL)))
            each->throttled = !each->throttled;
    }
}

/* --- lines from the plugin --- */

static void take_line(wsp_host *host)
{
    json_error_t error;
    const char *line = host->line.data;
    size_t size = host->line.size - 1;
    json_t *message = json_loadb(line, size, JSON_ALLOW_NUL, &error);
    /* A later plugin may say larger numbers than this library's integers hold. */
    if (message == NULL && json_error_code(&error) == json_error_numeric_overflow)
        message = json_loadb(line, size, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    if (message == NULL && json_error_code(&error) == json_error_out_of_memory)
        give_up(host, NO_MEMORY, "");
    else if (!json_is_object(message))
        give_up(host, "the plugin wrote what is no line of its protocol: ", line);
    else if (json_object_get(message, "event") != NULL)
        take_event_line(host, json_object_get(message, "payload"));
    else
        take_answer(host, message);
    json_decref(message);
}

/* Read once; a line is whole only when its LF has come. */
static void read_stdout(wsp_host *host)
{
    char chunk[CHUNK], *start = chunk, *lf;
    ssize_t size = read(host->out, chunk, sizeof chunk);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (size <= 0) { /* it ends now, which says why; or else it is not waited for long */
        close_fd(&host->out);
        hang_up(host, GRACE_MS);
        return;
    }
    char *stop = chunk + size;
    while (host->out >= 0 && (lf = memchr(start, '\n', (size_t)(stop - start))) != NULL) {
        *lf = '\0';
        if (!append(&host->line, start, (size_t)(lf + 1 - start)))
            break;
        take_line(host);
        drop(&host->line, host->line.size);
        start = lf + 1;
    }
    if (host->out >= 0 && !append(&host->line, start, (size_t)(stop - start)))
        give_up(host, NO_MEMORY, "");
}

/* --- stderr --- */

/* Write to the app's own stderr what it takes. SIGPIPE, if it is broken, is caught and forgotten:
 * it would be the end of the app. */
static void pass_on(wsp_host *host, const char *text, size_t size)
{
    struct pollfd fd = {.fd = STDERR_FILENO, .events = POLLOUT};
    sigset_t broken, before, waiting;
    int ready = poll(&fd, 1, host->stderr_blocked ? 0 : STDERR_MS), number;
    host->stderr_blocked = ready == 0;
    if (ready <= 0)
        return;
    sigemptyset(&broken);
    sigaddset(&broken, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken, &before);
    sigpending(&waiting);
    bool own = !sigismember(&waiting, SIGPIPE);
    if (write(STDERR_FILENO, text, size) < 0 && errno == EPIPE && own) {
        sigpending(&waiting); /* it is not, where the app ignores it */
        if (sigismember(&waiting, SIGPIPE))
            sigwait(&broken, &number);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Take a byte of stderr: of a line, or a part of one that is very long. */
static void take_error(wsp_host *host, char byte)
{
    if (host->error_whole && byte != '\n')
        host->error_size = 0;
    bool whole = byte == '\n' || host->error_size == sizeof host->error - 2;
    if (byte != '\n') {
        host->error[host->error_size++] = byte;
        host->error[host->error_size] = '\0';
    }
    if (whole && (!host->error_whole || byte != '\n') && host->settings.on_stderr != NULL)
        host->settings.on_stderr(host->settings.stderr_context, host->error);
    host->error_whole = whole;
}

static void read_stderr(wsp_host *host)
{
    char chunk[PIPE_BUF]; /* so much can be written without waiting, if anything can */
    for (int reads = 0; host->err >= 0 && reads < 16; reads++) {
        ssize_t size = read(host->err, chunk, sizeof chunk);
        if (size == 0)
            close_fd(&host->err);
        if (size <= 0)
            break;
        if (host->settings.on_stderr == NULL && !host->settings.discard_stderr)
            pass_on(host, chunk, (size_t)size);
        for (ssize_t i = 0; i < size; i++)
            take_error(host, chunk[i]);
    }
}

/* --- the process --- */

/* Start the process; 0, or the number of the error. */
static int spawn(wsp_host *host, const char *const command[])
{
    int fds[6] = {-1, -1, -1, -1, -1, -1}, problem = 0;
    int *in = fds, *out = fds + 2, *err = fds + 4;
    posix_spawn_file_actions_t actions;
    /* A socket, because writing to a dead plugin must not raise SIGPIPE in the app. All are closed
     * on exec: a child of the app that held the plugin's stdin would keep it from ending. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) < 0 || pipe2(out, O_CLOEXEC) < 0
        || pipe2(err, O_CLOEXEC) < 0)
        problem = errno;
    /* They must not be among the standard three, which may be closed in the app. */
    for (size_t i = 0; problem == 0 && i < 6; i++) {
        int moved = fcntl(fds[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        problem = moved < 0 ? errno : 0;
        close(fds[i]);
        fds[i] = moved;
    }
    if (problem == 0)
        problem = posix_spawn_file_actions_init(&actions);
    if (problem == 0) {
        posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
        posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
        posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
        problem = posix_spawnp(
            &host->pid, command[0], &actions, NULL, (char *const *)command, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    close_fd(&in[0]);
    close_fd(&out[1]);
    close_fd(&err[1]);
    host->in = in[1];
    host->out = out[0];
    host->err = err[0];
    /* Only our ends, which the plugin does not share. */
    fcntl(host->in, F_SETFL, O_NONBLOCK);
    fcntl(host->out, F_SETFL, O_NONBLOCK);
    fcntl(host->err, F_SETFL, O_NONBLOCK);
#ifdef SO_NOSIGPIPE
    setsockopt(host->in, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
    host->process = -1;
#ifdef SYS_pidfd_open
    if (problem == 0)
        host->process = (int)syscall(SYS_pidfd_open, host->pid, 0);
#endif
    return problem;
}

static bool names_option(const char *const command[], const char *option)
{
    size_t length = strlen(option);
    for (; *command != NULL; command++)
        if (strncmp(*command, option, length) == 0
            && ((*command)[length] == '\0' || (*command)[length] == '='))
            return true;
    return false;
}

wsp_host *wsp_spawn(const char *const command[], const wsp_settings *settings)
{
    size_t count = 0, size = 0;
    char pid[24];
    while (command[count] != NULL)
        count++;
    wsp_host *host = calloc(1, sizeof *host);
    const char **full = calloc(count + 5, sizeof *full);
    int problem = host == NULL || full == NULL ? ENOMEM : count == 0 ? EINVAL : 0;
    if (problem == 0) {
        wsp_settings *own = &host->settings;
        *own = settings != NULL ? *settings : (wsp_settings){0};
        own->queue_bytes = own->queue_bytes > 0 ? own->queue_bytes : QUEUE_BYTES;
        own->queue_messages = own->queue_messages > 0 ? own->queue_messages : QUEUE_MESSAGES;
        host->deadline = now_ms() + (own->start_ms > 0 ? own->start_ms : START_MS);
        const char *const options[] = {"--parent-pid", pid, "--exit-timeout", "1.5"};
        snprintf(pid, sizeof pid, "%ld", (long)getpid());
        memcpy(full, command, count * sizeof *full);
        for (size_t i = 0; i < 4 && !own->plain_command; i += 2) {
            if (!names_option(command, options[i])) {
                full[count++] = options[i];
                full[count++] = options[i + 1];
            }
        }
        for (size_t i = 0; i < count && size < sizeof host->command; i++)
            size += (size_t)snprintf(
                host->command + size, sizeof host->command - size, "%s ", full[i]);
        problem = spawn(host, full);
    }
    free(full);
    if (problem != 0) {
        free(host);
        errno = problem;
        return NULL;
    }
    errno = 0;
    host->pending = json_object();
    json_t *line = json_pack("{s:n, s:s}", "id", "action", "plugin-describe");
    if (request(host, NULL, line, start, host) == NULL)
        give_up(host, NO_MEMORY, "");
    return host;
}

/* Add words on the end of the plugin. */
static void say(wsp_host *host, const char *words, const char *detail)
{
    size_t size = strlen(host->failure);
    snprintf(host->failure + size, sizeof host->failure - size, "%s%s", words, detail);
}

/* Put the end of the plugin into words; from now on everybody who waits is told. */
static void end(wsp_host *host)
{
    char number[24];
    read_stderr(host);
    if (host->error_size > 0 && !host->error_whole)
        take_error(host, '\n');
    hang_up(host, 0);
    close_fd(&host->out);
    close_fd(&host->err);
    close_fd(&host->process);
    drop(&host->line, host->line.size);
    host->phase = ENDED;
    bool signaled = host->status > 128, lost = host->failure[0] != '\0';
    snprintf(number, sizeof number, "%d", signaled ? host->status - 128 : host->status);
    if (!lost && host->stopping && host->status == 0)
        say(host, "the host has stopped the plugin", "");
    else if (!lost && host->killed)
        say(host, "the plugin did not end and was killed", "");
    else if (!lost)
        say(host, signaled ? "the plugin was killed by signal " : "the plugin ended with status ",
            number);
    if (!lost && host->error_size > 0)
        say(host, ": ", host->error);
    if (host->description == NULL)
        say(host, "; it was started as: ", host->command);
    if (host->status == 2 && strstr(host->error, "unrecognized") != NULL
        && (strstr(host->error, "--parent-pid") || strstr(host->error, "--exit-timeout")))
        say(host, "; ", OLD);
}

/* Look after the process: whether it has ended, and whether its time is over. */
static void watch(wsp_host *host)
{
    int status;
    pid_t found = host->reaped ? 0 : waitpid(host->pid, &status, WNOHANG);
    if (found != 0 && (found > 0 || errno != EINTR)) {
        host->reaped = true;
        host->status = -1; /* if somebody else has waited for it */
        if (found > 0)
            host->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        host->phase = REST;
        host->deadline = now_ms() + REST_MS;
        close_fd(&host->process); /* or it would be readable for ever */
    }
    if (host->reaped && host->out < 0) {
        end(host);
    } else if (host->phase != RUNNING && now_ms() >= host->deadline) {
        if (host->phase == STARTING) {
            give_up(host, "the plugin did not answer plugin-describe in time", "");
        } else if (host->phase == ENDING) {
            kill(host->pid, SIGKILL);
            host->killed = true;
            host->phase = REST;
            host->deadline = now_ms() + REST_MS;
        } else {
            end(host);
        }
    }
}

static void write_stdin(wsp_host *host)
{
    if (host->in >= 0 && host->output.size > 0) {
        ssize_t size = send(host->in, host->output.data + host->written,
            host->output.size - host->written, MSG_NOSIGNAL);
        if (size > 0)
            host->written += (size_t)size;
        else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            hang_up(host, GRACE_MS); /* it is gone, and the end of its stdout says how */
        if (host->written > host->output.size / 2) { /* or else every write would move all */
            drop(&host->output, host->written);
            host->written = 0;
        }
    }
    if (host->stopping && host->output.size == 0)
        close_fd(&host->in);
}

/* --- the loop --- */

/* Close the forgotten connections that are open, and free the others. */
static void sweep(wsp_host *host)
{
    for (wsp_websocket **link = &host->websockets; *link != NULL;) {
        wsp_websocket *each = *link;
        if (each->forgotten && each->open)
            each->open = host->phase == RUNNING && !each->ending
                && !wsp_close(each, 1000, "", -1, NULL, NULL);
        if (!each->forgotten || each->open || each->creating) {
            link = &each->next;
            continue;
        }
        *link = each->next;
        while (each->events != NULL)
            free_event(take_event(each));
        json_decref(each->id);
        free(each);
    }
}

int wsp_poll_set(const wsp_host *host, struct pollfd set[4])
{
    long long left = host->deadline - now_ms();
    set[0] = (struct pollfd){.fd = host->out, .events = POLLIN};
    set[1] = (struct pollfd){.fd = host->err, .events = POLLIN};
    set[2] = (struct pollfd){.fd = host->output.size > 0 ? host->in : -1, .events = POLLOUT};
    set[3] = (struct pollfd){.fd = host->process, .events = POLLIN};
    for (const wsp_websocket *each = host->websockets; each != NULL; each = each->next)
        if (is_ready(each))
            return 0;
    if (host->phase == ENDED)
        return json_object_size(host->pending) > 0 ? 0 : -1;
    if (host->phase == RUNNING)
        return -1;
    if (host->phase == ENDING && host->process < 0 && left > LOOK_MS)
        return LOOK_MS;
    return left > 0 ? (int)left : 0;
}

bool wsp_step(wsp_host *host, int timeout_ms)
{
    struct pollfd set[4];
    host->turn_ends = now_ms() + TURN_MS;
    bool called = answer_all(host);
    for (wsp_websocket *each = host->websockets; each != NULL; each = each->next) {
        if (is_ready(each)) { /* one a connection, so that none has to wait for a slow one */
            hand_out(each);
            called = true;
        }
    }
    sweep(host);
    if (host->phase != ENDED) {
        throttle(host);
        write_stdin(host);
        int left = wsp_poll_set(host, set);
        if (called)
            left = 0;
        if (timeout_ms < 0 || (left >= 0 && left < timeout_ms))
            timeout_ms = left;
        if (poll(set, 4, timeout_ms) > 0) {
            host->turn_ends = now_ms() + TURN_MS;
            if (set[1].revents != 0)
                read_stderr(host);
            if (set[2].revents != 0)
                write_stdin(host);
            if (set[0].revents != 0)
                read_stdout(host);
        }
        throttle(host);
        write_stdin(host);
        watch(host);
    }
    return host->phase != ENDED || wsp_poll_set(host, set) == 0;
}

void wsp_hold(wsp_websocket *websocket, bool held)
{
    websocket->held = held;
}

void wsp_forget(wsp_websocket *websocket)
{
    websocket->forgotten = true; /* the next step frees it: a listener of it may be running */
}

int wsp_stop(wsp_host *host, int grace_ms)
{
    long long until = now_ms() + grace_ms;
    if (host->phase < ENDING || (host->phase == ENDING && until < host->deadline)) {
        host->phase = ENDING;
        host->deadline = until;
    }
    host->stopping = true;
    while (host->phase != ENDED)
        wsp_step(host, -1);
    /* Whatever is left to call; but requests that are made again and again do not keep us here. */
    until = now_ms() + REST_MS;
    while (wsp_step(host, 0) && now_ms() < until)
        continue;
    return host->status;
}

void wsp_free(wsp_host *host)
{
    const char *id;
    while ((id = json_object_iter_key(json_object_iter(host->pending))) != NULL)
        free(expected(host, id));
    for (wsp_websocket *each = host->websockets; each != NULL; each = each->next) {
        each->forgotten = true;
        each->creating = false;
    }
    sweep(host);
    json_decref(host->pending);
    json_decref(host->description);
    free(host->line.data);
    free(host->output.data);
    free(host);
}
