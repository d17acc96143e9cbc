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
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	protocol     = 1
	startTimeout = 5 * time.Second
	// What a plugin has that was told to end, before it is killed.
	grace = 5 * time.Second
	// How long the rest of the output is waited for after the process has ended. Another process
	// may have inherited the pipe and hold it open for ever.
	restOfOutput  = time.Second
	queueBytes    = 1 << 20
	queueMessages = 1024
	chunk         = 64 << 10
)

// Event is what happens to a connection: [Open], [Message], [Error] or [Close].
type Event interface{ isEvent() }

// Open says that the connection is open.
type Open struct {
	Headers    map[string]string  // of the HTTP response, names in lower case
	Protocol   string             // the subprotocol that the server has chosen, or ""
	Extensions string             // as negotiated, or ""
	Profile    map[string]float64 // the times of the opening, in ms; empty before wsplugin 1.1
}

// Message is a message from the server.
type Message struct {
	Text bool // and then Data is UTF-8
	Data []byte
}

// Error says that the connection has failed; its Close comes next.
type Error struct {
	Code    string            `json:"code"`
	Message string            `json:"errMsg"`
	Status  int               `json:"status"`  // of the HTTP response that was none of a WebSocket, or 0
	Headers map[string]string `json:"headers"` // of that response, or nil
}

// Close says that the connection has ended: the last event of each, even if the plugin dies.
type Close struct {
	Code   int    `json:"code"`
	Reason string `json:"reason"`
	Cause  string `json:"cause"` // "host", "server", "limit", "background", "shutdown" or "failure"
}

func (Open) isEvent()    {}
func (Message) isEvent() {}
func (Error) isEvent()   {}
func (Close) isEvent()   {}

// RequestError says that the plugin has refused a request: a stable code, and words for people.
type RequestError struct {
	Code    string `json:"code"`
	Message string `json:"errMsg"`
}

func (e *RequestError) Error() string { return e.Code + ": " + e.Message }

// PluginEnded says that the plugin is gone, or could not be started, and why: what was asked of
// it will not be answered.
type PluginEnded struct {
	Reason string
	cause  error
	// The request was not even written, so it can be made again of another plugin.
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

func (o Options) withDefaults() Options {
	if len(o.Command) == 0 {
		o.Command = []string{"wsplugin"}
	}
	if o.Stderr == nil {
		o.Stderr = processStderr()
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = startTimeout
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = queueBytes
	}
	if o.QueueMessages == 0 {
		o.QueueMessages = queueMessages
	}
	return o
}

// commandLine returns the command with what is appended to it.
func (o Options) commandLine() []string {
	command := slices.Clone(o.Command)
	if o.CommandAsIs {
		return command
	}
	for _, option := range [][2]string{
		{"--parent-pid", strconv.Itoa(os.Getpid())},
		{"--exit-timeout", "1.5"},
	} {
		named := func(arg string) bool {
			return arg == option[0] || strings.HasPrefix(arg, option[0]+"=")
		}
		if !slices.ContainsFunc(o.Command, named) {
			command = append(command, option[0], option[1])
		}
	}
	return command
}

// Description is what the plugin says of itself.
type Description struct {
	Name     string             `json:"name"`
	Version  string             `json:"version"`
	Protocol int                `json:"protocol"`
	Actions  []string           `json:"actions"`
	Features []string           `json:"features"`
	Limits   map[string]float64 `json:"limits"` // in bytes, ms, and connections
}

// Host runs the plugin as a child process.
type Host struct {
	options     Options
	command     []string
	process     *exec.Cmd
	description Description
	outputEnd   chan struct{} // closed when stdout has been read to its end
	stderrEnd   chan struct{}
	ended       chan struct{} // closed when the plugin is gone and everybody knows

	mu         sync.Mutex
	written    *sync.Cond // lines or inputOver have changed
	lines      [][]byte   // on their way to the plugin
	inputOver  bool
	ids        int64
	pending    map[int64]*call
	websockets map[string]*WebSocket
	stopping   bool
	breach     string // why the plugin's output was no longer read
	lastError  string // the last line of stderr
	status     int
	err        *PluginEnded
}

// call is a request without an answer.
type call struct {
	done      chan answer // with room for the one answer
	creates   *WebSocket
	abandoned bool // whoever asked has gone
}

type answer struct {
	response json.RawMessage
	err      error
}

// request is a line to the plugin. The id comes first: of a line that is too long the plugin
// reads no more than the start.
type request struct {
	ID      int64             `json:"id"`
	Action  string            `json:"action"`
	App     *string           `json:"app,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Payload any               `json:"payload,omitempty"`
}

// Start runs the plugin and asks what it is. The context is that of the start alone; afterwards
// the plugin runs until [Host.Stop]. The error is a [*PluginEnded], and no process is left then.
func Start(ctx context.Context, options Options) (*Host, error) {
	options = options.withDefaults()
	h := &Host{
		options:    options,
		command:    options.commandLine(),
		outputEnd:  make(chan struct{}),
		stderrEnd:  make(chan struct{}),
		ended:      make(chan struct{}),
		pending:    map[int64]*call{},
		websockets: map[string]*WebSocket{},
	}
	h.written = sync.NewCond(&h.mu)
	if err := h.spawn(); err != nil {
		return nil, h.failedStart("the plugin cannot be started: "+err.Error(), err)
	}
	limit, cancel := context.WithTimeout(ctx, options.StartTimeout)
	defer cancel()
	if err := h.describe(limit); err != nil {
		h.kill()
		<-h.ended
		return nil, h.failedStart(h.whyNoStart(ctx, limit, err), err)
	}
	return h, nil
}

func (h *Host) spawn() error {
	h.process = exec.Command(h.command[0], h.command[1:]...)
	stdin, err := h.process.StdinPipe()
	if err != nil {
		return err
	}
	// Not StdoutPipe: Wait would close it before everything has been read.
	stdout, stdoutWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdoutWriter.Close()
	stderr, stderrWriter, err := os.Pipe()
	if err != nil {
		stdout.Close()
		return err
	}
	defer stderrWriter.Close()
	h.process.Stdout, h.process.Stderr = stdoutWriter, stderrWriter
	if err := h.process.Start(); err != nil {
		stdout.Close()
		stderr.Close()
		return err
	}
	go h.write(stdin)
	go h.read(stdout)
	go h.readStderr(stderr)
	go h.watch(stdout, stderr)
	return nil
}

func (h *Host) describe(ctx context.Context) error {
	response, err := h.request(ctx, request{Action: "plugin-describe"}, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(response, &h.description); err != nil {
		return fmt.Errorf("is no wsplugin: it describes itself as %.200s", response)
	}
	if h.description.Name != "wsplugin" {
		return fmt.Errorf("is no wsplugin: it calls itself %q", h.description.Name)
	}
	if h.description.Protocol != protocol {
		return fmt.Errorf("speaks protocol %d, and this host %d", h.description.Protocol, protocol)
	}
	return nil
}

func (h *Host) whyNoStart(ctx, limit context.Context, err error) string {
	var refused *RequestError
	var ended *PluginEnded
	switch {
	case errors.As(err, &refused):
		return "the plugin refuses to describe itself: " + err.Error()
	case errors.As(err, &ended):
		appended := len(h.command) > len(h.options.Command)
		unknown := strings.Contains(h.lastError, "--parent-pid") || strings.Contains(h.lastError, "--exit-timeout")
		if h.status == 2 && appended && unknown {
			return ended.Reason + "; this wsplugin is of 1.0; update it or start it without these options"
		}
		return ended.Reason
	case ctx.Err() != nil:
		return "the start of the plugin was given up: " + ctx.Err().Error()
	case limit.Err() != nil:
		return fmt.Sprintf("the plugin has not described itself within %v", h.options.StartTimeout)
	}
	return "the plugin " + err.Error()
}

func (h *Host) failedStart(reason string, cause error) *PluginEnded {
	return &PluginEnded{
		Reason: fmt.Sprintf("%s (command: %s)", reason, strings.Join(h.command, " ")),
		cause:  cause,
		unsent: true,
	}
}

// Description returns what the plugin has said of itself at its start.
func (h *Host) Description() Description { return h.description }

// Has tells whether the plugin has a feature, such as "ping".
func (h *Host) Has(feature string) bool {
	return slices.Contains(h.description.Features, feature)
}

// Done returns a channel that is closed when the plugin is gone, whoever has ended it.
func (h *Host) Done() <-chan struct{} { return h.ended }

// Err returns nil as long as the plugin is there, and then why it is gone: a [*PluginEnded].
func (h *Host) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		return nil
	}
	return h.err
}

// PID returns the process ID of the plugin.
func (h *Host) PID() int { return h.process.Process.Pid }

// CreateOptions are those of [Host.Create]. The zero value is good.
type CreateOptions struct {
	Headers             map[string]string // of the opening request
	Protocols           []string          // subprotocols to offer
	Timeout             time.Duration     // until it must be open; 0: the plugin's
	NoPerMessageDeflate bool              // offer no compression
	DelaySmallPackets   bool              // Nagle's algorithm: no TCP_NODELAY
	App                 string            // the app that it is for, if the host serves several
	HostHeaders         map[string]string // the host's own, in place of the app's of that name
}

// Create creates a connection. It returns at once, before the connection is open. If the context
// ends before the answer has come, the connection is closed again.
func (h *Host) Create(ctx context.Context, url string, options *CreateOptions) (*WebSocket, error) {
	payload := map[string]any{"url": url, "binaryType": "base64"}
	line := request{Action: "websocket-create", Payload: payload}
	if options != nil {
		if len(options.Headers) > 0 {
			payload["headers"] = options.Headers
		}
		if len(options.Protocols) > 0 {
			payload["protocols"] = options.Protocols
		}
		if options.Timeout != 0 {
			payload["timeout"] = milliseconds(options.Timeout)
		}
		if options.NoPerMessageDeflate {
			payload["perMessageDeflate"] = false
		}
		if options.DelaySmallPackets {
			payload["tcpNoDelay"] = false
		}
		if options.App != "" {
			line.App = &options.App
		}
		line.Headers = options.HostHeaders
	}
	w := &WebSocket{host: h, wake: make(chan struct{}, 1)}
	if _, err := h.request(ctx, line, w); err != nil {
		return nil, err
	}
	return w, nil
}

// Background tells that the app leaves the screen: it ends all connections, then returns.
func (h *Host) Background(ctx context.Context) error {
	_, err := h.request(ctx, request{Action: "app-background"}, nil)
	return err
}

// BackgroundApp does the same for the connections of one app.
func (h *Host) BackgroundApp(ctx context.Context, app string) error {
	_, err := h.request(ctx, request{Action: "app-background", App: &app}, nil)
	return err
}

// Request makes a request of the plugin and returns its response. The error is a [*RequestError]
// if the plugin has refused it, a [*PluginEnded] if it ended before the answer, that of the
// context (and then the request may still be carried out), or says that it cannot be encoded.
func (h *Host) Request(ctx context.Context, action string, payload any) (json.RawMessage, error) {
	return h.request(ctx, request{Action: action, Payload: payload}, nil)
}

// Close stops the plugin, and returns an error if it did not end with status 0.
func (h *Host) Close() error {
	if status := h.Stop(context.Background()); status != 0 {
		return h.Err()
	}
	return nil
}

// Stop ends the plugin in good order and returns its exit status; 128 + n stands for signal n.
// Its stdin is closed: the plugin then closes the connections and ends, within two seconds. One
// that has not ended after five seconds, or when the context does, is killed.
func (h *Host) Stop(ctx context.Context) int {
	h.mu.Lock()
	h.stopping = true
	h.closeInput()
	h.mu.Unlock()
	limit, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	select {
	case <-h.ended:
	case <-limit.Done():
		h.kill()
		<-h.ended
	}
	return h.status
}

func (h *Host) kill() {
	// The error of a process that has ended meanwhile.
	_ = h.process.Process.Kill()
}

// --- requests ---------------------------------------------------------------------------------

func (h *Host) request(ctx context.Context, line request, creates *WebSocket) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := h.begin(line, creates)
	if err != nil {
		return nil, err
	}
	return h.wait(ctx, c)
}

// begin puts a request on its way, without waiting for anything.
func (h *Host) begin(line request, creates *WebSocket) (*call, error) {
	c := &call{done: make(chan answer, 1), creates: creates}
	return c, h.enqueue(line, c)
}

// tell makes a request whose answer is of interest to nobody.
func (h *Host) tell(action string, payload any) error {
	return h.enqueue(request{Action: action, Payload: payload}, nil)
}

func (h *Host) enqueue(line request, c *call) error {
	if err := h.gone(); err != nil {
		return err
	}
	if err := checkText(line.Payload, line.Headers, line.App); err != nil {
		return err
	}
	h.mu.Lock()
	h.ids++
	line.ID = h.ids
	h.mu.Unlock()
	// A large message is encoded outside of the lock: the reader must not wait for it.
	var data bytes.Buffer
	encoder := json.NewEncoder(&data) // which ends it with LF
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.goneLocked(); err != nil {
		return err
	}
	if c != nil {
		h.pending[line.ID] = c
	}
	h.lines = append(h.lines, data.Bytes())
	h.written.Signal()
	return nil
}

func (h *Host) gone() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.goneLocked()
}

func (h *Host) goneLocked() error {
	if h.err != nil {
		return &PluginEnded{Reason: h.err.Reason, unsent: true}
	}
	if h.stopping {
		return &PluginEnded{Reason: "the host has stopped the plugin", unsent: true}
	}
	return nil
}

func (h *Host) wait(ctx context.Context, c *call) (json.RawMessage, error) {
	select {
	case a := <-c.done:
		return a.response, a.err
	case <-ctx.Done():
	}
	h.mu.Lock()
	c.abandoned = true
	h.mu.Unlock()
	select {
	case a := <-c.done: // it came meanwhile, and a connection would have nobody to close it
		return a.response, a.err
	default:
		return nil, ctx.Err()
	}
}

// checkText finds what the encoder would replace without a word.
func checkText(values ...any) error {
	for _, value := range values {
		var err error
		switch value := value.(type) {
		case string:
			if !utf8.ValidString(value) {
				err = ErrText
			}
		case *string:
			if value != nil {
				err = checkText(*value)
			}
		case []string:
			for _, text := range value {
				err = errors.Join(err, checkText(text))
			}
		case map[string]string:
			for name, text := range value {
				err = errors.Join(err, checkText(name, text))
			}
		case map[string]any:
			for name, member := range value {
				err = errors.Join(err, checkText(name, member))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// --- the process ------------------------------------------------------------------------------

// write hands lines to the plugin in a goroutine of its own: nobody else waits for a plugin that
// does not read, least of all the reader of its output.
func (h *Host) write(stdin io.WriteCloser) {
	defer stdin.Close()
	for {
		h.mu.Lock()
		for len(h.lines) == 0 && !h.inputOver {
			h.written.Wait()
		}
		lines := h.lines
		h.lines = nil
		h.mu.Unlock()
		if len(lines) == 0 {
			return
		}
		for _, line := range lines {
			if _, err := stdin.Write(line); err != nil {
				// It has ended, or it lives on without reading: then nothing is ever answered.
				time.AfterFunc(grace, h.kill)
				return
			}
		}
	}
}

// closeInput closes stdin behind the lines that are on their way.
func (h *Host) closeInput() {
	h.inputOver = true
	h.written.Signal()
}

// read reads stdout to its end, always: a line is whole only when its LF has come.
func (h *Host) read(stdout io.Reader) {
	defer close(h.outputEnd)
	reader := bufio.NewReaderSize(stdout, chunk)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return // and half a line is none
		}
		if err := h.take(line); err != nil {
			h.mu.Lock()
			h.breach = fmt.Sprintf("wrote what is no line of its protocol (%v): %.200s", err, bytes.TrimSpace(line))
			h.mu.Unlock()
			h.kill()
			return
		}
	}
}

// take does what a line says. What a later plugin may add is passed over.
func (h *Host) take(line []byte) error {
	var message struct {
		ID       json.RawMessage `json:"id"`
		Response json.RawMessage `json:"response"`
		Error    json.RawMessage `json:"error"`
		Event    json.RawMessage `json:"event"`
		Payload  json.RawMessage `json:"payload"`
	}
	var other *json.UnmarshalTypeError
	if err := json.Unmarshal(line, &message); err != nil && !errors.As(err, &other) {
		if len(bytes.TrimSpace(line)) == 0 {
			return nil
		}
		return err
	}
	if string(message.Event) == `"websocket-event"` {
		return h.takeEvent(message.Payload)
	}
	if message.Event != nil {
		return nil
	}
	id, err := strconv.ParseInt(string(message.ID), 10, 64)
	if err != nil {
		return nil // to a line that the plugin could not read: this host writes none
	}
	return h.takeAnswer(id, message.Response, message.Error)
}

func (h *Host) takeAnswer(id int64, response, problem json.RawMessage) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.pending[id]
	if c == nil {
		return nil
	}
	a := answer{response: response}
	if problem != nil && string(problem) != "null" {
		refused := &RequestError{}
		if err := json.Unmarshal(problem, refused); err != nil {
			return err
		}
		a.err = refused
	} else if response == nil {
		return errors.New("an answer without response or error")
	} else if c.creates != nil {
		var created struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(response, &created); err != nil {
			return err
		}
		c.creates.id = created.ID
		// Before the next line is looked at, which may be an event of this connection.
		h.websockets[created.ID] = c.creates
		if c.abandoned {
			go c.creates.leave() // which needs the lock
		}
	}
	delete(h.pending, id)
	c.done <- a
	return nil
}

func (h *Host) takeEvent(payload json.RawMessage) error {
	var event struct {
		ID      string          `json:"id"`
		Name    string          `json:"name"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal(payload, &event); err != nil {
		return err
	}
	h.mu.Lock()
	w := h.websockets[event.ID]
	if event.Name == "close" {
		delete(h.websockets, event.ID)
	}
	h.mu.Unlock()
	if w == nil {
		return nil
	}
	found, err := parseEvent(event.Name, event.Payload)
	if err != nil && event.Name == "close" {
		h.mu.Lock()
		h.websockets[event.ID] = w // so that it gets its Close when the plugin has been killed
		h.mu.Unlock()
	}
	if found != nil {
		w.take(found)
	}
	return err
}

// parseEvent returns the event, or nil for one that is unknown.
func parseEvent(name string, payload json.RawMessage) (Event, error) {
	switch name {
	case "open":
		var open struct {
			Open
			Profile map[string]any
		}
		err := json.Unmarshal(payload, &open)
		open.Open.Profile = map[string]float64{}
		for name, value := range open.Profile {
			if number, ok := value.(float64); ok {
				open.Open.Profile[name] = number
			}
		}
		return open.Open, err
	case "message":
		var message struct {
			Type string `json:"type"`
			Data any    `json:"data"`
		}
		if err := json.Unmarshal(payload, &message); err != nil {
			return nil, err
		}
		data, ok := message.Data.(string)
		switch {
		case message.Type != "text" && message.Type != "base64":
			return nil, nil
		case !ok:
			return nil, fmt.Errorf("a message of type %s without a text", message.Type)
		case message.Type == "text":
			return Message{Text: true, Data: []byte(data)}, nil
		}
		binary, err := base64.StdEncoding.DecodeString(data)
		return Message{Data: binary}, err
	case "error":
		var failure Error
		err := json.Unmarshal(payload, &failure)
		return failure, err
	case "close":
		var end Close
		err := json.Unmarshal(payload, &end)
		return end, err
	}
	return nil, nil
}

// readStderr reads stderr to its end and remembers its last line, which says why if the plugin
// fails. Somebody else passes the lines on: a terminal that has been stopped must not stop the
// plugin.
func (h *Host) readStderr(stderr io.Reader) {
	defer close(h.stderrEnd)
	lines := make(chan []byte, 64)
	defer close(lines)
	go func() {
		for line := range lines {
			_, _ = h.options.Stderr.Write(line) // whoever cannot be written to misses it
		}
	}()
	reader := bufio.NewReaderSize(stderr, chunk)
	for {
		line, err := reader.ReadSlice('\n')
		if text := strings.TrimSpace(string(line)); text != "" {
			h.mu.Lock()
			h.lastError = text[:min(len(text), 1000)]
			h.mu.Unlock()
		}
		if len(line) > 0 {
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

// watch waits for the end of the process and of its output, each within bounds.
func (h *Host) watch(stdout, stderr io.Closer) {
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = h.process.Wait() // the state says it all
	}()
	select {
	case <-exited:
	case <-h.outputEnd:
		h.mu.Lock()
		h.closeInput()
		h.mu.Unlock()
		select {
		case <-exited:
		case <-time.After(grace):
			h.kill()
			<-exited
		}
	}
	limit, cancel := context.WithTimeout(context.Background(), restOfOutput)
	defer cancel()
	for _, end := range []chan struct{}{h.outputEnd, h.stderrEnd} {
		select {
		case <-end:
		case <-limit.Done():
		}
	}
	stdout.Close() // which wakes those who still read
	stderr.Close()
	<-h.outputEnd
	<-h.stderrEnd
	h.end()
}

// end fails what is pending, and closes every connection that had no Close yet.
func (h *Host) end() {
	h.mu.Lock()
	state := h.process.ProcessState
	how := fmt.Sprintf("ended with status %d", state.ExitCode())
	h.status = state.ExitCode()
	if wait, ok := state.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
		h.status = 128 + int(wait.Signal())
		how = fmt.Sprintf("was killed by signal %d", wait.Signal())
	}
	if h.breach != "" {
		how = h.breach
	} else if h.lastError != "" {
		how += ": " + h.lastError
	}
	h.err = &PluginEnded{Reason: "the plugin " + how}
	pending, websockets := h.pending, h.websockets
	h.pending, h.websockets, h.lines = nil, nil, nil
	h.closeInput()
	h.mu.Unlock()
	for _, c := range pending {
		c.done <- answer{err: h.err}
	}
	for _, w := range websockets {
		w.take(Close{Code: 1006, Reason: h.err.Reason, Cause: "failure"})
	}
	close(h.ended)
}

// --- one connection ---------------------------------------------------------------------------

// WebSocket is one connection, from [Host.Create].
type WebSocket struct {
	host *Host
	id   string
	wake chan struct{} // something has come; closed behind the Close

	mu       sync.Mutex
	events   []Event
	bytes    int // of the messages that wait
	messages int
	looped   bool // somebody loops over the events, or has
	left     bool // the loop was left before the end
	over     bool // the Close has come
	paused   bool // by the app
	full     bool
	told     bool // the plugin was told to pause
}

// ID returns the plugin's id of this connection, which is in its log as well.
func (w *WebSocket) ID() string { return w.id }

// SendText sends a text, which must be UTF-8. It returns when the message has been handed to the
// connection: to wait for that before the next is the back-pressure.
func (w *WebSocket) SendText(ctx context.Context, text string) error {
	return w.call(ctx, "websocket-send", map[string]any{"type": "text", "data": text})
}

// SendBinary sends a binary message, as [WebSocket.SendText] sends a text.
func (w *WebSocket) SendBinary(ctx context.Context, data []byte) error {
	text := base64.StdEncoding.EncodeToString(data)
	return w.call(ctx, "websocket-send", map[string]any{"type": "base64", "data": text})
}

// Close begins the closing handshake with code 1000 and returns without waiting. The [Close]
// event tells the end.
func (w *WebSocket) Close() error {
	return w.host.tell("websocket-close", map[string]any{"id": w.id})
}

// CloseWith begins the closing handshake. Code 0 stands for 1000; 1005 sends none. The timeout is
// that of the closing handshake: 0 is the plugin's own, a negative one cuts the connection at once.
func (w *WebSocket) CloseWith(ctx context.Context, code int, reason string, timeout time.Duration) error {
	payload := map[string]any{}
	if code != 0 {
		payload["code"] = code
	}
	if reason != "" {
		payload["reason"] = reason
	}
	if timeout != 0 {
		payload["timeout"] = max(0, milliseconds(timeout))
	}
	return w.call(ctx, "websocket-close", payload)
}

// Ping asks the server for a sign of life and returns how long it took. Without one within the
// timeout (0: the plugin's) the connection fails: what to do when the network has changed.
func (w *WebSocket) Ping(ctx context.Context, timeout time.Duration) (time.Duration, error) {
	payload := map[string]any{"id": w.id}
	if timeout != 0 {
		payload["timeout"] = milliseconds(timeout)
	}
	response, err := w.host.Request(ctx, "websocket-ping", payload)
	if err != nil {
		return 0, err
	}
	var pong struct {
		RTT float64 `json:"rtt"`
	}
	err = json.Unmarshal(response, &pong)
	return time.Duration(pong.RTT * float64(time.Millisecond)), err
}

// Pause holds back the server until [WebSocket.Resume]. Messages that have come already still
// wait for Next. For seconds, not minutes: the server's Pings wait, too.
func (w *WebSocket) Pause(ctx context.Context) error {
	w.mu.Lock()
	w.paused, w.told = true, true
	c, err := w.begin("websocket-pause")
	w.mu.Unlock()
	return w.wait(ctx, c, err)
}

// Resume lets the messages come again, at once or as soon as the queue has room.
func (w *WebSocket) Resume(ctx context.Context) error {
	w.mu.Lock()
	w.paused = false
	if w.full {
		w.mu.Unlock()
		return nil
	}
	w.told = false
	c, err := w.begin("websocket-resume")
	w.mu.Unlock()
	return w.wait(ctx, c, err)
}

// Next returns the next event, and io.EOF behind the Close.
func (w *WebSocket) Next(ctx context.Context) (Event, error) {
	for {
		if event, over := w.pop(); event != nil {
			return event, nil
		} else if over {
			return nil, io.EOF
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
		w.mu.Lock()
		second := w.looped
		w.looped = true
		w.mu.Unlock()
		if second {
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

func (w *WebSocket) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = true
	w.events = nil
	if !w.over {
		_ = w.Close() // unless the plugin is gone, and then it is closed
	}
}

// take queues an event that the host has read.
func (w *WebSocket) take(event Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, w.over = event.(Close)
	if !w.left {
		w.events = append(w.events, event)
		if message, ok := event.(Message); ok {
			w.bytes += len(message.Data)
			w.messages++
		}
		most := w.host.options
		if w.host.Has("pause") && (w.bytes >= most.QueueBytes || w.messages >= most.QueueMessages) {
			w.full = true
			w.hold()
		}
	}
	if w.over {
		close(w.wake)
	} else {
		w.signal()
	}
}

func (w *WebSocket) pop() (Event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == 0 {
		return nil, w.over
	}
	event := w.events[0]
	w.events[0] = nil // the array lives on, the message must not
	w.events = w.events[1:]
	if message, ok := event.(Message); ok {
		w.bytes -= len(message.Data)
		w.messages--
	}
	most := w.host.options
	if w.full && 2*w.bytes <= most.QueueBytes && 2*w.messages <= most.QueueMessages {
		w.full = false
		w.hold()
	}
	if len(w.events) > 0 && !w.over {
		w.signal() // others may wait in Next, too
	}
	return event, false
}

func (w *WebSocket) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// hold tells the plugin to pause or to resume, if that has changed. The app's own pause stays.
func (w *WebSocket) hold() {
	want := w.paused || w.full
	if want == w.told || w.over {
		return
	}
	w.told = want
	action := "websocket-resume"
	if want {
		action = "websocket-pause"
	}
	_ = w.host.tell(action, map[string]any{"id": w.id}) // unless the plugin is gone
}

func (w *WebSocket) begin(action string) (*call, error) {
	return w.host.begin(request{Action: action, Payload: map[string]any{"id": w.id}}, nil)
}

func (w *WebSocket) wait(ctx context.Context, c *call, err error) error {
	if err == nil {
		_, err = w.host.wait(ctx, c)
	}
	return err
}

func (w *WebSocket) call(ctx context.Context, action string, payload map[string]any) error {
	payload["id"] = w.id
	_, err := w.host.Request(ctx, action, payload)
	return err
}
