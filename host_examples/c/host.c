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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 65536
#define START_MS 5000
#define GRACE_MS 5000 /* for a plugin that has closed its stdout, to end by itself */
#define REST_MS 1000  /* for what is left in stdout once the plugin has ended */
#define LOOK_MS 10    /* between two looks at the process, where it cannot be polled */
#define TURN_MS 10    /* how long a step may call listeners, beyond one call a connection */
#define STDERR_MS 100 /* how long the app's stderr may hold up a step, once */
#define NO_MEMORY "the host has no memory for what the plugin wrote"
#define OLD "this wsplugin is of 1.0; update it or start it without these options"

/* What some systems lack: there a process that another thread starts just then would inherit the
 * plugin's pipes. */
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
    json_t *id;                  /* NULL before the answer of its create */
    bool creating, open, ending; /* it is to have that, and an on_close, which is in the queue */
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

/* What the plugin is to do, but in RUNNING and ENDED by a deadline: answer plugin-describe, or it is
 * given up; end, or it is killed; and once it has ended (REST) what is left in its stdout is read,
 * which somebody else may hold open. */
enum phase { STARTING, RUNNING, ENDING, REST, ENDED };

/* Its descriptors. The last one is readable when the process has ended, if the system has that. */
enum { IN, OUT, ERR, PROCESS };

struct wsp_host {
    wsp_settings settings;
    pid_t pid;
    enum phase phase;
    long long deadline, turn_ends; /* on the clock of now_ms */
    bool reaped, stopping;
    int status, fds[4];         /* -1 if not known yet, or closed */
    struct buffer line, output; /* read, without LF so far; to be written, behind what has been */
    size_t written;
    char error[1000]; /* the line of stderr that is being read, or the last one */
    size_t error_size;
    bool error_whole, app_blocks; /* the app's own stderr */
    json_t *pending;              /* id to the address of a struct pending, by age */
    long long requests;
    wsp_websocket *websockets;
    json_t *description;
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

/* Append to a buffer, as json_dump_callback wants it; -1, and it is as it was, without memory. */
static int append(const char *text, size_t size, void *to)
{
    struct buffer *buffer = to;
    if (buffer->capacity - buffer->size < size) {
        size_t capacity = 2 * buffer->capacity + size;
        char *grown = realloc(buffer->data, capacity);
        if (grown == NULL)
            return -1;
        buffer->data = grown;
        buffer->capacity = capacity;
    }
    if (size > 0)
        memcpy(buffer->data + buffer->size, text, size);
    buffer->size += size;
    return 0;
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

/* Take note of a request, of a connection if that must have its id. Steals the line, which has an
 * id to be set, and is NULL if it could not be made. Expects errno to have been 0 before that:
 * ENOMEM and EILSEQ then say that a part may be missing. */
static struct pending *request(wsp_host *host, const wsp_websocket *websocket, json_t *line,
    wsp_answer *answer, void *context)
{
    char id[24];
    size_t before = host->output.size;
    bool known = websocket == NULL || websocket->id != NULL;
    struct pending *pending = malloc(sizeof *pending);
    snprintf(id, sizeof id, "%lld", ++host->requests);
    bool made = known && line != NULL && pending != NULL && errno != ENOMEM && errno != EILSEQ
        && json_object_set_new(line, "id", json_integer(host->requests)) == 0
        && json_object_set_new(host->pending, id, json_integer((intptr_t)pending)) == 0;
    if (made && host->fds[IN] >= 0 && !host->stopping)
        made = json_dump_callback(line, append, &host->output, JSON_COMPACT) == 0
            && append("\n", 1, &host->output) == 0;
    int problem = errno == ENOMEM ? ENOMEM : known ? EILSEQ : ENOTCONN;
    json_decref(line);
    if (made) {
        *pending = (struct pending){answer, context, NULL};
        return pending;
    }
    host->output.size = before;
    json_object_del(host->pending, id);
    free(pending);
    errno = problem;
    return NULL;
}

/* Put strings into an array, or, two at a time, into an object. */
static json_t *collect(json_t *into, const char *const *strings)
{
    size_t step = json_is_object(into) ? 2 : 1;
    for (; *strings != NULL; strings += step) {
        json_t *value = json_string(strings[step - 1]);
        int failed = step == 2 ? json_object_set_new(into, strings[0], value)
                               : json_array_append_new(into, value);
        if (failed && errno != ENOMEM)
            errno = EILSEQ;
    }
    return into;
}

wsp_websocket *wsp_create(wsp_host *host, const char *url, const wsp_options *options,
    const wsp_listener *listener, wsp_answer *answer, void *context)
{
    errno = 0;
    const wsp_options given = options != NULL ? *options : (wsp_options){0};
    wsp_websocket *websocket = calloc(1, sizeof *websocket);
    json_t *line = json_pack("{s:n, s:s, s:{s:s, s:s, s:o*, s:o*, s:o*, s:o*, s:o*}, s:s*, s:o*}",
        "id", "action", "websocket-create", "payload", "url", url, "binaryType", "base64",
        "headers", given.headers != NULL ? collect(json_object(), given.headers) : NULL,
        "protocols", given.protocols != NULL ? collect(json_array(), given.protocols) : NULL,
        "timeout", given.timeout_ms > 0 ? json_integer(given.timeout_ms) : NULL,
        "perMessageDeflate", given.no_per_message_deflate ? json_false() : NULL,
        "tcpNoDelay", given.delay_small_messages ? json_false() : NULL, "app", given.app,
        "headers", given.host_headers != NULL ? collect(json_object(), given.host_headers) : NULL);
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
        "timeout", timeout_ms >= 0 ? json_integer(timeout_ms) : NULL);
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
        "payload", "id", websocket->id,
        "timeout", timeout_ms > 0 ? json_integer(timeout_ms) : NULL);
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

/* Begin to wait for an end, for so long; or for a shorter time than so far. */
static void enter(wsp_host *host, enum phase phase, long long ms)
{
    long long until = now_ms() + ms;
    if (host->phase < phase || (host->phase == phase && until < host->deadline)) {
        host->phase = phase;
        host->deadline = until;
    }
}

static void hang_up(wsp_host *host, long long grace_ms)
{
    close_fd(&host->fds[IN]);
    enter(host, ENDING, grace_ms);
}

/* There is nothing to be expected of the plugin any more: say why. */
static void give_up(wsp_host *host, const char *words, const char *detail)
{
    if (host->failure[0] != '\0')
        return;
    snprintf(host->failure, sizeof host->failure, "%s%.200s", words, detail);
    close_fd(&host->fds[OUT]);
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
    char *said = json_dumps(response, JSON_COMPACT);
    if (error != NULL)
        give_up(host, "the plugin refused plugin-describe: ", error->message);
    else if (strcmp(string_of(response, "name"), "wsplugin") != 0
        || integer_of(response, "protocol") != 1)
        give_up(host, "the plugin is no wsplugin of protocol 1, but ", said != NULL ? said : "");
    else
        host->description = json_incref((json_t *)response);
    if (host->phase == STARTING)
        host->phase = RUNNING;
    free(said);
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

static json_t *take_event(wsp_websocket *websocket)
{
    struct event *event = websocket->events;
    json_t *payload = event->payload;
    websocket->events = event->next;
    if (websocket->events == NULL)
        websocket->last_event = &websocket->events;
    websocket->messages -= event->messages;
    websocket->bytes -= event->bytes;
    free(event);
    return payload;
}

/* Call the listener once: with an event, or, if there is none, because the plugin has ended. */
static void hand_out(wsp_websocket *websocket)
{
    const wsp_listener to = websocket->listener;
    json_t *event = websocket->events != NULL ? take_event(websocket) : NULL;
    const json_t *facts = json_object_get(event, "payload"), *data = json_object_get(facts, "data");
    const char *name = string_of(event, "name"), *type = string_of(facts, "type");
    const char *text = json_string_value(data);
    size_t size = json_string_length(data);
    bool message = strcmp(name, "message") == 0 && text != NULL;
    if (message && strcmp(type, "text") == 0 && to.on_text != NULL) {
        to.on_text(to.context, websocket, text, size);
    } else if (message && strcmp(type, "base64") == 0 && to.on_binary != NULL) {
        unsigned char *bytes = base64_decode(text, size, &size);
        if (bytes != NULL)
            to.on_binary(to.context, websocket, bytes, size);
        else
            give_up(websocket->host, NO_MEMORY, "");
        free(bytes);
    } else if (strcmp(name, "open") == 0 && to.on_open != NULL) {
        to.on_open(to.context, websocket, facts);
    } else if (strcmp(name, "error") == 0 && to.on_error != NULL) {
        to.on_error(to.context, websocket, string_of(facts, "code"), string_of(facts, "errMsg"),
            (int)integer_of(facts, "status"));
    } else if (event == NULL || strcmp(name, "close") == 0) {
        websocket->open = false;
        if (to.on_close != NULL && event != NULL)
            to.on_close(to.context, websocket, (int)integer_of(facts, "code"),
                string_of(facts, "reason"), string_of(facts, "cause"));
        else if (to.on_close != NULL)
            to.on_close(to.context, websocket, 1006, websocket->host->failure, "failure");
    }
    json_decref(event);
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
    ssize_t size = read(host->fds[OUT], chunk, sizeof chunk);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (size <= 0) { /* it ends now, which says why; or else it is not waited for long */
        close_fd(&host->fds[OUT]);
        hang_up(host, GRACE_MS);
        return;
    }
    char *stop = chunk + size;
    while (host->fds[OUT] >= 0 && (lf = memchr(start, '\n', (size_t)(stop - start))) != NULL) {
        *lf = '\0';
        if (append(start, (size_t)(lf + 1 - start), &host->line) == 0)
            take_line(host);
        else
            give_up(host, NO_MEMORY, "");
        drop(&host->line, host->line.size);
        start = lf + 1;
    }
    if (host->fds[OUT] >= 0 && append(start, (size_t)(stop - start), &host->line) != 0)
        give_up(host, NO_MEMORY, "");
}

/* --- stderr --- */

/* Write to what may be broken. SIGPIPE, which would end the app, is caught and forgotten. */
static ssize_t write_quietly(int fd, const char *data, size_t size)
{
    sigset_t broken, before, waiting;
    int number;
    sigemptyset(&broken);
    sigaddset(&broken, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken, &before);
    ssize_t written = write(fd, data, size);
    int problem = errno;
    sigpending(&waiting); /* it is not, where the app ignores it */
    if (written < 0 && problem == EPIPE && sigismember(&waiting, SIGPIPE))
        sigwait(&broken, &number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = problem;
    return written;
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
    for (int reads = 0; host->fds[ERR] >= 0 && reads < 16; reads++) {
        ssize_t size = read(host->fds[ERR], chunk, sizeof chunk);
        if (size == 0)
            close_fd(&host->fds[ERR]);
        if (size <= 0)
            break;
        struct pollfd app = {.fd = STDERR_FILENO, .events = POLLOUT};
        if (host->settings.on_stderr == NULL) {
            bool writable = poll(&app, 1, host->app_blocks ? 0 : STDERR_MS) > 0;
            host->app_blocks = !writable || write_quietly(app.fd, chunk, (size_t)size) < 0;
        }
        for (ssize_t i = 0; i < size; i++)
            take_error(host, chunk[i]);
    }
}

/* --- the process --- */

/* Start the process; 0, or the number of the error. */
static int spawn(wsp_host *host, const char *const command[])
{
    /* Of each of the three, our end and the plugin's. */
    int fds[6] = {-1, -1, -1, -1, -1, -1}, problem = 0;
    posix_spawn_file_actions_t actions;
    /* Closed on exec: a child of the app that held the plugin's stdin would keep it from ending. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0
        || pipe2(fds + 2, O_CLOEXEC) < 0 || pipe2(fds + 4, O_CLOEXEC) < 0)
        problem = errno;
    /* They must not be among the standard three, which may be closed in the app. */
    for (int i = 0; problem == 0 && i < 6; i++) {
        int moved = fcntl(fds[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        problem = moved < 0 ? errno : 0;
        close(fds[i]);
        fds[i] = moved;
    }
    if (problem == 0)
        problem = posix_spawn_file_actions_init(&actions);
    if (problem == 0) {
        for (int i = 0; i < 3; i++)
            posix_spawn_file_actions_adddup2(&actions, fds[2 * i + 1], i);
        problem = posix_spawnp(
            &host->pid, command[0], &actions, NULL, (char *const *)command, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    for (int i = 0; i < 3; i++) {
        close_fd(&fds[2 * i + 1]);
        if (problem != 0)
            close_fd(&fds[2 * i]);
        fcntl(fds[2 * i], F_SETFL, O_NONBLOCK); /* not on the other, which is the plugin's */
        host->fds[i] = fds[2 * i];
    }
    host->fds[PROCESS] = -1;
#ifdef SYS_pidfd_open
    if (problem == 0)
        host->fds[PROCESS] = (int)syscall(SYS_pidfd_open, host->pid, 0);
#endif
    return problem;
}

static bool names_option(const char *const command[], const char *option)
{
    size_t length = strlen(option);
    for (; *command != NULL; command++)
        if (strncmp(*command, option, length) == 0 && strchr("=", (*command)[length]) != NULL)
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
    json_t *pending = json_object();
    int problem = host == NULL || full == NULL || pending == NULL ? ENOMEM : 0;
    if (problem == 0) {
        wsp_settings *own = &host->settings;
        *own = settings != NULL ? *settings : (wsp_settings){0};
        own->queue_bytes = own->queue_bytes > 0 ? own->queue_bytes : 1048576;
        own->queue_messages = own->queue_messages > 0 ? own->queue_messages : 1024;
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
        host->pending = pending;
        host->status = -1; /* as long as it is not known */
        problem = spawn(host, full);
    }
    free(full);
    if (problem != 0) {
        json_decref(pending);
        free(host);
        errno = problem;
        return NULL;
    }
    errno = 0;
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
    bool signaled = host->status > 128, lost = host->failure[0] != '\0';
    read_stderr(host);
    if (host->error_size > 0 && !host->error_whole)
        take_error(host, '\n');
    for (int i = 0; i < 4; i++)
        close_fd(&host->fds[i]);
    host->phase = ENDED;
    snprintf(number, sizeof number, "%d", signaled ? host->status - 128 : host->status);
    if (!lost && host->stopping && host->status == 0)
        say(host, "the host has stopped the plugin", "");
    else if (!lost && signaled)
        say(host, "the plugin was killed by signal ", number);
    else if (!lost)
        say(host, "the plugin ended with status ", number);
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
    if (found > 0)
        host->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (found != 0) {
        host->reaped = true;
        enter(host, REST, REST_MS);
        close_fd(&host->fds[PROCESS]); /* or it would be readable for ever */
    }
    bool late = host->phase != RUNNING && now_ms() >= host->deadline;
    if ((host->reaped && host->fds[OUT] < 0) || (late && host->phase == REST)) {
        end(host);
    } else if (late && host->phase == STARTING) {
        give_up(host, "the plugin did not answer plugin-describe in time", "");
    } else if (late && host->phase == ENDING) {
        kill(host->pid, SIGKILL);
        enter(host, REST, REST_MS);
    }
}

static void write_stdin(wsp_host *host)
{
    if (host->fds[IN] >= 0 && host->output.size > 0) {
        ssize_t size = write_quietly(host->fds[IN], host->output.data + host->written,
            host->output.size - host->written);
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
        close_fd(&host->fds[IN]);
}

/* --- the loop --- */

/* Close the forgotten connections that are open, and free the others, or all. */
static void sweep(wsp_host *host, bool all)
{
    for (wsp_websocket **link = &host->websockets; *link != NULL;) {
        wsp_websocket *each = *link;
        if (each->forgotten && each->open)
            each->open = host->phase == RUNNING && !each->ending
                && !wsp_close(each, 1000, "", -1, NULL, NULL);
        if (all || (each->forgotten && !each->open && !each->creating)) {
            *link = each->next;
            while (each->events != NULL)
                json_decref(take_event(each));
            json_decref(each->id);
            free(each);
        } else {
            link = &each->next;
        }
    }
}

int wsp_poll_set(const wsp_host *host, struct pollfd set[4])
{
    long long left = host->deadline - now_ms();
    for (int i = 0; i < 4; i++)
        set[i] = (struct pollfd){.fd = host->fds[i], .events = i == IN ? POLLOUT : POLLIN};
    if (host->output.size == 0)
        set[IN].fd = -1;
    for (const wsp_websocket *each = host->websockets; each != NULL; each = each->next)
        if (is_ready(each))
            return 0;
    if (host->phase == ENDED)
        return json_object_size(host->pending) > 0 ? 0 : -1;
    if (host->phase == RUNNING)
        return -1;
    if (host->phase == ENDING && host->fds[PROCESS] < 0 && left > LOOK_MS)
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
    sweep(host, false);
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
            if (set[ERR].revents != 0)
                read_stderr(host);
            if (set[OUT].revents != 0)
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
    enter(host, ENDING, grace_ms);
    host->stopping = true;
    while (host->phase != ENDED)
        wsp_step(host, -1);
    /* Whatever is left to call; but requests that are made again and again do not keep us here. */
    long long until = now_ms() + REST_MS;
    while (wsp_step(host, 0) && now_ms() < until)
        continue;
    return host->status;
}

void wsp_free(wsp_host *host)
{
    const char *id;
    while ((id = json_object_iter_key(json_object_iter(host->pending))) != NULL)
        free(expected(host, id));
    sweep(host, true);
    json_decref(host->pending);
    json_decref(host->description);
    free(host->line.data);
    free(host->output.data);
    free(host);
}
