// Scripted is the host under a script, as `wsplugin certify` speaks it: a call a line on stdin, an
// outcome or an event a line on stdout. The plugin is the command in the variable WSPLUGIN.
//
//	$ go build -C host_examples/go -o scripted ./cmd/scripted
//	$ wsplugin certify -- host_examples/go/scripted
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"wsplugin"
)

// order is a line of the script.
type order struct {
	ID          *int64            `json:"id"`
	Call        string            `json:"call"`
	As          string            `json:"as"`
	To          string            `json:"to"`
	URL         string            `json:"url"`
	Headers     map[string]string `json:"headers"`
	Protocols   []string          `json:"protocols"`
	App         string            `json:"app"`
	HostHeaders map[string]string `json:"hostHeaders"`
	Timeout     *float64          `json:"timeout"` // ms, as the other times
	Delay       float64           `json:"delay"`
	Text        json.RawMessage   `json:"text"`
	Base64      []byte            `json:"base64"`
	Code        int               `json:"code"`
	Reason      string            `json:"reason"`
	MS          float64           `json:"ms"`
}

// connection is a name of the script's, from its create on.
type connection struct {
	created   chan struct{}
	websocket *wsplugin.WebSocket // nil if it could not be created
}

type script struct {
	host        *wsplugin.Host
	connections map[string]*connection
	calls       sync.WaitGroup
	// Ends with the script: nobody waits for slow listeners then.
	over context.Context

	printing sync.Mutex
}

func main() {
	over, end := context.WithCancel(context.Background())
	s := &script{connections: map[string]*connection{}, over: over}
	var first int64
	s.start(order{ID: &first})
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			break
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			fail(line, err)
		}
		if o.ID == nil {
			fail(line, errors.New("without an id"))
		}
		if err := s.carryOut(o); err != nil {
			fail(line, err)
		}
	}
	end()
	if s.host != nil {
		s.host.Stop(context.Background())
	}
	s.calls.Wait()
}

func fail(line []byte, err error) {
	fmt.Fprintf(os.Stderr, "cannot read the line %q: %v\n", line, err)
	os.Exit(2)
}

// carryOut begins a call; only that of a start is waited for.
func (s *script) carryOut(o order) error {
	timeout := time.Duration(0)
	if o.Timeout != nil {
		timeout = milliseconds(*o.Timeout)
	}
	switch o.Call {
	case "start":
		s.start(o)
	case "sleep":
		time.Sleep(milliseconds(o.MS))
		s.report(o, nil, nil)
	case "create":
		s.create(o, timeout)
	case "background":
		s.begin(o, func(ctx context.Context, host *wsplugin.Host) (map[string]any, error) {
			return nil, host.Background(ctx, o.App)
		})
	case "stop":
		s.begin(o, func(ctx context.Context, host *wsplugin.Host) (map[string]any, error) {
			return map[string]any{"status": host.Stop(ctx)}, nil
		})
	case "send":
		s.beginOn(o, func(ctx context.Context, websocket *wsplugin.WebSocket) (map[string]any, error) {
			if o.Text != nil {
				return nil, websocket.SendText(ctx, text(o.Text))
			}
			return nil, websocket.SendBinary(ctx, o.Base64)
		})
	case "close":
		s.beginOn(o, func(ctx context.Context, websocket *wsplugin.WebSocket) (map[string]any, error) {
			if o.Timeout != nil && timeout == 0 {
				timeout = -1
			}
			return nil, websocket.CloseWith(ctx, o.Code, o.Reason, timeout)
		})
	case "pause":
		s.beginOn(o, func(ctx context.Context, websocket *wsplugin.WebSocket) (map[string]any, error) {
			return nil, websocket.Pause(ctx)
		})
	case "resume":
		s.beginOn(o, func(ctx context.Context, websocket *wsplugin.WebSocket) (map[string]any, error) {
			return nil, websocket.Resume(ctx)
		})
	case "ping":
		s.beginOn(o, func(ctx context.Context, websocket *wsplugin.WebSocket) (map[string]any, error) {
			rtt, err := websocket.Ping(ctx, timeout)
			return map[string]any{"rtt": float64(rtt) / float64(time.Millisecond)}, err
		})
	default:
		return fmt.Errorf("no call %q", o.Call)
	}
	return nil
}

func (s *script) start(o order) {
	if s.host != nil {
		select {
		case <-s.host.Done():
		case <-time.After(10 * time.Second):
			s.report(o, nil, errors.New("the plugin runs"))
			return
		}
	}
	var options wsplugin.Options
	if path := os.Getenv("WSPLUGIN"); path != "" {
		options.Command = []string{path}
	}
	host, err := wsplugin.Start(context.Background(), options)
	if err == nil {
		s.host = host
	}
	s.report(o, nil, err)
}

func (s *script) create(o order, timeout time.Duration) {
	c := &connection{created: make(chan struct{})}
	s.connections[o.As] = c
	s.begin(o, func(ctx context.Context, host *wsplugin.Host) (map[string]any, error) {
		defer close(c.created)
		websocket, err := host.Create(ctx, o.URL, &wsplugin.CreateOptions{
			Headers: o.Headers, Protocols: o.Protocols, Timeout: timeout,
			App: o.App, HostHeaders: o.HostHeaders,
		})
		if err == nil {
			c.websocket = websocket
			s.calls.Add(1)
			go s.listen(o, websocket)
		}
		return nil, err
	})
}

func (s *script) listen(o order, websocket *wsplugin.WebSocket) {
	defer s.calls.Done()
	for event := range websocket.Events(context.Background()) {
		line := map[string]any{"on": o.As}
		switch event := event.(type) {
		case wsplugin.Open:
			line["event"] = "open"
			line["headers"] = event.Headers
			line["protocol"] = event.Protocol
			line["extensions"] = event.Extensions
		case wsplugin.Message:
			line["event"] = "message"
			if event.Text {
				line["text"] = string(event.Data)
			} else {
				line["base64"] = event.Data
			}
		case wsplugin.Error:
			line["event"] = "error"
			line["code"] = event.Code
			line["message"] = event.Message
			if event.Status != 0 {
				line["status"] = event.Status
			}
		case wsplugin.Close:
			line["event"] = "close"
			line["code"] = event.Code
			line["reason"] = event.Reason
			line["cause"] = event.Cause
		}
		s.print(line)
		if line["event"] == "message" {
			select {
			case <-time.After(milliseconds(o.Delay)):
			case <-s.over.Done():
			}
		}
	}
}

// begun is the context of a call. The package looks for its end when the request is on its way:
// calls that shall keep their order, each in a goroutine, need to know that.
type begun struct {
	context.Context
	once sync.Once
	way  chan struct{}
}

func (b *begun) Done() <-chan struct{} {
	b.once.Do(func() { close(b.way) })
	return b.Context.Done()
}

// begin runs a call, and returns as soon as its request is on its way.
func (s *script) begin(o order, call func(context.Context, *wsplugin.Host) (map[string]any, error)) {
	host := s.host
	if host == nil {
		s.report(o, nil, &wsplugin.PluginEnded{Reason: "no plugin has been started"})
		return
	}
	ctx := &begun{Context: context.Background(), way: make(chan struct{})}
	s.calls.Add(1)
	go func() {
		defer s.calls.Done()
		fields, err := call(ctx, host)
		ctx.Done()
		s.report(o, fields, err)
	}()
	<-ctx.way
}

func (s *script) beginOn(
	o order, call func(context.Context, *wsplugin.WebSocket) (map[string]any, error),
) {
	c := s.connections[o.To]
	if c == nil {
		s.report(o, nil, fmt.Errorf("there is no connection %q", o.To))
		return
	}
	s.begin(o, func(ctx context.Context, _ *wsplugin.Host) (map[string]any, error) {
		<-c.created
		if c.websocket == nil {
			return nil, fmt.Errorf("the connection %q could not be created", o.To)
		}
		return call(ctx, c.websocket)
	})
}

func (s *script) report(o order, fields map[string]any, err error) {
	line := map[string]any{"id": *o.ID}
	var refused *wsplugin.RequestError
	var ended *wsplugin.PluginEnded
	switch {
	case err == nil:
		line["outcome"] = "ok"
		for name, value := range fields {
			line[name] = value
		}
	case errors.As(err, &ended):
		line["outcome"] = "ended"
		line["message"] = ended.Reason
	case errors.As(err, &refused):
		line["outcome"] = "refused"
		line["code"] = refused.Code
		line["message"] = refused.Message
	default:
		line["outcome"] = "invalid"
		line["message"] = err.Error()
	}
	s.print(line)
}

func (s *script) print(line map[string]any) {
	s.printing.Lock()
	defer s.printing.Unlock()
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// text returns the text of the script. Half a surrogate pair, which the decoder would replace, is
// handed on as the bytes of which other decoders make it: no UTF-8.
func text(script json.RawMessage) string {
	var text string
	_ = json.Unmarshal(script, &text) // the whole line has been decoded before
	if bytes.Contains(script, []byte(`\ud`)) {
		text = strings.ReplaceAll(text, "\ufffd", "\xed\xa0\xbd")
	}
	return text
}

func milliseconds(ms float64) time.Duration {
	return time.Duration(ms * float64(time.Millisecond))
}
