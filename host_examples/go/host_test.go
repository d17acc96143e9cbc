package wsplugin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func create(t *testing.T, host *Host) *WebSocket {
	t.Helper()
	websocket, err := host.Create(t.Context(), "ws://fake/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return websocket
}

// next returns the next event, which must be of this type.
func next[E Event](t *testing.T, websocket *WebSocket) E {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ceiling)
	defer cancel()
	event, err := websocket.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found, ok := event.(E)
	if !ok {
		t.Fatalf("%#v", event)
	}
	return found
}

func gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

// --- a connection -----------------------------------------------------------------------------

func TestAConnectionFromOpenToClose(t *testing.T) {
	host := startFake(t, "echo", newLines())
	websocket := create(t, host)
	if open := next[Open](t, websocket); open.Protocol != "p" || open.Profile["rtt"] != 1.5 {
		t.Errorf("%#v", open)
	}
	for _, data := range [][]byte{{0, 255}, {}, nil} {
		if err := websocket.SendBinary(t.Context(), data); err != nil {
			t.Fatal(err)
		}
		if message := next[Message](t, websocket); message.Text || !bytes.Equal(message.Data, data) {
			t.Errorf("%#v", message)
		}
	}
	text := "<&> \u2028 \ufffd \\ufffd 👋 \x00"
	if err := websocket.SendText(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if message := next[Message](t, websocket); !message.Text || string(message.Data) != text {
		t.Errorf("%#v", message)
	}
	if rtt, err := websocket.Ping(t.Context(), time.Second); err != nil || rtt != 2500*time.Microsecond {
		t.Error(rtt, err)
	}
	if err := websocket.Close(); err != nil {
		t.Fatal(err)
	}
	if end := next[Close](t, websocket); end != (Close{1000, "", "host"}) {
		t.Errorf("%#v", end)
	}
	if _, err := websocket.Next(t.Context()); err != io.EOF {
		t.Error(err)
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
	if !gone(host.PID()) {
		t.Error("it is still there")
	}
}

func TestOnlyWhatIsGivenIsWritten(t *testing.T) {
	log := newLines()
	host := startFake(t, "echo", log)
	create(t, host)
	_, err := host.Create(t.Context(), "ws://fake/all", &CreateOptions{
		Headers: map[string]string{"a": "b"}, Protocols: []string{"p"}, Timeout: 1500 * time.Millisecond,
		NoPerMessageDeflate: true, NoTCPNoDelay: true, App: "shop", HostHeaders: map[string]string{"Referer": "r"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, expected := range []string{
		`{"id":1,"action":"plugin-describe"}`,
		`{"id":2,"action":"websocket-create","payload":{"url":"ws://fake/","binaryType":"base64"}}`,
		`{"id":3,"action":"websocket-create","app":"shop","headers":{"Referer":"r"},"payload":` +
			`{"url":"ws://fake/all","binaryType":"base64","timeout":1500,"headers":{"a":"b"},"protocols":["p"],` +
			`"perMessageDeflate":false,"tcpNoDelay":false}}`,
	} {
		log.waitFor(t, expected+"\n")
	}
}

func TestATextThatIsNoneLeavesNothingPending(t *testing.T) {
	host := startFake(t, "echo", newLines())
	websocket := create(t, host)
	next[Open](t, websocket)
	bad := "half \xed\xa0\xbd a pair"
	errs := []error{
		websocket.SendText(t.Context(), bad),
		websocket.CloseWith(t.Context(), 0, bad, 0),
	}
	_, err := host.Create(t.Context(), "ws://fake/", &CreateOptions{Headers: map[string]string{"a": bad}})
	errs = append(errs, err)
	_, err = host.Request(t.Context(), "websocket-send", []any{bad})
	errs = append(errs, err)
	for _, err := range errs {
		if err != ErrText {
			t.Error(err)
		}
	}
	if _, err := host.Request(t.Context(), "x", math.NaN()); err == nil {
		t.Error("NaN is no JSON")
	}
	host.mu.Lock()
	defer host.mu.Unlock()
	if len(host.pending) != 0 {
		t.Error(len(host.pending))
	}
}

func TestLeavingTheLoopClosesTheConnection(t *testing.T) {
	log := newLines()
	host := startFake(t, "echo", log)
	left, other := create(t, host), create(t, host)
	if err := left.SendText(t.Context(), "there is more to come"); err != nil {
		t.Fatal(err)
	}
	for range left.Events(t.Context()) {
		for event := range left.Events(t.Context()) {
			t.Errorf("a second loop has seen %#v", event)
		}
		break
	}
	log.waitFor(t, "websocket-close", `"ws-1"`)
	// So does one whose context ends.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range other.Events(ctx) {
		cancel()
	}
	log.waitFor(t, "websocket-close", `"ws-2"`)
}

func TestALoopThatPanicsClosesItsConnectionAlone(t *testing.T) {
	log := newLines()
	host := startFake(t, "echo", log)
	faulty, other := create(t, host), create(t, host)
	func() {
		defer func() {
			if recover() != "a fault of the app" {
				t.Error("the fault is not told")
			}
		}()
		for range faulty.Events(t.Context()) {
			panic("a fault of the app")
		}
	}()
	log.waitFor(t, "websocket-close", `"ws-1"`)
	next[Open](t, other)
	if err := other.SendText(t.Context(), "still here"); err != nil {
		t.Error(err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	log := newLines()
	host := startFake(t, "echo", log)
	websocket := create(t, host)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := websocket.SendText(ctx, "never answered"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	// A connection whose create nobody waits for is closed again.
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := host.Create(ctx, "ws://slow/", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	log.waitFor(t, "websocket-close", `"ws-2"`)
}

func TestSeveralMayWaitForEvents(t *testing.T) {
	host := startFake(t, "flood", io.Discard)
	for range 50 {
		websocket := create(t, host)
		var messages atomic.Int64
		var waiting sync.WaitGroup
		for range 4 {
			waiting.Add(1)
			go func() {
				defer waiting.Done()
				for {
					event, err := websocket.Next(t.Context())
					if err == io.EOF {
						return
					}
					if _, ok := event.(Message); ok {
						messages.Add(1)
					}
				}
			}()
		}
		if err := websocket.SendText(t.Context(), "flood 100"); err != nil {
			t.Fatal(err)
		}
		if err := websocket.CloseWith(t.Context(), 0, "", 0); err != nil {
			t.Fatal(err)
		}
		waiting.Wait()
		if messages.Load() != 100 {
			t.Error(messages.Load())
		}
	}
}

// --- back-pressure ----------------------------------------------------------------------------

func TestTheAppsPauseAndThatOfAFullQueue(t *testing.T) {
	log := newLines()
	host := startFake(t, "echo", log)
	websocket := create(t, host)
	next[Open](t, websocket)
	for _, call := range []func(context.Context) error{websocket.Pause, websocket.Resume} {
		if err := call(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	log.waitFor(t, `"websocket-pause","payload":{"id":"ws-1"}`)
	log.waitFor(t, `"websocket-resume","payload":{"id":"ws-1"}`)
	if err := websocket.SendText(t.Context(), "flood 1500"); err != nil {
		t.Fatal(err)
	}
	log.waitForCount(t, "websocket-pause", 2)
	if err := websocket.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 1500 {
		next[Message](t, websocket)
	}
	// The queue is empty, and the app's pause is left.
	if err := websocket.SendText(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if log.count("websocket-resume") != 1 {
		t.Error("resumed")
	}
	if err := websocket.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	log.waitForCount(t, "websocket-resume", 2)
}

func TestManyEventsInLinearTime(t *testing.T) {
	host := startFake(t, "flood", io.Discard)
	drain := func(count string) time.Duration {
		websocket := create(t, host)
		next[Open](t, websocket)
		start := time.Now()
		if err := websocket.SendText(t.Context(), "flood "+count); err != nil {
			t.Fatal(err)
		}
		websocket.Close()
		for range websocket.Events(t.Context()) {
		}
		return time.Since(start)
	}
	few, many := drain("20000"), drain("200000")
	if many > 40*few {
		t.Errorf("%v for ten times as many as in %v", many, few)
	}
}

// --- the process ------------------------------------------------------------------------------

func TestAStartThatFailsSaysWhy(t *testing.T) {
	old := filepath.Join(t.TempDir(), "wsplugin")
	script := "#!/bin/sh\necho \"wsplugin: error: unrecognized arguments: $*\" >&2\nexit 2\n"
	if err := os.WriteFile(old, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		words   string
		command []string
	}{
		{"no such file", []string{"/nowhere/wsplugin"}},
		{"ended with status 7: words", []string{"sh", "-c", "echo words >&2; exit 7"}},
		{"no line of its protocol", []string{"echo", "no JSON"}},
		{"has not described itself within 300ms (command: sh -c ", []string{"sh", "-c", "exec sleep 60"}},
		{"this wsplugin is of 1.0", []string{old}},
	} {
		_, err := Start(t.Context(), Options{
			Command: test.command, Stderr: io.Discard, StartTimeout: 300 * time.Millisecond,
		})
		var ended *PluginEnded
		if !errors.As(err, &ended) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%v: %v", test.command, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{Command: []string{"sh", "-c", "exec sleep 60"}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := Start(t.Context(), Options{Command: []string{"/nowhere"}}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestOptionsAreAppendedUnlessTheyAreThere(t *testing.T) {
	options := func(o Options) string { return strings.Join(o.commandLine()[1:], " ") }
	if line := options(Options{}); !strings.HasPrefix(line, "--parent-pid ") || !strings.HasSuffix(line, " --exit-timeout 1.5") {
		t.Error(line)
	}
	named := []string{"w", "--parent-pid=1", "--exit-timeout", "9"}
	if line := options(Options{Command: named}); line != "--parent-pid=1 --exit-timeout 9" {
		t.Error(line)
	}
	if line := options(Options{Command: []string{"w", "x"}, CommandAsIs: true}); line != "x" {
		t.Error(line)
	}
}

func TestWhatIsPendingFailsWhenThePluginDies(t *testing.T) {
	host := startFake(t, "echo", newLines())
	websocket := create(t, host)
	next[Open](t, websocket)
	pending := make(chan error, 1)
	go func() { pending <- websocket.SendText(t.Context(), "never answered") }()
	if err := websocket.SendText(t.Context(), "die"); err != nil {
		t.Fatal(err)
	}
	var ended *PluginEnded
	if err := <-pending; !errors.As(err, &ended) {
		t.Error(err)
	}
	if end := next[Close](t, websocket); end.Code != 1006 || end.Cause != "failure" {
		t.Errorf("%#v", end)
	}
	<-host.Done()
	if err := host.Err(); !strings.HasPrefix(err.Error(), "the plugin ended with status 7") {
		t.Error(err)
	}
	if err := websocket.Close(); err == nil {
		t.Error("a close of a plugin that is gone")
	}
	if host.Stop(t.Context()) != 7 || host.Close() == nil {
		t.Error(host.status)
	}
}

// blocked is a stderr of the app that takes nothing.
type blocked chan struct{}

func (b blocked) Write([]byte) (int, error) {
	<-b
	return 0, errors.New("broken")
}

func TestAStderrThatBlocksStopsNothing(t *testing.T) {
	stderr := make(blocked)
	defer close(stderr)
	host := startFake(t, "echo", stderr)
	websocket := create(t, host)
	next[Open](t, websocket)
	// More than all buffers on the way hold, each line on stderr as well.
	for range 40 {
		if err := websocket.SendText(t.Context(), strings.Repeat("x", 1<<18)); err != nil {
			t.Fatal(err)
		}
		next[Message](t, websocket)
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
}

// --- the real plugin --------------------------------------------------------------------------

// realPlugin returns the command of the plugin in the variable WSPLUGIN.
func realPlugin(t *testing.T) []string {
	path := os.Getenv("WSPLUGIN")
	if path == "" {
		t.Skip("WSPLUGIN names no plugin")
	}
	if _, err := exec.LookPath(path); err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

// serve accepts WebSockets on loopback, and returns their URL.
func serve(t *testing.T, talk func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				reader := bufio.NewReader(connection)
				request, err := http.ReadRequest(reader)
				if err != nil {
					return
				}
				key := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
				io.WriteString(connection, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"+
					"Connection: Upgrade\r\nSec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(key[:])+"\r\n\r\n")
				talk(connection, reader)
			}()
		}
	}()
	return "ws://" + listener.Addr().String() + "/"
}

func TestAFloodIsHeldBack(t *testing.T) {
	var sent atomic.Int64
	frame := append([]byte{0x82, 127}, binary.BigEndian.AppendUint64(nil, 1<<16)...)
	frame = append(frame, bytes.Repeat([]byte{'x'}, 1<<16)...)
	url := serve(t, func(connection net.Conn, _ *bufio.Reader) {
		for range 100_000_000 >> 16 {
			if _, err := connection.Write(frame); err != nil {
				return
			}
			sent.Add(1 << 16)
		}
	})
	host, err := Start(t.Context(), Options{Command: realPlugin(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	live := func() uint64 {
		runtime.GC()
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		return memory.HeapAlloc
	}
	before := live()
	websocket, err := host.Create(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	next[Open](t, websocket)
	had := int64(0)
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); {
		had += int64(len(next[Message](t, websocket).Data))
		time.Sleep(50 * time.Millisecond) // the listener's work
	}
	grown, between := int64(live()-before), sent.Load()-had
	t.Logf("the heap has grown by %d KiB; %d KiB are on the way, %d KiB have come", grown>>10, between>>10, had>>10)
	if grown > 8<<20 || between > 16_000_000 || had < 1<<20 {
		t.Error("not held back")
	}
	// The stop notices nothing of it.
	if !host.Has("pause") {
		t.Error(host.Description())
	}
	start := time.Now()
	if status := host.Stop(t.Context()); status != 0 || time.Since(start) > 5*time.Second {
		t.Error(status, time.Since(start))
	}
}
