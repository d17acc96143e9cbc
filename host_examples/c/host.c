/* The host of host.h. One thread, one poll(2), no signal handlers. */
#define _POSIX_C_SOURCE 200809L

#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 65536, GRACE_MS = 5000, TAIL = 1000 };

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* where it is missing there is SO_NOSIGPIPE */
#endif

extern char **environ;

struct buffer {
    char *data;
    size_t size, capacity;
};

struct wsp_websocket {
    wsp_host *host;
    wsp_listener listener;
    char id[32]; /* empty before the answer of its create */
    bool open;   /* it is to have an on_close */
    wsp_websocket *next;
};

/* A request without an answer. */
struct pending {
    json_int_t id;
    wsp_answer *answer;
    void *context;
    wsp_websocket *creates;
    const char *invalid; /* the error, if it was never written */
    struct pending *next;
};

struct wsp_host {
    pid_t pid;
    int in, out, err;     /* the plugin's; -1 once closed */
    struct buffer line;   /* read, without LF so far */
    struct buffer output; /* to be written, behind so many bytes that have been */
    size_t written;
    struct buffer tail;   /* the end of stderr: it says why if the plugin fails */
    struct pending *pending, **last;
    wsp_websocket *websockets;
    json_int_t requests;
    bool stopping;
    int status;
    char *ended; /* how, once it has */
};

/* --- memory and JSON --- */

static void *need(void *memory)
{
    if (memory == NULL) {
        fputs("wsplugin host: out of memory\n", stderr);
        abort();
    }
    return memory;
}

static void append(struct buffer *buffer, const void *data, size_t size)
{
    if (size == 0)
        return;
    if (buffer->capacity - buffer->size < size) {
        buffer->capacity = 2 * buffer->capacity + size;
        buffer->data = need(realloc(buffer->data, buffer->capacity));
    }
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
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

static void clear_output(wsp_host *host)
{
    drop(&host->output, host->output.size);
    host->written = 0;
}

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *base64_encode(const unsigned char *data, size_t size)
{
    char *text = need(malloc((size + 2) / 3 * 4 + 1)), *end = text;
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        unsigned long bits = (unsigned long)data[i] << 16;
        if (left > 1)
            bits |= (unsigned long)data[i + 1] << 8;
        if (left > 2)
            bits |= data[i + 2];
        *end++ = ALPHABET[bits >> 18];
        *end++ = ALPHABET[bits >> 12 & 63];
        *end++ = left > 1 ? ALPHABET[bits >> 6 & 63] : '=';
        *end++ = left > 2 ? ALPHABET[bits & 63] : '=';
    }
    *end = '\0';
    return text;
}

/* Standard base64 as the plugin writes it; what is no digit is passed over. */
static unsigned char *base64_decode(const char *text, size_t size, size_t *decoded)
{
    unsigned char value[256];
    memset(value, 64, sizeof value);
    for (unsigned char i = 0; i < 64; i++)
        value[(unsigned char)ALPHABET[i]] = i;
    unsigned char *data = need(malloc(size / 4 * 3 + 3));
    unsigned long bits = 0;
    int count = 0;
    *decoded = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char digit = value[(unsigned char)text[i]];
        if (digit == 64)
            continue;
        bits = (bits << 6 | digit) & 0xFFFFFF;
        count += 6;
        if (count >= 8) {
            count -= 8;
            data[(*decoded)++] = (unsigned char)(bits >> count);
        }
    }
    return data;
}

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* --- requests --- */

/* Take note of a request; a payload that is NULL could not be made. Steals the payload. */
static void request(wsp_host *host, const char *action, json_t *payload, wsp_websocket *creates,
    wsp_answer *answer, void *context)
{
    struct pending *pending = need(calloc(1, sizeof *pending));
    *pending = (struct pending){
        .id = ++host->requests, .answer = answer, .context = context, .creates = creates};
    *host->last = pending;
    host->last = &pending->next;
    if (payload == NULL) {
        pending->invalid = "invalid-text";
    } else if (host->ended != NULL || host->stopping) {
        pending->invalid = "plugin-ended";
        json_decref(payload);
    } else {
        /* The id comes first: of a line that is too long the plugin reads no more than the start. */
        json_t *line = need(
            json_pack("{s:I, s:s, s:o}", "id", pending->id, "action", action, "payload", payload));
        char *text = need(json_dumps(line, JSON_COMPACT));
        append(&host->output, text, strlen(text));
        append(&host->output, "\n", 1);
        free(text);
        json_decref(line);
    }
}

wsp_websocket *wsp_create(wsp_host *host, const char *url, const wsp_options *options,
    const wsp_listener *listener, wsp_answer *answer, void *context)
{
    static const wsp_options defaults = {0};
    bool valid = true;
    if (options == NULL)
        options = &defaults;
    wsp_websocket *websocket = need(calloc(1, sizeof *websocket));
    websocket->host = host;
    websocket->listener = *listener;
    websocket->next = host->websockets;
    host->websockets = websocket;

    json_t *payload = json_pack("{s:s, s:s}", "url", url, "binaryType", "base64");
    if (payload != NULL && options->headers != NULL) {
        json_t *headers = need(json_object());
        for (const char *const *name = options->headers; name[0] != NULL; name += 2)
            valid &= json_object_set_new(headers, name[0], json_string(name[1])) == 0;
        json_object_set_new(payload, "headers", headers);
    }
    if (payload != NULL && options->protocols != NULL) {
        json_t *protocols = need(json_array());
        for (const char *const *name = options->protocols; *name != NULL; name++)
            valid &= json_array_append_new(protocols, json_string(*name)) == 0;
        json_object_set_new(payload, "protocols", protocols);
    }
    if (payload != NULL && options->timeout_ms > 0)
        json_object_set_new(payload, "timeout", json_integer(options->timeout_ms));
    if (payload != NULL && options->no_per_message_deflate)
        json_object_set_new(payload, "perMessageDeflate", json_false());
    if (!valid) {
        json_decref(payload);
        payload = NULL;
    }
    request(host, "websocket-create", payload, websocket, answer, context);
    return websocket;
}

void wsp_send_text(
    wsp_websocket *websocket, const char *text, size_t size, wsp_answer *answer, void *context)
{
    json_t *payload = json_pack(
        "{s:s, s:s, s:s%}", "id", websocket->id, "type", "text", "data", text, size);
    request(websocket->host, "websocket-send", payload, NULL, answer, context);
}

void wsp_send_binary(wsp_websocket *websocket, const unsigned char *data, size_t size,
    wsp_answer *answer, void *context)
{
    char *text = base64_encode(data, size);
    json_t *payload = need(
        json_pack("{s:s, s:s, s:s}", "id", websocket->id, "type", "base64", "data", text));
    free(text);
    request(websocket->host, "websocket-send", payload, NULL, answer, context);
}

void wsp_close(
    wsp_websocket *websocket, int code, const char *reason, wsp_answer *answer, void *context)
{
    json_t *payload = json_pack(
        "{s:s, s:i, s:s}", "id", websocket->id, "code", code, "reason", reason);
    request(websocket->host, "websocket-close", payload, NULL, answer, context);
}

void wsp_background(wsp_host *host, wsp_answer *answer, void *context)
{
    request(host, "app-background", need(json_object()), NULL, answer, context);
}

void wsp_describe(wsp_host *host, wsp_answer *answer, void *context)
{
    request(host, "plugin-describe", need(json_object()), NULL, answer, context);
}

void wsp_forget(wsp_websocket *websocket)
{
    wsp_websocket **link = &websocket->host->websockets;
    while (*link != websocket)
        link = &(*link)->next;
    *link = websocket->next;
    free(websocket);
}

/* --- lines from the plugin --- */

static struct pending *take_pending(wsp_host *host, struct pending **link)
{
    struct pending *pending = *link;
    *link = pending->next;
    if (host->last == &pending->next)
        host->last = link;
    return pending;
}

static void answer(struct pending *pending, const json_t *response, const wsp_error *error)
{
    if (pending->answer != NULL)
        pending->answer(pending->context, response, error);
    free(pending);
}

static void take_answer(wsp_host *host, const json_t *message)
{
    const json_t *error = json_object_get(message, "error");
    const json_t *response = json_object_get(message, "response");
    json_int_t id = json_integer_value(json_object_get(message, "id"));
    struct pending **link = &host->pending;
    while (*link != NULL && (*link)->id != id)
        link = &(*link)->next;
    if (*link == NULL)
        return; /* to a line that the plugin could not read: this host writes none */
    struct pending *pending = take_pending(host, link);
    if (error != NULL) {
        wsp_error refused = {string_of(error, "code"), string_of(error, "errMsg")};
        answer(pending, NULL, &refused);
        return;
    }
    if (pending->creates != NULL) {
        snprintf(pending->creates->id, sizeof pending->creates->id, "%s",
            string_of(response, "id"));
        pending->creates->open = true;
    }
    answer(pending, response, NULL);
}

static void closed(wsp_websocket *websocket, int code, const char *reason, const char *cause)
{
    const wsp_listener listener = websocket->listener;
    websocket->open = false;
    if (listener.on_close != NULL)
        listener.on_close(listener.context, websocket, code, reason, cause);
}

static void take_message(wsp_websocket *websocket, const json_t *payload)
{
    const wsp_listener *listener = &websocket->listener;
    const json_t *data = json_object_get(payload, "data");
    const char *text = string_of(payload, "data");
    if (strcmp(string_of(payload, "type"), "text") == 0) {
        if (listener->on_text != NULL)
            listener->on_text(listener->context, websocket, text, json_string_length(data));
    } else if (listener->on_binary != NULL) {
        size_t size;
        unsigned char *bytes = base64_decode(text, json_string_length(data), &size);
        listener->on_binary(listener->context, websocket, bytes, size);
        free(bytes);
    }
}

static void take_event(wsp_host *host, const json_t *event)
{
    const char *id = string_of(event, "id"), *name = string_of(event, "name");
    const json_t *payload = json_object_get(event, "payload");
    int code = (int)json_integer_value(json_object_get(payload, "code"));
    int status = (int)json_integer_value(json_object_get(payload, "status"));
    wsp_websocket *websocket = host->websockets;
    while (websocket != NULL && strcmp(websocket->id, id) != 0)
        websocket = websocket->next;
    if (websocket == NULL)
        return;
    const wsp_listener *listener = &websocket->listener;
    if (strcmp(name, "open") == 0 && listener->on_open != NULL)
        listener->on_open(listener->context, websocket, json_object_get(payload, "headers"));
    else if (strcmp(name, "message") == 0)
        take_message(websocket, payload);
    else if (strcmp(name, "error") == 0 && listener->on_error != NULL)
        listener->on_error(listener->context, websocket, string_of(payload, "code"),
            string_of(payload, "errMsg"), status);
    else if (strcmp(name, "close") == 0)
        closed(websocket, code, string_of(payload, "reason"), string_of(payload, "cause"));
}

/* False if that is no line of the protocol. */
static bool take_line(wsp_host *host, const char *line, size_t size)
{
    json_t *message = json_loadb(line, size, JSON_ALLOW_NUL, NULL);
    bool valid = json_is_object(message);
    const json_t *event = json_object_get(message, "event");
    if (event != NULL)
        take_event(host, json_object_get(message, "payload"));
    else if (valid)
        take_answer(host, message);
    json_decref(message);
    return valid;
}

/* --- the process --- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Move a descriptor above the standard three, and keep it from other children: one that held the
 * plugin's stdin would keep it from ending. */
static int private_fd(int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return moved;
}

wsp_host *wsp_spawn(const char *const command[])
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
    int *fds[] = {&in[0], &in[1], &out[0], &out[1], &err[0], &err[1]};
    pid_t pid = 0;
    bool made = true;
    int problem = 0;
    /* A socket, because writing to a dead plugin must not raise SIGPIPE in the app. */
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, in) < 0 || pipe(out) < 0 || pipe(err) < 0)
        made = false;
    for (size_t i = 0; made && i < 6; i++)
        made = (*fds[i] = private_fd(*fds[i])) >= 0;
#ifdef SO_NOSIGPIPE
    setsockopt(in[1], SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
    if (made) {
        /* Only on our ends, which the plugin does not share. */
        fcntl(in[1], F_SETFL, O_NONBLOCK);
        fcntl(out[0], F_SETFL, O_NONBLOCK);
        fcntl(err[0], F_SETFL, O_NONBLOCK);
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, in[0], 0);
        posix_spawn_file_actions_adddup2(&actions, out[1], 1);
        posix_spawn_file_actions_adddup2(&actions, err[1], 2);
        problem = posix_spawnp(&pid, command[0], &actions, NULL, (char *const *)command, environ);
        posix_spawn_file_actions_destroy(&actions);
    } else {
        problem = errno;
    }
    close_fd(&in[0]);
    close_fd(&out[1]);
    close_fd(&err[1]);
    if (problem != 0) {
        close_fd(&in[1]);
        close_fd(&out[0]);
        close_fd(&err[0]);
        errno = problem;
        return NULL;
    }
    wsp_host *host = need(calloc(1, sizeof *host));
    *host = (wsp_host){.pid = pid, .in = in[1], .out = out[0], .err = err[0]};
    host->last = &host->pending;
    return host;
}

/* Fail the requests that were not written, or all of them once the plugin has ended. */
static bool fail_pending(wsp_host *host)
{
    bool any = false;
    struct pending **link = &host->pending;
    while (*link != NULL) {
        if (host->ended == NULL && (*link)->invalid == NULL) {
            link = &(*link)->next;
            continue;
        }
        struct pending *pending = take_pending(host, link);
        wsp_error error = {"plugin-ended", "the host has stopped the plugin"};
        if (host->ended != NULL)
            error.message = host->ended;
        if (pending->invalid != NULL && strcmp(pending->invalid, "invalid-text") == 0)
            error = (wsp_error){pending->invalid, "not UTF-8"};
        answer(pending, NULL, &error);
        any = true;
        link = &host->pending; /* the answer may have changed the list */
    }
    return any;
}

static void read_stderr(wsp_host *host)
{
    char chunk[4096];
    ssize_t size;
    while (host->err >= 0 && (size = read(host->err, chunk, sizeof chunk)) != -1) {
        if (size == 0) {
            close_fd(&host->err);
            break;
        }
        fwrite(chunk, 1, (size_t)size, stderr); /* pass it on, and remember its end */
        append(&host->tail, chunk, (size_t)size);
        if (host->tail.size > TAIL)
            drop(&host->tail, host->tail.size - TAIL);
    }
}

/* The plugin has closed its stdout, or written nonsense: wait for its end, put it into words, and
 * tell everybody who waits. */
static void end(wsp_host *host, const char *broken)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    long long deadline = now_ms() + GRACE_MS;
    int status = 0;
    close_fd(&host->in);
    close_fd(&host->out);
    clear_output(host);
    if (broken != NULL)
        kill(host->pid, SIGKILL);
    while (waitpid(host->pid, &status, WNOHANG) == 0) {
        if (now_ms() >= deadline)
            kill(host->pid, SIGKILL);
        nanosleep(&pause, NULL);
    }
    read_stderr(host);
    close_fd(&host->err);
    host->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);

    while (host->tail.size > 0 && strchr("\r\n", host->tail.data[host->tail.size - 1]) != NULL)
        host->tail.size--;
    append(&host->tail, "", 1);
    const char *last = strrchr(host->tail.data, '\n');
    last = last != NULL ? last + 1 : host->tail.data;
    size_t size = strlen(last) + 200;
    host->ended = need(malloc(size));
    int length = WIFSIGNALED(status)
        ? snprintf(host->ended, size, "the plugin was killed by signal %d", WTERMSIG(status))
        : snprintf(host->ended, size, "the plugin ended with status %d", host->status);
    if (broken != NULL)
        snprintf(host->ended, size, "%s", broken);
    else if (*last != '\0')
        snprintf(host->ended + length, size - (size_t)length, ": %s", last);

    fail_pending(host);
    for (wsp_websocket *websocket = host->websockets; websocket != NULL;) {
        if (websocket->open) {
            closed(websocket, 1006, host->ended, "failure");
            websocket = host->websockets; /* it may be forgotten now */
        } else {
            websocket = websocket->next;
        }
    }
}

static void write_stdin(wsp_host *host)
{
    if (host->in >= 0 && host->output.size > 0) {
        ssize_t size = send(host->in, host->output.data + host->written,
            host->output.size - host->written, MSG_NOSIGNAL);
        if (size >= 0) {
            host->written += (size_t)size;
            if (host->written > host->output.size / 2) { /* or else every write would move all */
                drop(&host->output, host->written);
                host->written = 0;
            }
        } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            /* The plugin is gone: its stdout ends too, which says how. */
            close_fd(&host->in);
            clear_output(host);
        }
    }
    if (host->stopping && host->output.size == 0)
        close_fd(&host->in);
}

/* Read once; a line is whole only when its LF has come. */
static void read_stdout(wsp_host *host)
{
    char chunk[CHUNK];
    ssize_t size = read(host->out, chunk, sizeof chunk);
    if (size < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            end(host, NULL);
        return;
    }
    if (size == 0) {
        end(host, NULL);
        return;
    }
    char *start = chunk, *stop = chunk + size, *lf;
    while ((lf = memchr(start, '\n', (size_t)(stop - start))) != NULL) {
        append(&host->line, start, (size_t)(lf - start));
        bool valid = take_line(host, host->line.data, host->line.size);
        drop(&host->line, host->line.size);
        if (!valid) {
            end(host, "the plugin wrote what is no line of its protocol");
            return;
        }
        start = lf + 1;
    }
    append(&host->line, start, (size_t)(stop - start));
}

void wsp_poll_set(const wsp_host *host, struct pollfd set[3])
{
    set[0] = (struct pollfd){.fd = host->out, .events = POLLIN};
    set[1] = (struct pollfd){.fd = host->err, .events = POLLIN};
    set[2] = (struct pollfd){.fd = host->output.size > 0 ? host->in : -1, .events = POLLOUT};
}

bool wsp_step(wsp_host *host, int timeout_ms)
{
    struct pollfd set[3];
    bool failed = fail_pending(host);
    if (host->ended != NULL)
        return failed || host->pending != NULL;
    write_stdin(host);
    wsp_poll_set(host, set);
    if (poll(set, 3, failed ? 0 : timeout_ms) < 0)
        return true; /* EINTR */
    if (set[1].revents != 0)
        read_stderr(host);
    if (set[2].revents != 0)
        write_stdin(host);
    if (set[0].revents != 0)
        read_stdout(host);
    return host->ended == NULL || host->pending != NULL;
}

int wsp_stop(wsp_host *host, int grace_ms)
{
    long long deadline = now_ms() + grace_ms;
    host->stopping = true;
    for (bool killed = false; host->ended == NULL;) {
        long long left = deadline - now_ms();
        if (left > 0) {
            wsp_step(host, (int)left);
        } else if (!killed) {
            killed = true;
            kill(host->pid, SIGKILL);
            deadline = now_ms() + GRACE_MS;
        } else {
            end(host, NULL); /* somebody else holds its stdout open */
        }
    }
    while (fail_pending(host))
        continue;
    return host->status;
}

void wsp_free(wsp_host *host)
{
    while (host->websockets != NULL)
        wsp_forget(host->websockets);
    free(host->line.data);
    free(host->output.data);
    free(host->tail.data);
    free(host->ended);
    free(host);
}
