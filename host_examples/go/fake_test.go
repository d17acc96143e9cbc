package wsplugin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// ceiling bounds what a test waits for; nothing takes that long.
const ceiling = 60 * time.Second

// TestMain runs this program as the plugin where a test has started it as such.
func TestMain(m *testing.M) {
	if os.Getenv("WSPLUGIN_FAKE") != "" {
		fake(os.Args[1])
		os.Exit(0)
	}
	os.Setenv("WSPLUGIN_FAKE", "1")
	os.Exit(m.Run())
}

// fake is a plugin without a network: every connection opens at once and echoes. It writes the
// lines that it reads to stderr. Texts that it obeys: "flood N", "die", "last words".
func fake(kind string) {
	out := bufio.NewWriter(os.Stdout)
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	event := func(id, name, payload string) {
		say(`{"event": "websocket-event", "payload": {"id": %q, "name": %q, "payload": %s}}`, id, name, payload)
	}
	in := bufio.NewReader(os.Stdin)
	connections := 0
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		if kind == "echo" {
			os.Stderr.Write(line)
		}
		var request struct {
			ID      int
			Action  string
			Payload struct{ ID, Type, Data, URL string }
		}
		if err := json.Unmarshal(line, &request); err != nil {
			panic(err)
		}
		id := request.Payload.ID
		switch request.Action {
		case "plugin-describe":
			say(`{"id": %d, "response": {"name": "wsplugin", "protocol": 1, "features": ["pause"]}}`, request.ID)
		case "websocket-create":
			if request.Payload.URL == "ws://slow/" {
				time.Sleep(100 * time.Millisecond)
			}
			connections++
			id = fmt.Sprintf("ws-%d", connections)
			say(`{"id": %d, "response": {"id": %q}}`, request.ID, id)
			event(id, "open", `{"headers": {}, "protocol": "p", "profile": {"rtt": 1.5, "later": true}}`)
		case "websocket-send":
			if request.Payload.Data == "never answered" {
				break
			}
			say(`{"id": %d, "response": {}}`, request.ID)
			if count, flood := strings.CutPrefix(request.Payload.Data, "flood "); flood {
				n, _ := strconv.Atoi(count)
				for i := range n {
					event(id, "message", fmt.Sprintf(`{"type": "text", "data": "%d"}`, i))
				}
			} else if request.Payload.Data == "die" {
				out.Flush()
				os.Exit(7)
			} else {
				data, _ := json.Marshal(map[string]string{"type": request.Payload.Type, "data": request.Payload.Data})
				event(id, "message", string(data))
			}
		case "websocket-close":
			say(`{"id": %d, "response": {}}`, request.ID)
			event(id, "close", `{"code": 1000, "reason": "", "cause": "host"}`)
		case "websocket-ping":
			say(`{"id": %d, "response": {"rtt": 2.5}}`, request.ID)
		default:
			say(`{"id": %d, "response": {}}`, request.ID)
		}
		out.Flush()
	}
}

// lines is an io.Writer that keeps what a fake has written to its stderr.
type lines struct {
	mu   sync.Mutex
	all  []string
	more chan struct{}
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(line))
	signal(l.more)
	return len(line), nil
}

// waitFor waits for a line that has all of these words.
func (l *lines) waitFor(t *testing.T, words ...string) string {
	t.Helper()
	end := time.After(ceiling)
	for {
		l.mu.Lock()
		for _, line := range l.all {
			found := true
			for _, word := range words {
				found = found && strings.Contains(line, word)
			}
			if found {
				l.mu.Unlock()
				return line
			}
		}
		l.mu.Unlock()
		select {
		case <-l.more:
		case <-end:
			t.Fatalf("no line with %q", words)
		}
	}
}

// waitForCount waits until there are so many lines with this word.
func (l *lines) waitForCount(t *testing.T, word string, count int) {
	t.Helper()
	end := time.After(ceiling)
	for l.count(word) < count {
		select {
		case <-l.more:
		case <-end:
			t.Fatalf("not %d lines with %s", count, word)
		}
	}
}

func (l *lines) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for _, line := range l.all {
		count += strings.Count(line, word)
	}
	return count
}

// startFake starts this program as a plugin, whose stderr goes there.
func startFake(t *testing.T, kind string, stderr io.Writer) *Host {
	t.Helper()
	host, err := Start(t.Context(), Options{Command: []string{os.Args[0], kind}, Stderr: stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host
}
