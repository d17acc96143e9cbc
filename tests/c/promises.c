/*
 * What an app does to the C host, for test_c_host.py: promises CASE COMMAND [ARGUMENT...]
 *
 * Each case plays one app with the plugin that the command starts, and prints what it sees. Case
 * and plugin are written for each other; what must come out stands in the test.
 */
#define _GNU_SOURCE

#include "host.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *const *command;
static wsp_host *host;
static int answers, opened, closes, messages;
static size_t received;

/* --- what every case uses --- */

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static long resident_kib(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1)
        exit(3);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void on_answer(void *context, const json_t *response, const wsp_error *error)
{
    (void)response;
    answers++;
    if (error != NULL)
        printf("%s: %s: %s\n", (const char *)context, error->code, error->message);
    else if (context != NULL)
        printf("%s: ok\n", (const char *)context);
}

static void on_open(void *context, wsp_websocket *websocket, const json_t *facts)
{
    (void)context, (void)websocket, (void)facts;
    opened++;
}

static void on_text(void *context, wsp_websocket *websocket, const char *text, size_t size)
{
    (void)context, (void)websocket, (void)text;
    messages++;
    received += size;
}

static void on_binary(
    void *context, wsp_websocket *websocket, const unsigned char *data, size_t size)
{
    (void)context, (void)websocket, (void)data;
    messages++;
    received += size;
}

static void on_error(
    void *context, wsp_websocket *websocket, const char *code, const char *message, int status)
{
    (void)context, (void)websocket;
    printf("error: %s %s %d\n", code, message, status);
}

static void on_close(
    void *context, wsp_websocket *websocket, int code, const char *reason, const char *cause)
{
    (void)websocket;
    closes++;
    printf("%s: close %d %s (%s)\n", (const char *)context, code, reason, cause);
}

static const wsp_listener plain = {"a", on_open, on_text, on_binary, on_error, on_close};

static void begin(const wsp_settings *settings)
{
    host = wsp_spawn(command, settings);
    if (host == NULL) {
        printf("no process: %s\n", strerror(errno));
        exit(0);
    }
}

static wsp_websocket *connection(const wsp_listener *listener)
{
    return wsp_create(host, "ws://localhost/", NULL, listener, on_answer, "create");
}

/* Step until a counter is there, or the plugin has ended. */
static void until(const int *counter, int value)
{
    while (*counter < value && wsp_step(host, -1))
        continue;
}

static void finish(void)
{
    printf("status %d\n", wsp_stop(host, 5000));
    wsp_free(host);
}

/* --- cases --- */

static void start(void)
{
    const char *failure;
    begin(&(wsp_settings){.start_ms = atol(getenv("START_MS"))});
    while (wsp_description(host) == NULL && wsp_step(host, -1))
        continue;
    failure = wsp_failure(host);
    printf("%s\n", failure != NULL ? failure : "ready");
    finish();
}

static void start_with_calls(void)
{
    begin(NULL);
    wsp_websocket *websocket = connection(&plain);
    until(&answers, 1);
    errno = 0;
    bool sent = wsp_send_text(websocket, "x", 1, on_answer, "send");
    printf("sent: %d %s\n", sent, strerror(errno));
    finish();
}

static void arguments(void)
{
    begin(NULL);
    while (wsp_description(host) == NULL && wsp_step(host, -1))
        continue;
    printf("%s\n", json_string_value(json_object_get(wsp_description(host), "arguments")));
    finish();
}

static void plain_arguments(void)
{
    begin(&(wsp_settings){.plain_command = true});
    while (wsp_description(host) == NULL && wsp_step(host, -1))
        continue;
    printf("%s\n", json_string_value(json_object_get(wsp_description(host), "arguments")));
    printf("pause %d, nonsense %d\n", wsp_has_feature(host, "pause"),
        wsp_has_feature(host, "nonsense"));
    finish();
}

static void print_line(void *context, const char *line)
{
    printf("%s %zu %.60s\n", (const char *)context, strlen(line), line);
}

static void stderr_by_line(void)
{
    begin(&(wsp_settings){.on_stderr = print_line, .stderr_context = "stderr:"});
    while (wsp_step(host, -1))
        continue;
    printf("%s\n", wsp_failure(host));
    finish();
}

/* The app's own stderr is a pipe that nobody reads, or whose reader has gone. */
static void stderr_of(bool broken)
{
    int fds[2];
    if (pipe(fds) < 0)
        exit(3);
    if (broken)
        close(fds[0]);
    dup2(fds[1], STDERR_FILENO);
    signal(SIGPIPE, SIG_DFL);
    begin(NULL);
    connection(&plain);
    until(&opened, 1);
    printf("opened %d\n", opened);
    while (wsp_step(host, -1))
        continue;
    printf("%s\n", wsp_failure(host));
    finish();
}

static void stderr_blocked(void)
{
    stderr_of(false);
}

static void stderr_broken(void)
{
    stderr_of(true);
}

static void sigpipe(void)
{
    begin(NULL);
    signal(SIGPIPE, SIG_DFL);
    wsp_websocket *websocket = connection(&plain);
    until(&opened, 1);
    for (int i = 0; i < 100 && wsp_step(host, 10); i++)
        wsp_send_text(websocket, "x", 1, NULL, NULL);
    wsp_send_text(websocket, "x", 1, on_answer, "last");
    until(&answers, 2);
    finish();
}

static void text_as_it_is(void)
{
    static const char text[] = "a\0b\xC3\xA9";
    const char *const headers[] = {"name", "\xFF", NULL};
    const char *const names[] = {"\xFF", "value", NULL};
    begin(NULL);
    wsp_websocket *websocket = connection(&plain);
    printf("before its id: %d ", wsp_send_text(websocket, "x", 1, NULL, NULL));
    printf("%s\n", strerror(errno));
    until(&opened, 1);
    printf("not UTF-8: %d ", wsp_send_text(websocket, "\xFF", 1, on_answer, "never"));
    printf("%s\n", strerror(errno));
    printf("half a pair: %d ", wsp_send_text(websocket, "\xED\xA0\x80", 3, on_answer, "never"));
    printf("%s\n", strerror(errno));
    printf("header: %d\n",
        wsp_create(host, "ws://x/", &(wsp_options){.headers = headers}, &plain, on_answer, "never")
            != NULL);
    printf("host header: %d\n",
        wsp_create(host, "ws://x/", &(wsp_options){.host_headers = names}, &plain, on_answer,
            "never") != NULL);
    printf("protocol: %d\n",
        wsp_create(host, "ws://x/", &(wsp_options){.protocols = names}, &plain, on_answer, "never")
            != NULL);
    printf("reason: %d\n", wsp_close(websocket, 1000, "\xFF", -1, on_answer, "never"));
    wsp_send_text(websocket, text, sizeof text - 1, on_answer, "text");
    wsp_send_binary(websocket, "", 0, on_answer, "nothing");
    until(&answers, 3);
    until(&closes, 1);
    printf("received %zu in %d\n", received, messages);
    finish();
}

static void nothing(int number)
{
    (void)number;
}

static void interrupted(void)
{
    struct sigaction action = {.sa_handler = nothing}; /* without SA_RESTART */
    const struct itimerval often = {{0, 500}, {0, 500}};
    sigaction(SIGALRM, &action, NULL);
    begin(NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    wsp_websocket *websocket = connection(&plain);
    until(&opened, 1);
    for (int i = 1; i <= 20; i++) {
        wsp_send_text(websocket, "x", 1, on_answer, NULL);
        until(&messages, i);
    }
    printf("messages %d\n", messages);
    finish();
}

static void descriptors(void)
{
    bool low = getenv("WITHOUT_STANDARD_STREAMS") != NULL;
    int out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 50);
    for (int fd = 0; low && fd < 3; fd++)
        close(fd);
    begin(NULL);
    while (wsp_description(host) == NULL && wsp_step(host, -1))
        continue;
    DIR *directory = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fd != dirfd(directory) && fd < 50 && (low || fd > 2))
            dprintf(out, "%s%s\n", fd < 3 ? "standard " : "",
                fcntl(fd, F_GETFD) & FD_CLOEXEC ? "private" : "inherited");
    }
    closedir(directory);
    dprintf(out, "status %d\n", wsp_stop(host, 5000));
    wsp_free(host);
}

static void forget_on_text(void *context, wsp_websocket *websocket, const char *text, size_t size)
{
    (void)context, (void)text, (void)size;
    messages++;
    wsp_forget(websocket);
}

static void forget(void)
{
    wsp_listener listener = plain;
    listener.on_text = forget_on_text;
    begin(NULL);
    connection(&listener);
    until(&opened, 1);
    while (wsp_step(host, -1))
        continue;
    printf("messages %d closes %d\n", messages, closes);
    finish();
}

static void forget_before_the_answer(void)
{
    begin(NULL);
    wsp_forget(connection(&plain));
    while (wsp_step(host, -1))
        continue;
    printf("opened %d closes %d\n", opened, closes);
    finish();
}

static void forget_on_close(
    void *context, wsp_websocket *websocket, int code, const char *reason, const char *cause)
{
    on_close(context, websocket, code, reason, cause);
    wsp_forget(websocket);
}

static void forget_at_the_end(void)
{
    wsp_listener listener = plain;
    listener.on_close = forget_on_close;
    begin(NULL);
    connection(&listener);
    connection(&listener);
    until(&closes, 2);
    finish();
}

static void retry(void *context, const json_t *response, const wsp_error *error)
{
    (void)context, (void)response;
    answers++;
    if (error != NULL)
        wsp_background(host, NULL, retry, NULL);
}

static void retry_for_ever(void)
{
    begin(NULL);
    wsp_background(host, NULL, retry, NULL);
    double before = seconds();
    finish();
    printf("retried %d, in time %d\n", answers > 1, seconds() - before < 4);
}

static void stop(void)
{
    begin(NULL);
    connection(&plain);
    until(&opened, 1);
    double before = seconds();
    int status = wsp_stop(host, 5000), again = wsp_stop(host, 5000);
    printf("status %d %d after %.0f s, closes %d\n", status, again, seconds() - before, closes);
    wsp_background(host, NULL, on_answer, "later");
    while (wsp_step(host, -1))
        continue;
    wsp_free(host);
}

static void children_are_ignored(void)
{
    signal(SIGCHLD, SIG_IGN);
    begin(NULL);
    connection(&plain);
    while (wsp_step(host, -1))
        continue;
    finish();
}

static void any_request(void)
{
    begin(NULL);
    wsp_request(host, "later-action", json_pack("{s:i}", "x", 1), on_answer, "later");
    wsp_background(host, "shop", on_answer, "background");
    until(&answers, 2);
    finish();
}

/* A listener that blocks: the other connection's message must not wait for all of its. */
static void slow_text(void *context, wsp_websocket *websocket, const char *text, size_t size)
{
    on_text(context, websocket, text, size);
    const struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL);
}

static void tell_count(void *context, wsp_websocket *websocket, const char *text, size_t size)
{
    (void)context, (void)websocket, (void)text, (void)size;
    printf("other: %s\n", messages <= 3 ? "soon" : "late");
}

static void turns(void)
{
    wsp_listener slow = plain, other = plain;
    slow.on_text = slow_text;
    other.on_text = tell_count;
    begin(NULL);
    connection(&slow);
    connection(&other);
    until(&messages, 40);
    finish();
}

static void queue(void)
{
    begin(&(wsp_settings){.queue_messages = 4});
    wsp_websocket *websocket = connection(&plain);
    until(&opened, 1);
    wsp_hold(websocket, true);
    wsp_request(host, "go", json_object(), on_answer, "go");
    until(&answers, 2); /* the plugin answers once it has been asked to pause */
    printf("held: messages %d\n", messages);
    wsp_hold(websocket, false);
    until(&messages, 6);
    wsp_request(host, "resumed", json_object(), on_answer, "resumed");
    until(&answers, 3);
    finish();
}

/* --- must hold --- */

/* So many events wait for a connection that is held, and a plugin that cannot pause. */
static void many_events(void)
{
    int count = atoi(getenv("COUNT"));
    begin(NULL);
    wsp_websocket *websocket = connection(&plain);
    until(&opened, 1);
    wsp_hold(websocket, true);
    wsp_request(host, "go", json_object(), on_answer, "go");
    until(&answers, 2);
    wsp_hold(websocket, false);
    until(&messages, count);
    printf("cpu %f\n", cpu_seconds());
    finish();
}

/* So many requests wait, and are answered beginning with the last. */
static void many_requests(void)
{
    int count = atoi(getenv("COUNT"));
    begin(NULL);
    wsp_websocket *websocket = connection(&plain);
    until(&opened, 1);
    for (int i = 0; i < count; i++)
        wsp_send_text(websocket, "x", 1, on_answer, NULL);
    until(&answers, count + 1);
    printf("cpu %f\n", cpu_seconds());
    finish();
}

static void long_line(void)
{
    size_t size = (size_t)atoi(getenv("COUNT"));
    char *text = malloc(size);
    if (text == NULL)
        exit(3);
    memset(text, 'x', size);
    begin(NULL);
    wsp_websocket *websocket = connection(&plain);
    until(&opened, 1);
    wsp_send_text(websocket, text, size, on_answer, "send");
    until(&messages, 1);
    printf("received %zu\ncpu %f\n", received, cpu_seconds());
    free(text);
    finish();
}

/* A server floods; a message takes 50 ms, six seconds long. */
static double ready_at;
static wsp_websocket *flooding;

static void work(
    void *context, wsp_websocket *websocket, const unsigned char *data, size_t size)
{
    on_binary(context, websocket, data, size);
    if (getenv("BLOCKING") != NULL) {
        const struct timespec pause = {.tv_nsec = 50000000};
        nanosleep(&pause, NULL);
    } else {
        ready_at = seconds() + 0.05;
        wsp_hold(websocket, true);
    }
}

static void flood(void)
{
    wsp_listener listener = plain;
    listener.on_binary = work;
    begin(NULL);
    flooding = wsp_create(host, getenv("URL"), NULL, &listener, on_answer, "create");
    until(&opened, 1);
    long before = resident_kib(), most = before;
    for (double end = seconds() + 6; seconds() < end;) {
        wsp_step(host, 10);
        if (seconds() >= ready_at)
            wsp_hold(flooding, false);
        long now = resident_kib();
        most = now > most ? now : most;
    }
    printf("grown %ld received %zu messages %d\n", most - before, received, messages);
    getchar(); /* the test looks at the server, at its own time */
    finish();
}

int main(int argc, char *argv[])
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"start", start},
        {"start_with_calls", start_with_calls},
        {"arguments", arguments},
        {"plain_arguments", plain_arguments},
        {"stderr_by_line", stderr_by_line},
        {"stderr_blocked", stderr_blocked},
        {"stderr_broken", stderr_broken},
        {"sigpipe", sigpipe},
        {"text_as_it_is", text_as_it_is},
        {"interrupted", interrupted},
        {"descriptors", descriptors},
        {"forget", forget},
        {"forget_before_the_answer", forget_before_the_answer},
        {"forget_at_the_end", forget_at_the_end},
        {"retry_for_ever", retry_for_ever},
        {"stop", stop},
        {"children_are_ignored", children_are_ignored},
        {"any_request", any_request},
        {"turns", turns},
        {"queue", queue},
        {"many_events", many_events},
        {"many_requests", many_requests},
        {"long_line", long_line},
        {"flood", flood},
    };
    if (argc < 3)
        return 3;
    setvbuf(stdout, NULL, _IOLBF, 0);
    command = (const char *const *)argv + 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            return 0;
        }
    }
    return 3;
}
