package wsplugin_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"time"

	"wsplugin"
)

// One connection over a plugin of its own.
func Example() {
	ctx := context.Background()
	host, err := wsplugin.Start(ctx, wsplugin.Options{
		Command: []string{"wsplugin", "--allow-host", "example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	websocket, err := host.Create(ctx, "wss://example.com/", &wsplugin.CreateOptions{
		Protocols: []string{"chat"},
		Timeout:   5 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	for event := range websocket.Events(ctx) {
		switch event := event.(type) {
		case wsplugin.Open:
			err = websocket.SendText(ctx, "hello")
		case wsplugin.Message:
			fmt.Printf("%s\n", event.Data)
			err = websocket.Close()
		case wsplugin.Error:
			log.Println(event.Code, event.Message)
		}
		if err != nil {
			log.Println(err)
			break // which closes the connection
		}
	}
}

// A connection that is made again whenever it ends, with longer and longer pauses between, which
// chance spreads: after a server's fault all its clients come back, and should not at once. What
// was sent and not answered before the end may have arrived or not: to send it again is for an
// app that can tell.
func ExampleSupervisor() {
	ctx := context.Background()
	supervisor, err := wsplugin.Supervise(ctx, wsplugin.Options{}, func(death wsplugin.Death) {
		log.Println(death.Reason, "started again in", death.Wait)
	})
	if err != nil {
		log.Fatal(err)
	}
	defer supervisor.Close()
	networkChanged := make(chan struct{}) // from the system
	pause := time.Second
	for ctx.Err() == nil {
		websocket, err := supervisor.Create(ctx, "wss://example.com/", nil)
		var refused *wsplugin.RequestError
		if errors.As(err, &refused) {
			log.Fatal(err) // it will be refused again
		}
		if err == nil {
			over := make(chan struct{})
			go func() {
				for {
					select {
					case <-networkChanged:
						// It still works, or it fails now and not in minutes: the events tell which.
						_, _ = websocket.Ping(ctx, 3*time.Second)
					case <-over:
						return
					}
				}
			}()
			for event := range websocket.Events(ctx) {
				switch event := event.(type) {
				case wsplugin.Open:
					pause = time.Second
				case wsplugin.Message:
					fmt.Printf("%s\n", event.Data)
				case wsplugin.Close:
					log.Println(event.Code, event.Reason)
				}
			}
			close(over)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, time.Minute)
	}
}
