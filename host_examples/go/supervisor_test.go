package wsplugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is one that a test sets. Short waits are over at once, and have taken their time then.
type clock struct {
	mu    sync.Mutex
	time  time.Time
	waits []time.Duration
	long  chan time.Time // what a wait of more than two seconds waits for
}

func newClock() *clock { return &clock{time: time.Now(), long: make(chan time.Time)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.time = c.time.Add(d)
}

func (c *clock) after(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	c.waits = append(c.waits, d)
	c.mu.Unlock()
	if d > 2*time.Second {
		return c.long
	}
	c.pass(d)
	over := make(chan time.Time, 1)
	over <- c.now()
	return over
}

func supervised(t *testing.T, clock *clock, command []string, onDeath func(Death)) *Supervisor {
	t.Helper()
	s, err := supervise(t.Context(), Options{Command: command}, onDeath, clock.now, clock.after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// kill ends the plugin that runs, and returns its process ID.
func kill(t *testing.T, s *Supervisor) int {
	t.Helper()
	host, err := s.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host.kill()
	<-host.Done()
	return host.PID()
}

func TestAPluginThatDiesIsStartedAgainButNotForEver(t *testing.T) {
	clock := newClock()
	deaths := make(chan Death, 20)
	s := supervised(t, clock, []string{os.Args[0], "silent"}, func(d Death) { deaths <- d })
	for range 2 {
		for n := range 4 {
			kill(t, s)
			// A create waits for the next one.
			websocket, err := s.Create(t.Context(), "ws://fake/", nil)
			if err != nil {
				t.Fatal(err)
			}
			next[Open](t, websocket)
			if death := <-deaths; death.Starts != n+1 || death.GaveUp || death.Reason == nil {
				t.Errorf("%+v", death)
			}
			clock.pass(time.Second)
		}
		// The fifth start was the last for three minutes after the first.
		kill(t, s)
		if death := <-deaths; !death.GaveUp || death.Starts != 5 {
			t.Errorf("%+v", death)
		}
		if _, err := s.Create(t.Context(), "ws://fake/", nil); err == nil || !strings.Contains(err.Error(), "5 times in 3m0s") {
			t.Error(err)
		}
		clock.pass(3 * time.Minute)
		clock.long <- clock.now()
		// There is another one; when it has come cannot be seen but by its coming.
		for {
			if _, err := s.Create(t.Context(), "ws://fake/", nil); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	const most = 3 * time.Minute
	expected := []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, most - 7500*time.Millisecond}
	if waits := clock.waits; !slices.Equal(waits, append(expected, expected...)) {
		t.Error(waits)
	}
}

func TestAFirstStartThatFailsIsTold(t *testing.T) {
	if _, err := Supervise(t.Context(), Options{Command: []string{"/nowhere"}}, nil); err == nil {
		t.Error("started")
	}
}

func TestAStartThatFailsCountsAsADeath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wsplugin")
	if err := os.Symlink(os.Args[0], path); err != nil {
		t.Fatal(err)
	}
	gaveUp := make(chan Death, 20)
	s := supervised(t, newClock(), []string{path, "silent"}, func(d Death) {
		if d.GaveUp {
			gaveUp <- d
		}
	})
	host, _ := s.Host(t.Context())
	os.Remove(path)
	host.kill()
	if death := <-gaveUp; !strings.Contains(death.Reason.Error(), "no such file") {
		t.Error(death.Reason)
	}
	if err := s.Close(); err == nil {
		t.Error("its last plugin was killed")
	}
	if _, err := s.Create(t.Context(), "ws://fake/", nil); err == nil {
		t.Error("created after the close")
	}
}

func TestACreateThatWaitsEndsWithItsContextAndWithTheSupervisor(t *testing.T) {
	clock := newClock()
	dead := make(chan Death)
	s := supervised(t, clock, []string{os.Args[0], "silent"}, func(d Death) { dead <- d })
	host, _ := s.Host(t.Context())
	host.kill()
	<-host.Done()
	// onDeath has not returned, so it is not started again.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Create(ctx, "ws://fake/", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	waiting := make(chan error)
	go func() {
		_, err := s.Create(t.Context(), "ws://fake/", nil)
		waiting <- err
	}()
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	if err := <-waiting; err == nil || err.Error() != "the host has stopped the plugin" {
		t.Error(err)
	}
	<-dead
	<-closed
}

// Ten times in a minute, with everything that a plugin can be asked for going on.
func TestTenDeathsUnderLoad(t *testing.T) {
	command := []string{os.Args[0], "silent"}
	url := "ws://fake/"
	if path := os.Getenv("WSPLUGIN"); path != "" {
		command, url = []string{path}, "ws://127.0.0.1:1/" // where nobody listens
	}
	clock := newClock()
	var gaveUp atomic.Int64
	s := supervised(t, clock, command, func(d Death) {
		if d.GaveUp {
			gaveUp.Add(1)
			clock.pass(d.Wait)
			go func() { clock.long <- clock.now() }()
		}
	})
	var over atomic.Bool
	var load sync.WaitGroup
	var closed, failed atomic.Int64
	for range 8 {
		load.Add(1)
		go func() {
			defer load.Done()
			for !over.Load() {
				websocket, err := s.Create(t.Context(), url, nil)
				if err != nil {
					failed.Add(1)
					continue
				}
				var calls sync.WaitGroup
				for range 4 {
					calls.Add(1)
					go func() { // each of these returns
						defer calls.Done()
						_ = websocket.SendText(t.Context(), "x")
						_, _ = websocket.Ping(t.Context(), time.Second)
					}()
				}
				websocket.CloseWith(t.Context(), 0, "", 0)
				var last Event
				for last = range websocket.Events(t.Context()) {
				}
				if _, ok := last.(Close); !ok {
					t.Errorf("the last event was %#v", last)
				}
				calls.Wait()
				closed.Add(1)
			}
		}()
	}
	var pids []int
	for len(pids) < 10 {
		before := closed.Load()
		for closed.Load() < before+3 {
			time.Sleep(time.Millisecond) // until the load is on
		}
		if host, err := s.Host(t.Context()); err == nil {
			host.kill()
			<-host.Done()
			pids = append(pids, host.PID())
		}
	}
	over.Store(true)
	load.Wait()
	host, err := s.Host(t.Context())
	for err != nil { // given up: until the clock has been set
		time.Sleep(time.Millisecond)
		host, err = s.Host(t.Context())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, pid := range append(pids, host.PID()) {
		if !gone(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	if len(host.pending) > 0 || gaveUp.Load() != 2 {
		t.Error(len(host.pending), gaveUp.Load())
	}
	t.Logf("%d connections, %d creates failed", closed.Load(), failed.Load())
}
