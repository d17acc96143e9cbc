// The seed part of the contract (create, send, close, background) in Go with gorilla/websocket,
// written the way its users would: one goroutine reads and one writes each connection, one
// bufio.Writer for stdout that is flushed when nothing is left to write.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	maxConnections = 5
	bufferSize     = 64 << 10 // bytes, of stdin, stdout and each connection
	closeTimeout   = 2 * time.Second
)

type object = map[string]any

type request struct {
	ID      json.RawMessage `json:"id"`
	Action  string          `json:"action"`
	Payload struct {        // the fields of all actions: encoding/json decodes a line in one go
		URL       string            `json:"url"`
		Headers   map[string]string `json:"headers"`
		Protocols []string          `json:"protocols"`
		ID        string            `json:"id"`
		Type      string            `json:"type"`
		Data      json.RawMessage   `json:"data"`
		Code      *int              `json:"code"`
		Reason    string            `json:"reason"`
	} `json:"payload"`
}

type response struct {
	ID       json.RawMessage `json:"id"`
	Response any             `json:"response"`
}

type event struct {
	Event   string       `json:"event"`
	Payload eventPayload `json:"payload"`
}

type eventPayload struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Payload any    `json:"payload"`
}

type message struct {
	Type string `json:"type"`
	Data any    `json:"data"`
}

// numbers is data as encoding/json writes an array of numbers; it would write []byte as base64.
func numbers(data []byte) []uint16 {
	values := make([]uint16, len(data))
	for i, value := range data {
		values[i] = uint16(value)
	}
	return values
}

// lines is what waits to be written to stdout, nil the end: a full channel stops every reader.
var lines = make(chan []byte, 64)

func writeLines(done chan<- struct{}) {
	defer close(done)
	output := bufio.NewWriterSize(os.Stdout, bufferSize)
	for line := <-lines; line != nil; line = <-lines {
		output.Write(line)
		if len(lines) == 0 && output.Flush() != nil {
			os.Exit(1) // the host is gone
		}
	}
	output.Flush()
}

func write(value any) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	lines <- line.Bytes()
}

func respond(id json.RawMessage, value any) {
	if len(id) > 0 && string(id) != "null" {
		write(response{id, value})
	}
}

func fail(id json.RawMessage, code string, err error) {
	write(object{"id": id, "error": object{"code": code, "errMsg": err.Error()}})
}

type connection struct {
	id      string
	url     string
	header  http.Header
	dialer  websocket.Dialer
	sends   chan send
	closing bool          // a Close frame is on its way: set and read by the manager alone
	closed  chan struct{} // closed after the close event
}

type send struct {
	requestID json.RawMessage
	kind      int // of the frame, or CloseMessage, which ends the sending
	data      []byte
}

func (c *connection) emit(name string, payload any) {
	write(event{"websocket-event", eventPayload{c.id, name, payload}})
}

// run is the life of one connection, from the opening handshake to its close event.
func (c *connection) run() {
	defer close(c.closed)
	code, reason := websocket.CloseAbnormalClosure, ""
	ws, answer, err := c.dialer.Dial(c.url, c.header)
	if err == nil {
		defer ws.Close()
		headers := make(map[string]string, len(answer.Header))
		for name, values := range answer.Header {
			headers[strings.ToLower(name)] = strings.Join(values, ", ")
		}
		c.emit("open", object{"headers": headers})
		go c.writeFrames(ws)
		err = c.readMessages(ws)
	}
	var closeError *websocket.CloseError
	if errors.As(err, &closeError) {
		code, reason = closeError.Code, closeError.Text
	} else {
		c.emit("error", object{"errMsg": err.Error()})
	}
	c.emit("close", object{"code": code, "reason": reason})
}

func (c *connection) readMessages(ws *websocket.Conn) error {
	for {
		kind, data, err := ws.ReadMessage()
		if err != nil {
			return err
		}
		if kind == websocket.TextMessage {
			c.emit("message", message{"text", string(data)})
		} else {
			c.emit("message", message{"arraybuffer", numbers(data)})
		}
	}
}

func (c *connection) writeFrames(ws *websocket.Conn) {
	for {
		select {
		case <-c.closed:
			return
		case s := <-c.sends:
			if s.kind == websocket.CloseMessage {
				deadline := time.Now().Add(closeTimeout)
				ws.WriteControl(websocket.CloseMessage, s.data, deadline)
				ws.SetReadDeadline(deadline)
				return
			}
			if err := ws.WriteMessage(s.kind, s.data); err != nil {
				fail(s.requestID, "not-open", err)
			} else {
				respond(s.requestID, object{})
			}
		}
	}
}

// manager carries out the actions, one at a time, in the order of their lines.
type manager struct {
	connections []*connection // oldest first, closed ones included until the next create
	lastID      int
}

func (m *manager) find(id string) (*connection, error) {
	for _, c := range m.connections {
		if c.id == id && !c.closing {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%s is not open", id)
}

func (m *manager) queue(c *connection, s send) {
	select {
	case c.sends <- s:
	case <-c.closed:
		if s.kind != websocket.CloseMessage {
			fail(s.requestID, "not-open", fmt.Errorf("%s is closed", c.id))
		}
	}
}

func (m *manager) close(c *connection, code int, reason string) {
	if !c.closing {
		c.closing = true
		m.queue(c, send{nil, websocket.CloseMessage, websocket.FormatCloseMessage(code, reason)})
	}
}

func (m *manager) closeAll(reason string) *sync.WaitGroup {
	var all sync.WaitGroup
	for _, c := range m.connections {
		all.Add(1)
		m.close(c, websocket.CloseGoingAway, reason)
		go func(c *connection) {
			<-c.closed
			all.Done()
		}(c)
	}
	return &all
}

func (m *manager) create(r request) error {
	header := http.Header{"Content-Type": {"application/json"}}
	for name, value := range r.Payload.Headers {
		if strings.EqualFold(name, "Referer") {
			return errors.New("payload.headers: Referer cannot be set")
		}
		header.Set(name, value)
	}
	m.lastID++
	created := &connection{
		id:     fmt.Sprintf("ws-%d", m.lastID),
		url:    r.Payload.URL,
		header: header,
		dialer: websocket.Dialer{
			Subprotocols:     r.Payload.Protocols,
			HandshakeTimeout: 10 * time.Second,
			ReadBufferSize:   bufferSize,
			WriteBufferSize:  bufferSize,
		},
		sends:  make(chan send, 64),
		closed: make(chan struct{}),
	}
	respond(r.ID, object{"id": created.id})
	var live []*connection
	for _, c := range m.connections {
		select {
		case <-c.closed:
		default:
			live = append(live, c)
		}
	}
	m.connections = append(live, created)
	if len(m.connections) > maxConnections {
		reason := fmt.Sprintf("connection limit of %d reached", maxConnections)
		m.close(m.connections[0], websocket.CloseGoingAway, reason)
	}
	go created.run()
	return nil
}

func (m *manager) send(r request) error {
	c, err := m.find(r.Payload.ID)
	if err != nil {
		fail(r.ID, "not-open", err)
		return nil
	}
	if r.Payload.Type == "text" {
		var text string
		if err := json.Unmarshal(r.Payload.Data, &text); err != nil {
			return err
		}
		m.queue(c, send{r.ID, websocket.TextMessage, []byte(text)})
		return nil
	}
	var values []uint16
	if err := json.Unmarshal(r.Payload.Data, &values); err != nil {
		return err
	}
	data := make([]byte, len(values))
	for i, value := range values {
		data[i] = byte(value)
	}
	m.queue(c, send{r.ID, websocket.BinaryMessage, data})
	return nil
}

func (m *manager) closeOne(r request) {
	code := websocket.CloseNormalClosure
	if r.Payload.Code != nil {
		code = *r.Payload.Code
	}
	if c, err := m.find(r.Payload.ID); err == nil {
		m.close(c, code, r.Payload.Reason)
	}
	respond(r.ID, object{})
}

func (m *manager) dispatch(line []byte) {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		fail(nil, "invalid-json", err)
		return
	}
	var err error
	switch r.Action {
	case "websocket-create":
		err = m.create(r)
	case "websocket-send":
		err = m.send(r)
	case "websocket-close":
		m.closeOne(r)
	case "app-background":
		all := m.closeAll("application entered background")
		go func() {
			all.Wait()
			respond(r.ID, object{})
		}()
	default:
		fail(r.ID, "unknown-action", fmt.Errorf("no such action: %q", r.Action))
	}
	if err != nil {
		fail(r.ID, "invalid-payload", err)
	}
}

func main() {
	written := make(chan struct{})
	go writeLines(written)
	m := &manager{}
	input := bufio.NewReaderSize(os.Stdin, bufferSize)
	for {
		line, err := input.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			m.dispatch(line)
		}
		if err != nil {
			break
		}
	}
	m.closeAll("plugin shutting down").Wait()
	lines <- nil
	<-written
}
