// Package wsplugin gives an app WebSockets through wsplugin, which it runs as a child process.
// It needs nothing but the standard library: copy host.go with stderr_unix.go and
// stderr_other.go, and supervisor.go if the plugin shall be started again after it has died.
//
//	host, err := wsplugin.Start(ctx, wsplugin.Options{
//		Command: []string{"wsplugin", "--allow-host", "example.com"},
//	})
//	if err != nil {
//		return err
//	}
//	defer host.Close()
//	websocket, err := host.Create(ctx, "wss://example.com/", nil)
//	if err != nil {
//		return err
//	}
//	for event := range websocket.Events(ctx) {
//		switch event := event.(type) {
//		case wsplugin.Open:
//			err = websocket.SendText(ctx, "hello")
//		case wsplugin.Message:
//			fmt.Printf("%s\n", event.Data)
//		case wsplugin.Close:
//			fmt.Println(event.Code, event.Reason)
//		}
//	}
//
// Events are queued from Create on, so none is lost. A queue that is full holds back its own
// server, not the others. All methods may be called from any goroutine.
package wsplugin

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What a plugin has that was told to end, before it is killed.
const grace = 5 * time.Second

// How long the rest of the output is waited for after the process has ended. Another process may
// have inherited the pipe and hold it open for ever.
const restOfOutput = time.Second

// Event is what happens to a connection: [Open], [Message], [Error] or [Close].
type Event interface{ isEvent() }

// Open says that the connection is open.
type Open struct {
	Headers              map[string]string  // of the HTTP response, names in lower case
	Protocol, Extensions string             // as the server has chosen and negotiated, or ""
	Profile              map[string]float64 // the times of the opening, in ms; nil before wsplugin 1.1
}

// Message is a message from the server.
type Message struct {
	Text bool // and then Data is UTF-8
	Data []byte
}

// Error says that the connection has failed; its Close comes next.
type Error struct {
	Code, Message string            // the code is stable, the message for people
	Status        int               // of the HTTP response that was none of a WebSocket, or 0
	Headers       map[string]string // of that response, or nil
}

// Close says that the connection has ended: the last event of each, even if the plugin dies.
type Close struct {
	Code          int
	Reason, Cause string // cause: "host", "server", "limit", "background", "shutdown" or "failure"
}

func (Open) isEvent()    {}
func (Message) isEvent() {}
func (Error) isEvent()   {}
func (Close) isEvent()   {}

// RequestError says that the plugin has refused a request: a stable code, and words for people.
type RequestError struct {
	Code    string
	Message string `json:"errMsg"`
}

func (e *RequestError) Error() string { return e.Code + ": " + e.Message }

// PluginEnded says that the plugin is gone, or could not be started, and why: what was asked of
// it will not be answered.
type PluginEnded struct {
	Reason string
	cause  error
	// The request has not even been written: it can be made of another plugin.
	unsent bool
}

func (e *PluginEnded) Error() string { return e.Reason }

// Unwrap returns the error of the operating system or of the context, if there was one.
func (e *PluginEnded) Unwrap() error { return e.cause }

// ErrText says that a text is not UTF-8: the request has not been sent.
var ErrText = errors.New("a text is not valid UTF-8")

// Options say how to run the plugin. The zero value is good.
type Options struct {
	// Command is the plugin's command line, by default "wsplugin" alone. The options --parent-pid
	// and --exit-timeout are appended unless it has them.
	Command []string
	// CommandAsIs appends nothing: where the PID would mean nothing (ssh, containers).
	CommandAsIs bool
	// Stderr gets what the plugin writes to its stderr, a line at a time: by default the stderr
	// of this process, nowhere with io.Discard. One that blocks misses lines, and stops nothing.
	Stderr io.Writer
	// StartTimeout is the time that the plugin has to describe itself, by default 5 s.
	StartTimeout time.Duration
	// QueueBytes and QueueMessages are how much of a connection may wait for Next before its
	// server is held back, by default 1 MiB or 1,024 messages. What is on the way comes besides.
	QueueBytes, QueueMessages int
}

// commandLine returns the command with what is appended to it.
func (o Options) commandLine() []string {
	command := slices.Clone(o.Command)
	if len(command) == 0 {
		command = []string{"wsplugin"}
	}
	for _, option := range [][]string{{"--parent-pid", strconv.Itoa(os.Getpid())}, {"--exit-timeout", "1.5"}} {
		named := func(arg string) bool { return arg == option[0] || strings.HasPrefix(arg, option[0]+"=") }
		if !o.CommandAsIs && !slices.ContainsFunc(o.Command, named) {
			command = append(command, option...)
		}
	}
	return command
}

// Description is what the plugin says of itself.
type Description struct {
	Name, Version     string
	Protocol          int
	Actions, Features []string
	Limits            map[string]float64 // in bytes, ms, and connections
}

// Host runs the plugin as a child process.
type Host struct {
	options           Options
	process           *exec.Cmd
	wakeWriter        chan struct{}
	description       Description
	ids               atomic.Int64
	readers           sync.WaitGroup // of stdout and stderr
	breach, lastError string         // why stdout is no longer read; the last line of stderr
	status            int            // of the process
	ended             chan struct{}  // closed when the plugin is gone and everybody knows

	mu         sync.Mutex
	lines      [][]byte // on their way to the plugin; nil ends its stdin
	pending    map[int64]*call
	websockets map[string]*WebSocket
	err        error // why no request is taken any more: a *PluginEnded
}

// call is a request.
type call struct {
	creates  *WebSocket
	finished atomic.Bool
	done     chan struct{} // closed when there is one of these:
	response json.RawMessage
	err      error
}

// request is a line to the plugin. The id comes first: of a line that is too long the plugin
// reads no more than the start.
type request struct {
	ID      int64             `json:"id"`
	Action  string            `json:"action"`
	App     string            `json:"app,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Payload any               `json:"payload,omitempty"`
}

// Start runs the plugin and asks what it is. The context is that of the start alone; afterwards
// the plugin runs until [Host.Stop]. The error is a [*PluginEnded], and no process is left then.
func Start(ctx context.Context, options Options) (*Host, error) {
	options.QueueBytes = cmp.Or(options.QueueBytes, 1<<20)
	options.QueueMessages = cmp.Or(options.QueueMessages, 1024)
	options.StartTimeout = cmp.Or(options.StartTimeout, 5*time.Second)
	options.Stderr = cmp.Or(options.Stderr, processStderr())
	command := options.commandLine()
	h := &Host{
		options:    options,
		process:    exec.Command(command[0], command[1:]...),
		wakeWriter: make(chan struct{}, 1),
		ended:      make(chan struct{}),
		pending:    map[int64]*call{},
		websockets: map[string]*WebSocket{},
	}
	stdin, err1 := h.process.StdinPipe()
	stdout, err2 := h.process.StdoutPipe()
	stderr, err3 := h.process.StderrPipe()
	err := errors.Join(err1, err2, err3, h.process.Start())
	if err == nil {
		h.readers.Add(2)
		go h.write(stdin)
		go h.read(stdout)
		go h.readStderr(stderr)
		go h.watch(stdin, stdout, stderr)
		if err = h.describe(ctx); err == nil {
			return h, nil
		}
		h.kill()
		<-h.ended
	}
	words := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		words = fmt.Sprintf("the plugin has not described itself within %v", options.StartTimeout)
	} else if h.status == 2 && unknownOption.MatchString(h.lastError) {
		words += "; this wsplugin is of 1.0; update it or start it without these options"
	}
	words = fmt.Sprintf("%s (command: %s)", words, strings.Join(command, " "))
	return nil, &PluginEnded{Reason: words, cause: err, unsent: true}
}

var unknownOption = regexp.MustCompile("unrecognized arguments:.* --(parent-pid|exit-timeout)")

func (h *Host) describe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.options.StartTimeout)
	defer cancel()
	response, err := h.Request(ctx, "plugin-describe", nil)
	if err != nil {
		return err
	}
	if json.Unmarshal(response, &h.description) != nil ||
		h.description.Name != "wsplugin" || h.description.Protocol != 1 {
		return fmt.Errorf("the plugin is no wsplugin of protocol 1, but %.200s", response)
	}
	return nil
}

// Description returns what the plugin has said of itself at its start.
func (h *Host) Description() Description { return h.description }

// Has tells whether the plugin has a feature, such as "ping".
func (h *Host) Has(feature string) bool { return slices.Contains(h.description.Features, feature) }

// PID returns the process ID of the plugin.
func (h *Host) PID() int { return h.process.Process.Pid }

// Done returns a channel that is closed when the plugin is gone, whoever has ended it.
func (h *Host) Done() <-chan struct{} { return h.ended }

// Err returns nil as long as the plugin is there, and then why it is gone: a [*PluginEnded].
func (h *Host) Err() error {
	select {
	case <-h.ended:
		return h.err
	default:
		return nil
	}
}

// CreateOptions are those of [Host.Create]. The zero value is good.
type CreateOptions struct {
	Headers             map[string]string `json:"headers,omitempty"` // of the opening request
	Protocols           []string          `json:"protocols,omitempty"`
	Timeout             time.Duration     `json:"-"`                           // until it must be open; 0: the plugin's
	NoPerMessageDeflate Off               `json:"perMessageDeflate,omitempty"` // offer no compression
	NoTCPNoDelay        Off               `json:"tcpNoDelay,omitempty"`        // let the system gather small packets
	App                 string            `json:"-"`                           // the app that it is for, if the host serves several
	HostHeaders         map[string]string `json:"-"`                           // the host's own, in place of the app's of that name
}

// Off is true to turn off what the plugin does by default.
type Off bool

// MarshalJSON writes what the plugin shall then be told.
func (o Off) MarshalJSON() ([]byte, error) { return json.Marshal(!bool(o)) }

// Create creates a connection. It returns at once, before the connection is open. If the context
// ends before the answer has come, the connection is closed again.
func (h *Host) Create(ctx context.Context, url string, options *CreateOptions) (*WebSocket, error) {
	options = cmp.Or(options, &CreateOptions{})
	line := request{Action: "websocket-create", App: options.App, Headers: options.HostHeaders}
	line.Payload = struct {
		URL        string `json:"url"`
		BinaryType string `json:"binaryType"`
		Timeout    int64  `json:"timeout,omitempty"`
		*CreateOptions
	}{url, "base64", options.Timeout.Milliseconds(), options}
	w := &WebSocket{host: h, wake: make(chan struct{}, 1)}
	if _, err := h.begin(line, w).wait(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// Background tells that an app leaves the screen, or all of them if it names none: it ends their
// connections, then returns.
func (h *Host) Background(ctx context.Context, app string) error {
	_, err := h.begin(request{Action: "app-background", App: app}, nil).wait(ctx)
	return err
}

// Close stops the plugin, and returns an error if it did not end with status 0.
func (h *Host) Close() error {
	if h.Stop(context.Background()) != 0 {
		return h.err
	}
	return nil
}

// Stop ends the plugin in good order and returns its exit status; 128 + n stands for signal n.
// Its stdin is closed: the plugin then closes the connections and ends, within two seconds. One
// that has not ended after five seconds, or when the context does, is killed.
func (h *Host) Stop(ctx context.Context) int {
	h.mu.Lock()
	if h.err == nil {
		h.err = &PluginEnded{Reason: "the host has stopped the plugin", unsent: true}
	}
	h.mu.Unlock()
	h.closeInput()
	defer context.AfterFunc(ctx, h.kill)()
	<-h.ended
	return h.status
}

func (h *Host) kill() {
	_ = h.process.Process.Kill() // or it has ended meanwhile
}

// --- requests ---------------------------------------------------------------------------------

// Request makes a request of the plugin and returns its response. The error is a [*RequestError]
// if the plugin has refused it, a [*PluginEnded] if it ended before the answer, that of the
// context (and then the request may still be carried out), or says that it cannot be encoded.
func (h *Host) Request(ctx context.Context, action string, payload any) (json.RawMessage, error) {
	return h.begin(request{Action: action, Payload: payload}, nil).wait(ctx)
}

// begin puts a request on its way, without waiting for anything.
func (h *Host) begin(line request, creates *WebSocket) *call {
	line.ID = h.ids.Add(1)
	var data bytes.Buffer
	encoder := json.NewEncoder(&data) // which writes the LF as well
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(line)
	if bytes.Contains(data.Bytes(), []byte(`\ufffd`)) && replaced.Match(data.Bytes()) {
		err = ErrText
	}
	c := &call{done: make(chan struct{}), creates: creates}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err = cmp.Or(err, h.err); err != nil {
		c.finish(nil, err)
	} else {
		h.pending[line.ID] = c
		h.lines = append(h.lines, data.Bytes())
		signal(h.wakeWriter)
	}
	return c
}

// The encoder puts this escape in the place of what is no UTF-8. A U+FFFD that somebody has
// written it leaves as it is.
var replaced = regexp.MustCompile(`[^\\](\\\\)*\\ufffd`)

func (c *call) wait(ctx context.Context) (json.RawMessage, error) {
	defer context.AfterFunc(ctx, func() { c.finish(nil, ctx.Err()) })()
	<-c.done
	return c.response, c.err
}

// finish tells whether anybody still waited.
func (c *call) finish(response json.RawMessage, err error) bool {
	if c.finished.Swap(true) {
		return false
	}
	c.response, c.err = response, err
	close(c.done)
	return true
}

// --- the process ------------------------------------------------------------------------------

// write hands lines to the plugin in a goroutine of its own: nobody else waits for a plugin that
// does not read, least of all the reader of its output.
func (h *Host) write(stdin io.WriteCloser) {
	for range h.wakeWriter {
		h.mu.Lock()
		lines := h.lines
		h.lines = nil
		h.mu.Unlock()
		for _, line := range lines {
			if line == nil {
				stdin.Close()
				return
			}
			if _, err := stdin.Write(line); err != nil {
				h.closeInput() // of a plugin that has ended, or lives on without reading
				return
			}
		}
	}
}

// closeInput closes stdin behind the lines that are on their way, and bounds what is left of the
// plugin's life.
func (h *Host) closeInput() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, nil)
	signal(h.wakeWriter)
	time.AfterFunc(grace, h.kill)
}

// signal wakes whoever waits for the channel, which has room for one.
func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// read reads stdout to its end, always: a line is whole only when its LF has come.
func (h *Host) read(stdout io.Reader) {
	reader := bufio.NewReaderSize(stdout, 65536)
	line, err := reader.ReadBytes('\n')
	for ; err == nil && h.breach == ""; line, err = reader.ReadBytes('\n') {
		if breach := h.take(line); breach != nil {
			h.breach = fmt.Sprintf("wrote what is no line of its protocol (%v): %.200s", breach, bytes.TrimSpace(line))
			h.kill()
		}
	}
	h.closeInput() // a plugin that can tell nothing any more is of no use
	h.readers.Done()
}

// output is a line from the plugin: an answer or an event.
type output struct {
	ID       any
	Response json.RawMessage
	Error    *RequestError
	Event    string
	Payload  struct {
		ID, Name string
		Payload  struct {
			Headers                     map[string]string
			Protocol, Extensions        string
			Profile                     map[string]float64
			Type, ErrMsg, Reason, Cause string
			Data, Code                  any // by the name of the event
			Status                      int
		}
	}
}

// take does what a line says. What a later plugin may add is passed over.
func (h *Host) take(line []byte) error {
	var message output
	err := json.Unmarshal(line, &message)
	if _, other := err.(*json.UnmarshalTypeError); err != nil && !other {
		return err // where a type is another, what is left has been decoded
	}
	if message.Event == "websocket-event" {
		return h.takeEvent(&message)
	}
	return h.takeAnswer(&message)
}

func (h *Host) takeAnswer(message *output) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, _ := message.ID.(float64)
	c := h.pending[int64(id)]
	if c == nil {
		return nil // this host has asked nothing under another id
	}
	var created struct{ ID string }
	w := c.creates
	var err error
	_ = json.Unmarshal(message.Response, &created) // or it has no ID
	if message.Error != nil {
		err = message.Error
	} else if message.Response == nil || w != nil && created.ID == "" {
		return errors.New("an answer without response or error")
	} else if w != nil {
		w.id = created.ID
		// Before the next line is looked at, which may be an event of this connection.
		h.websockets[w.id] = w
	}
	delete(h.pending, int64(id))
	if !c.finish(message.Response, err) && err == nil && w != nil {
		go w.leave() // which needs the lock
	}
	return nil
}

func (h *Host) takeEvent(message *output) error {
	event := message.Payload
	h.mu.Lock()
	w := h.websockets[event.ID]
	if event.Name == "close" {
		delete(h.websockets, event.ID)
	}
	h.mu.Unlock()
	if w == nil {
		return nil
	}
	facts := event.Payload
	switch event.Name {
	case "open":
		w.take(Open{facts.Headers, facts.Protocol, facts.Extensions, facts.Profile})
	case "message":
		text, _ := facts.Data.(string)
		switch facts.Type {
		case "text":
			w.take(Message{true, []byte(text)})
		case "base64":
			data, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return err
			}
			w.take(Message{false, data})
		}
	case "error":
		w.take(Error{fmt.Sprint(facts.Code), facts.ErrMsg, facts.Status, facts.Headers})
	case "close":
		code, _ := facts.Code.(float64)
		w.take(Close{int(code), facts.Reason, facts.Cause})
	}
	return nil
}

// readStderr reads stderr to its end and remembers its last line, which says why if the plugin
// fails. Somebody else passes the lines on: a terminal that has been stopped must not stop the
// plugin.
func (h *Host) readStderr(stderr io.Reader) {
	defer h.readers.Done()
	lines := make(chan []byte, 64)
	defer close(lines)
	go func() {
		for line := range lines {
			_, _ = h.options.Stderr.Write(line) // whoever cannot be written to misses it
		}
	}()
	for reader := bufio.NewReaderSize(stderr, 65536); ; {
		line, err := reader.ReadSlice('\n')
		if text := strings.TrimSpace(string(line)); text != "" {
			h.lastError = text[:min(len(text), 1000)]
			select {
			case lines <- bytes.Clone(line):
			default:
			}
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// watch waits for the end of the process and of its output. Then it fails what is pending, and
// closes every connection that had no Close yet.
func (h *Host) watch(pipes ...io.Closer) {
	state, _ := h.process.Process.Wait() // not that of exec, which would close unread pipes
	closePipes := func() {
		for _, pipe := range pipes {
			pipe.Close() // which wakes those who still read and write
		}
	}
	defer time.AfterFunc(restOfOutput, closePipes).Stop()
	h.readers.Wait()
	closePipes()
	h.status = state.ExitCode()
	how := fmt.Sprintf("ended with status %d", h.status)
	if wait, ok := state.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
		h.status = 128 + int(wait.Signal())
		how = fmt.Sprintf("was killed by signal %d", wait.Signal())
	}
	if h.breach != "" {
		how = h.breach
	} else if h.lastError != "" {
		how += ": " + h.lastError
	}
	reason := "the plugin " + how
	h.mu.Lock()
	h.err = &PluginEnded{Reason: reason, unsent: true}
	h.mu.Unlock() // and nobody comes in any more
	for _, c := range h.pending {
		c.finish(nil, &PluginEnded{Reason: reason})
	}
	for _, w := range h.websockets {
		w.take(Close{1006, reason, "failure"})
	}
	close(h.ended)
}

// --- one connection ---------------------------------------------------------------------------

// WebSocket is one connection, from [Host.Create].
type WebSocket struct {
	host *Host
	id   string
	wake chan struct{} // something has come

	looped atomic.Bool // somebody loops over the events, or has

	mu              sync.Mutex
	events          []Event
	bytes, messages int  // that wait
	left, over      bool // the loop was left; the Close has come
	paused, full    bool // by the app; and so the server is held back, too
	told            bool // the plugin was told to pause
}

// ID returns the plugin's id of this connection, which is in its log as well.
func (w *WebSocket) ID() string { return w.id }

// SendText sends a text, which must be UTF-8. It returns when the message has been handed to the
// connection: to wait for that before the next is the back-pressure.
func (w *WebSocket) SendText(ctx context.Context, text string) error {
	return w.request(ctx, "send", map[string]any{"type": "text", "data": text}, nil)
}

// SendBinary sends a binary message, as [WebSocket.SendText] sends a text.
func (w *WebSocket) SendBinary(ctx context.Context, data []byte) error {
	return w.request(ctx, "send", map[string]any{"type": "base64", "data": base64.StdEncoding.EncodeToString(data)}, nil)
}

// Close begins the closing handshake with code 1000 and returns without waiting. The [Close]
// event tells the end.
func (w *WebSocket) Close() error {
	w.begin("close", map[string]any{})
	return w.host.Err()
}

// CloseWith begins the closing handshake. Code 0 stands for 1000; 1005 sends none. The timeout is
// that of the closing handshake: 0 is the plugin's own, a negative one cuts the connection at once.
func (w *WebSocket) CloseWith(ctx context.Context, code int, reason string, timeout time.Duration) error {
	payload := map[string]any{"code": cmp.Or(code, 1000), "reason": reason}
	if timeout != 0 {
		payload["timeout"] = max(0, timeout.Milliseconds())
	}
	return w.request(ctx, "close", payload, nil)
}

// Ping asks the server for a sign of life and returns how long it took. Without one within the
// timeout (0: the plugin's) the connection fails: what to do when the network has changed.
func (w *WebSocket) Ping(ctx context.Context, timeout time.Duration) (time.Duration, error) {
	payload := map[string]any{}
	if timeout != 0 {
		payload["timeout"] = timeout.Milliseconds()
	}
	var pong struct{ RTT float64 }
	err := w.request(ctx, "ping", payload, &pong)
	return time.Duration(pong.RTT * float64(time.Millisecond)), err
}

// Pause holds back the server until [WebSocket.Resume]. Messages that have come already still
// wait for Next. For seconds, not minutes: the server's Pings wait, too.
func (w *WebSocket) Pause(ctx context.Context) error { return w.hold(ctx, true) }

// Resume lets the messages come again, at once or as soon as the queue has room.
func (w *WebSocket) Resume(ctx context.Context) error { return w.hold(ctx, false) }

func (w *WebSocket) hold(ctx context.Context, paused bool) error {
	w.mu.Lock()
	w.paused = paused
	c := w.tell()
	w.mu.Unlock()
	_, err := c.wait(ctx)
	return err
}

// tell has the plugin pause or resume, whatever it was told before. The caller has the lock.
func (w *WebSocket) tell() *call {
	w.told = w.paused || w.full
	action := map[bool]string{true: "pause", false: "resume"}[w.told]
	return w.begin(action, map[string]any{})
}

// Next returns the next event, and io.EOF behind the Close.
func (w *WebSocket) Next(ctx context.Context) (Event, error) {
	for {
		if event, err := w.pop(); event != nil || err != nil {
			return event, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Events yields the events as they come, up to the Close. Who leaves the loop before, or ends its
// context, closes the connection. A second loop over a connection ends at once.
func (w *WebSocket) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		if w.looped.Swap(true) {
			return
		}
		defer w.leave()
		for {
			event, err := w.Next(ctx)
			if err != nil || !yield(event) {
				return
			}
		}
	}
}

// leave closes a connection that nobody listens to any more.
func (w *WebSocket) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = true
	w.events = nil
	if !w.over {
		w.begin("close", map[string]any{}) // unless the plugin is gone, and then it is closed
	}
}

// take queues an event that the host has read.
func (w *WebSocket) take(event Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, w.over = event.(Close)
	if !w.left {
		w.events = append(w.events, event)
		w.count(event, 1)
	}
	signal(w.wake)
}

func (w *WebSocket) pop() (event Event, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) > 0 {
		event, w.events[0] = w.events[0], nil // the array lives on, the message must not
		w.events = w.events[1:]
		w.count(event, -1)
	} else if w.over {
		err = io.EOF
	}
	if len(w.events) > 0 || w.over {
		signal(w.wake) // others may wait in Next, too
	}
	return event, err
}

// count counts what waits, and holds back a server whose queue is full until it is half empty.
func (w *WebSocket) count(event Event, sign int) {
	message, ok := event.(Message)
	if !ok || !w.host.Has("pause") {
		return
	}
	w.bytes += sign * len(message.Data)
	w.messages += sign
	bytes, messages := w.host.options.QueueBytes, w.host.options.QueueMessages
	if w.bytes >= bytes || w.messages >= messages {
		w.full = true
	} else if w.bytes <= bytes/2 && w.messages <= messages/2 {
		w.full = false
	}
	if w.told != (w.paused || w.full) && !w.over {
		w.tell() // unless the plugin is gone
	}
}

func (w *WebSocket) begin(action string, payload map[string]any) *call {
	payload["id"] = w.id
	return w.host.begin(request{Action: "websocket-" + action, Payload: payload}, nil)
}

func (w *WebSocket) request(ctx context.Context, action string, payload map[string]any, response any) error {
	data, err := w.begin(action, payload).wait(ctx)
	if err == nil && response != nil {
		err = json.Unmarshal(data, response)
	}
	return err
}
