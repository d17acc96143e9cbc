// The story that all the examples tell, with the package two folders above.
//
// An echo server, then the demo; the plugin's command line may follow the URL:
//
// $ python3 -m venv .venv && .venv/bin/pip install .
// $ python3 host_examples/python/echo_server.py 8765 &
// $ go build -C host_examples/go -o demo ./cmd/demo
// $ host_examples/go/demo ws://127.0.0.1:8765/ .venv/bin/wsplugin

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"wsplugin"
)

func main() {
	url := "ws://127.0.0.1:8765/"
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	var command []string
	if len(os.Args) > 2 {
		command = os.Args[2:]
	}
	if err := tell(context.Background(), url, command); err != nil {
		var ended *wsplugin.PluginEnded
		if errors.As(err, &ended) {
			fmt.Fprint(os.Stderr, "PluginEnded: ")
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// tell runs the plugin, tells the story, and stops the plugin.
func tell(ctx context.Context, url string, command []string) error {
	host, err := wsplugin.Start(ctx, wsplugin.Options{Command: command})
	if err != nil {
		return err
	}
	defer host.Close()
	websocket, err := host.Create(ctx, url, nil)
	if err != nil {
		return err
	}
	for event := range websocket.Events(ctx) {
		var err error
		switch event := event.(type) {
		case wsplugin.Open:
			fmt.Println("open")
			err = websocket.SendText(ctx, "Grüße 👋")
		case wsplugin.Message:
			if event.Text {
				fmt.Printf("text: %s\n", event.Data)
				err = websocket.SendBinary(ctx, []byte{0x00, 0x01, 0x7f, 0x80, 0xff})
			} else {
				fmt.Printf("binary: % x\n", event.Data)
				err = websocket.CloseWith(ctx, 1000, "done", 0)
			}
		case wsplugin.Error:
			fmt.Printf("error: %s: %s\n", event.Code, event.Message)
		case wsplugin.Close:
			fmt.Printf("close: %d %s (%s)\n", event.Code, event.Reason, event.Cause)
		}
		if err != nil {
			return err
		}
	}
	err = websocket.SendText(ctx, "too late")
	var refused *wsplugin.RequestError
	if !errors.As(err, &refused) {
		return err
	}
	fmt.Println("refused:", refused.Code)
	fmt.Println("exit status:", host.Stop(ctx))
	return nil
}
