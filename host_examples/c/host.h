/*
 * A host for wsplugin to copy: host.h and host.c, POSIX and C11, and the JSON library jansson.
 *
 * demo.c beside this file shows it at work and says how to run it.
 *
 * Nothing here waits but wsp_step and wsp_stop; there are no threads and no signal handlers, and
 * all functions of a host are called from one thread. Requests only take note of what to write;
 * wsp_step reads and writes, and from it alone (wsp_stop calls it) come the calls of answers and
 * listeners. In them every request may be made, but not wsp_step, wsp_stop and wsp_free; and they
 * return: no longjmp, no C++ exception may leave them.
 *
 * A request that cannot be made returns false (wsp_create: NULL): nothing was sent, its answer is
 * never called, and errno says why: EILSEQ (what was given is not UTF-8), ENOTCONN (the connection
 * has no id yet, or was refused one), ENOMEM. Every other request gets its answer, whatever
 * happens: if the plugin dies, hangs up or writes nonsense, or if there is no memory to read what
 * it writes, then the host gives it up, all that waits is answered with "plugin-ended", and every
 * connection has its on_close (1006, "failure").
 */
#ifndef WSP_HOST_H
#define WSP_HOST_H

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wsp_host wsp_host;           /* the plugin as a child process */
typedef struct wsp_websocket wsp_websocket; /* one connection */

/* Why a request failed: a stable code, and words for people. The plugin's codes, and two more:
 * "plugin-ended" (it is gone, or is none, and message says why) and "invalid-answer" (it answered
 * with what is no answer). */
typedef struct wsp_error {
    const char *code;
    const char *message;
} wsp_error;

/* Called once for every request, with its response or else its error. Whatever is handed to an
 * answer or a listener is valid during the call. An answer may be NULL. */
typedef void wsp_answer(void *context, const json_t *response, const wsp_error *error);

/* What happens to a connection; any may be NULL. on_close comes once and last, even if the plugin
 * dies. Its cause is host, server, limit, background, shutdown or failure. */
typedef struct wsp_listener {
    void *context;
    /* facts: headers (of the HTTP response, names in lower case), and from 1.1 on protocol,
     * extensions and profile */
    void (*on_open)(void *context, wsp_websocket *websocket, const json_t *facts);
    void (*on_text)(void *context, wsp_websocket *websocket, const char *text, size_t size);
    void (*on_binary)(
        void *context, wsp_websocket *websocket, const unsigned char *data, size_t size);
    /* status (or 0): of an HTTP refusal. The close comes next. */
    void (*on_error)(
        void *context, wsp_websocket *websocket, const char *code, const char *message, int status);
    void (*on_close)(
        void *context, wsp_websocket *websocket, int code, const char *reason, const char *cause);
} wsp_listener;

/* Options of wsp_spawn; what is zero is the default. */
typedef struct wsp_settings {
    /* Leave the command as it is: a plugin on another machine or in a container cannot watch this
     * process. Else --parent-pid (of this process) and --exit-timeout 1.5 are appended, unless the
     * command names them. */
    bool plain_command;
    long start_ms; /* for the answer to plugin-describe; 5,000 */
    /* Called with each line of the plugin's stderr. If it is NULL, they go to this process's own
     * stderr; what that one does not take at once may be lost. */
    void (*on_stderr)(void *context, const char *line);
    void *stderr_context;
    /* How much of a connection's messages waits here, before its server is paused; it is resumed
     * when half of that has been handed out. 1 MiB, 1,024 messages. */
    size_t queue_bytes;
    size_t queue_messages;
} wsp_settings;

/* Options of wsp_create; what is zero is the plugin's default. */
typedef struct wsp_options {
    const char *const *headers;      /* name, value, name, value, NULL */
    const char *const *protocols;    /* subprotocol, NULL */
    const char *const *host_headers; /* as headers: the host's own word, which an app cannot say */
    const char *app;                 /* on whose behalf */
    long timeout_ms;
    bool no_per_message_deflate;
    bool delay_small_messages; /* tcpNoDelay: false */
} wsp_options;

/* Start the plugin; command is its argument vector, with NULL at the end; settings may be NULL.
 * NULL and errno if that is not possible. Whether it is a wsplugin shows when it answers: requests
 * may be made before, and fail with words if it is none. */
wsp_host *wsp_spawn(const char *const command[], const wsp_settings *settings);

/* Its answer to plugin-describe (version, actions, features, limits), or NULL before that. */
const json_t *wsp_description(const wsp_host *host);

/* Whether its description lists this feature. */
bool wsp_has_feature(const wsp_host *host, const char *feature);

/* How the plugin ended, in words; NULL as long as it runs. */
const char *wsp_failure(const wsp_host *host);

/* Read and write what is ready, waiting for at most timeout_ms (-1: without end), and call answers
 * and listeners. Several connections take turns, so that one whose listener takes its time delays
 * the others by one message. False when the plugin has ended and nothing is left to call. */
bool wsp_step(wsp_host *host, int timeout_ms);

/* What to wait for in an event loop of the app's own before wsp_step(host, 0), and for how many
 * milliseconds at most (-1: without end). */
int wsp_poll_set(const wsp_host *host, struct pollfd set[4]);

/* Create a connection; the answer comes at once, before it is open, and no other request may be
 * made on it before. options may be NULL. */
wsp_websocket *wsp_create(wsp_host *host, const char *url, const wsp_options *options,
    const wsp_listener *listener, wsp_answer *answer, void *context);

/* Send a message. Wait for the answer before the next: it is the back-pressure. */
bool wsp_send_text(wsp_websocket *websocket, const char *text, size_t size, wsp_answer *answer,
    void *context);
bool wsp_send_binary(wsp_websocket *websocket, const void *data, size_t size, wsp_answer *answer,
    void *context);

/* For a consumer that is not ready: call no listener of this connection as long as it is held.
 * What comes meanwhile waits in its queue, and when that is full the plugin pauses the server (a
 * plugin without the feature "pause" does not, and the queue grows). wsp_stop calls the listeners
 * of all. */
void wsp_hold(wsp_websocket *websocket, bool held);

/* Ask the plugin not to read from the server: after the answer nothing comes from it, and what has
 * come before is handed out (but see wsp_hold), unless the connection's end is decided meanwhile.
 * Pause for seconds, not minutes: the server's pings wait. */
bool wsp_pause(wsp_websocket *websocket, wsp_answer *answer, void *context);
bool wsp_resume(wsp_websocket *websocket, wsp_answer *answer, void *context);

/* Ask the server for a sign of life; the response has "rtt" in milliseconds. Without one within
 * timeout_ms (0: the plugin's default) the connection fails. */
bool wsp_ping(wsp_websocket *websocket, long timeout_ms, wsp_answer *answer, void *context);

/* Start the closing handshake; on_close tells its end. 1005 stands for a Close frame without a
 * code. timeout_ms is for this close alone, 0 cuts the connection; -1: the plugin's default. */
bool wsp_close(wsp_websocket *websocket, int code, const char *reason, long timeout_ms,
    wsp_answer *answer, void *context);

/* Free a connection, in a listener too. One that has not had its on_close is closed (1000), and
 * calls no listener any more; answers that wait come. Those that are left wsp_free frees. */
void wsp_forget(wsp_websocket *websocket);

/* Tell that the app leaves the screen: ends all connections (app: those of this one, NULL: of all),
 * then answers. */
bool wsp_background(wsp_host *host, const char *app, wsp_answer *answer, void *context);

/* Make any other request. Steals the payload; NULL is one that could not be made. */
bool wsp_request(
    wsp_host *host, const char *action, json_t *payload, wsp_answer *answer, void *context);

/* End the plugin in good order and return its exit status, 128 and the signal's number if one
 * killed it, -1 if it is unknown (SIGCHLD is ignored, or others wait for all children). Its input
 * is closed first: it then closes the connections and ends within two seconds; only one that has
 * not ended after grace_ms (5,000 is good) is killed. A second call returns the same. */
int wsp_stop(wsp_host *host, int grace_ms);

/* Free everything, after wsp_stop. */
void wsp_free(wsp_host *host);

#ifdef __cplusplus
}
#endif

#endif
