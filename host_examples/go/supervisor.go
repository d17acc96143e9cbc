package wsplugin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// How often, and in which time, the plugin may be started, and how long it is waited before each
// start but the first.
var (
	startDelays = []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second}
	startWindow = 3 * time.Minute
)

// Death tells that the plugin has died, or could not be started again.
type Death struct {
	Reason error         // a [*PluginEnded]
	Starts int           // within the last three minutes
	Wait   time.Duration // until it is started again
	GaveUp bool          // five starts in three minutes were the last: until then every create fails
}

// Supervisor keeps a plugin running: one that dies is started again, at once, then after 0.5, 1
// and 2 s. After the fifth start within three minutes it fails at once until they have passed.
//
// When the plugin dies, every connection gets its [Close], with the cause "failure", and what was
// asked of it fails: nothing is sent twice. To connect again is the app's, see the example.
type Supervisor struct {
	options Options
	onDeath func(Death)
	now     func() time.Time
	after   func(time.Duration) <-chan time.Time
	over    context.Context
	end     context.CancelFunc
	ended   chan struct{}

	mu      sync.Mutex
	changed chan struct{} // closed at the next change of what follows
	host    *Host
	failure error // why there will be no host for some time
	starts  []time.Time
}

// Supervise starts the plugin and keeps it running until [Supervisor.Close]. That the first start
// fails is an error, and it is not tried again. onDeath may be nil; it is called from a goroutine
// of the supervisor, which waits for it.
func Supervise(ctx context.Context, options Options, onDeath func(Death)) (*Supervisor, error) {
	return supervise(ctx, options, onDeath, time.Now, time.After)
}

func supervise(
	ctx context.Context, options Options, onDeath func(Death),
	now func() time.Time, after func(time.Duration) <-chan time.Time,
) (*Supervisor, error) {
	s := &Supervisor{
		options: options, onDeath: onDeath, now: now, after: after,
		starts: []time.Time{now()}, changed: make(chan struct{}), ended: make(chan struct{}),
	}
	host, err := Start(ctx, options)
	if err != nil {
		return nil, err
	}
	s.host = host
	s.over, s.end = context.WithCancel(context.Background())
	go s.run(host)
	return s, nil
}

// Create creates a connection, as [Host.Create] does. While the plugin is started again it waits.
func (s *Supervisor) Create(ctx context.Context, url string, options *CreateOptions) (*WebSocket, error) {
	for {
		host, err := s.Host(ctx)
		if err != nil {
			return nil, err
		}
		w, err := host.Create(ctx, url, options)
		var ended *PluginEnded
		if !errors.As(err, &ended) || !ended.unsent {
			return w, err
		}
		// It has died before it was asked. Its successor is there when this is known here as well.
		select {
		case <-host.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Host returns the host of the plugin that runs, as soon as there is one: for all that is asked
// of a plugin beyond connections, which know theirs.
func (s *Supervisor) Host(ctx context.Context) (*Host, error) {
	for {
		s.mu.Lock()
		host, failure, changed := s.host, s.failure, s.changed
		s.mu.Unlock()
		if failure != nil {
			return nil, failure
		}
		if host.Err() == nil {
			return host, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close stops the plugin, for good, and returns an error if it did not end with status 0.
func (s *Supervisor) Close() error {
	s.end()
	s.change(nil, &PluginEnded{Reason: "the host has stopped the plugin", unsent: true})
	<-s.ended
	return s.host.Close()
}

func (s *Supervisor) run(host *Host) {
	defer close(s.ended)
	for {
		select {
		case <-host.Done():
		case <-s.over.Done():
			return
		}
		reason := host.Err()
		for host = nil; host == nil; {
			if !s.pause(reason) {
				return
			}
			host, reason = Start(s.over, s.options)
		}
		s.change(host, nil)
	}
}

// pause waits until the plugin may be started again, unless the supervisor is closed before.
func (s *Supervisor) pause(reason error) bool {
	now := s.now()
	for len(s.starts) > 0 && now.Sub(s.starts[0]) >= startWindow {
		s.starts = s.starts[1:]
	}
	death := Death{Reason: reason, Starts: len(s.starts)}
	if death.Starts > len(startDelays) {
		death.GaveUp = true
		death.Wait = s.starts[0].Add(startWindow).Sub(now)
		s.change(nil, &PluginEnded{
			Reason: fmt.Sprintf("%v; it was started %d times in %v, and is not for %v",
				reason, death.Starts, startWindow, death.Wait.Round(time.Second)),
			unsent: true,
		})
	} else if death.Starts > 0 {
		death.Wait = startDelays[death.Starts-1]
	}
	if s.onDeath != nil {
		s.onDeath(death)
	}
	select {
	case <-s.after(death.Wait):
	case <-s.over.Done():
	}
	if s.over.Err() != nil {
		return false
	}
	s.starts = append(s.starts, s.now())
	return true
}

// change sets what creates get. What [Supervisor.Close] has set stays.
func (s *Supervisor) change(host *Host, failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if host != nil {
		s.host = host
	}
	if s.failure == nil || s.over.Err() == nil {
		s.failure = failure
	}
	close(s.changed)
	s.changed = make(chan struct{})
}
