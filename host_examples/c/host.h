/*
 * A host for wsplugin to copy: host.h and host.c, POSIX and C11, and the JSON library jansson.
 *
 * demo.c beside this file shows it at work and says how to run it.
 *
 * Nothing here waits but wsp_step and wsp_stop, and all functions below are called from one
 * thread. Requests only take note of what to write; wsp_step reads and writes, and from it alone
 * come the calls of answers and listeners. In them every request may be made, but not wsp_step,
 * wsp_stop and wsp_free. Out of memory ends the process.
 */
#ifndef WSP_HOST_H
#define WSP_HOST_H

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct wsp_host wsp_host;           /* the plugin as a child process */
typedef struct wsp_websocket wsp_websocket; /* one connection */

/* Why a request failed: a stable code, and words for people. The plugin's codes, and two more:
 * "plugin-ended" (it is gone, and message says why) and "invalid-text" (what was given is not
 * UTF-8, and was not sent). */
typedef struct wsp_error {
    const char *code;
    const char *message;
} wsp_error;

/* Called once for every request, with its response or else its error. Whatever is handed to an
 * answer or a listener is valid during the call. */
typedef void wsp_answer(void *context, const json_t *response, const wsp_error *error);

/* What happens to a connection; any may be NULL. on_close comes once and last, even if the plugin
 * dies. Its cause is host, server, limit, background, shutdown or failure. */
typedef struct wsp_listener {
    void *context;
    /* headers: of the HTTP response, names in lower case */
    void (*on_open)(void *context, wsp_websocket *websocket, const json_t *headers);
    void (*on_text)(void *context, wsp_websocket *websocket, const char *text, size_t size);
    void (*on_binary)(
        void *context, wsp_websocket *websocket, const unsigned char *data, size_t size);
    /* status (or 0): of an HTTP refusal. The close comes next. */
    void (*on_error)(
        void *context, wsp_websocket *websocket, const char *code, const char *message, int status);
    void (*on_close)(
        void *context, wsp_websocket *websocket, int code, const char *reason, const char *cause);
} wsp_listener;

/* Options of wsp_create; what is zero is the plugin's default. */
typedef struct wsp_options {
    const char *const *headers;   /* name, value, name, value, NULL */
    const char *const *protocols; /* subprotocol, NULL */
    long timeout_ms;
    bool no_per_message_deflate;
} wsp_options;

/* Start the plugin; command is its argument vector, with NULL at the end. NULL and errno if that
 * is not possible. */
wsp_host *wsp_spawn(const char *const command[]);

/* Read and write what is ready, waiting for at most timeout_ms (-1: without end), and call answers
 * and listeners. False when the plugin has ended and nothing is left to call. */
bool wsp_step(wsp_host *host, int timeout_ms);

/* What to wait for in an event loop of the app's own, before wsp_step(host, 0). */
void wsp_poll_set(const wsp_host *host, struct pollfd set[3]);

/* Create a connection; the answer comes at once, before it is open, and no other request may be
 * made on it before. */
wsp_websocket *wsp_create(wsp_host *host, const char *url, const wsp_options *options,
    const wsp_listener *listener, wsp_answer *answer, void *context);

/* Send a message. Wait for the answer before the next: it is the back-pressure. */
void wsp_send_text(wsp_websocket *websocket, const char *text, size_t size, wsp_answer *answer,
    void *context);
void wsp_send_binary(wsp_websocket *websocket, const unsigned char *data, size_t size,
    wsp_answer *answer, void *context);

/* Start the closing handshake; on_close tells its end. */
void wsp_close(wsp_websocket *websocket, int code, const char *reason, wsp_answer *answer,
    void *context);

/* Free a connection once its on_close has been called, or its create has failed. Those that are
 * left wsp_free frees. */
void wsp_forget(wsp_websocket *websocket);

/* Tell that the app leaves the screen: ends all connections, then answers. */
void wsp_background(wsp_host *host, wsp_answer *answer, void *context);

/* Ask for the plugin's version, actions and limits. */
void wsp_describe(wsp_host *host, wsp_answer *answer, void *context);

/* End the plugin in good order and return its exit status, 128 and the signal's number if one
 * killed it. Its input is closed first: it then closes the connections and ends; only one that has
 * not ended after the grace is killed. */
int wsp_stop(wsp_host *host, int grace_ms);

/* Free everything, after wsp_stop. */
void wsp_free(wsp_host *host);

#endif
