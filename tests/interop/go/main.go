// Echo servers on github.com/gorilla/websocket and github.com/coder/websocket, which the first
// argument chooses between. What they understand is said in ../apps/words.py.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

const (
	protocol  = "interop.v2"
	maxSize   = 8 << 20
	quietTime = 2500 * time.Millisecond
	// Splits characters of the text, which has 12 bytes to a repetition, now and then.
	fragment = 99991
)

var longText = strings.Repeat("é0123456789", 1<<18)

func closeArguments(text string) (int, string) {
	parts := strings.SplitN(text, " ", 3)
	code, err := strconv.Atoi(parts[1])
	if err != nil {
		log.Fatal(err)
	}
	return code, parts[2]
}

func tellClose(code int, reason string) {
	fmt.Println(strings.TrimRight(fmt.Sprintf("closed %d %s", code, reason), " "))
}

func writeLong(w io.WriteCloser) error {
	for at := 0; at < len(longText); at += fragment {
		end := at + fragment
		if end > len(longText) {
			end = len(longText)
		}
		if _, err := io.WriteString(w, longText[at:end]); err != nil {
			return err
		}
	}
	return w.Close()
}

func serveGorilla(w http.ResponseWriter, r *http.Request) {
	upgrader := gorilla.Upgrader{Subprotocols: []string{protocol}, EnableCompression: true}
	header := http.Header{"X-Interop-Echo": {r.Header.Get("X-Interop")}}
	conn, err := upgrader.Upgrade(w, r, header)
	if err != nil {
		log.Print(err)
		return
	}
	defer conn.Close()
	conn.SetReadLimit(maxSize)
	conn.SetPongHandler(func(string) error {
		// The handler runs on the only goroutine that reads, so it does not wait itself.
		time.AfterFunc(quietTime, func() {
			conn.WriteMessage(gorilla.TextMessage, []byte("still here"))
		})
		return nil
	})
	for {
		kind, data, err := conn.ReadMessage()
		var closed *gorilla.CloseError
		if errors.As(err, &closed) {
			tellClose(closed.Code, closed.Text)
		}
		if err != nil {
			return
		}
		text := string(data)
		switch {
		case kind == gorilla.BinaryMessage:
			err = conn.WriteMessage(kind, data)
		case text == "long":
			var w io.WriteCloser
			if w, err = conn.NextWriter(kind); err == nil {
				err = writeLong(w)
			}
		case text == "quiet":
			err = conn.WriteControl(gorilla.PingMessage, []byte("gorilla"), time.Now().Add(time.Second))
		case strings.HasPrefix(text, "close "):
			code, reason := closeArguments(text)
			frame := gorilla.FormatCloseMessage(code, reason)
			err = conn.WriteControl(gorilla.CloseMessage, frame, time.Now().Add(time.Second))
		default:
			err = conn.WriteMessage(kind, data)
		}
		if err != nil {
			log.Print(err)
			return
		}
	}
}

func serveCoder(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Interop-Echo", r.Header.Get("X-Interop"))
	conn, err := coder.Accept(w, r, &coder.AcceptOptions{
		Subprotocols:         []string{protocol},
		CompressionMode:      coder.CompressionContextTakeover,
		CompressionThreshold: 1,
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxSize)
	ctx := context.Background()
	for {
		kind, data, err := conn.Read(ctx)
		var closed coder.CloseError
		if errors.As(err, &closed) {
			tellClose(int(closed.Code), closed.Reason)
		}
		if err != nil {
			return
		}
		text := string(data)
		switch {
		case kind == coder.MessageBinary:
			err = conn.Write(ctx, kind, data)
		case text == "long":
			var w io.WriteCloser
			if w, err = conn.Writer(ctx, kind); err == nil {
				err = writeLong(w)
			}
		case text == "quiet":
			// It returns when the Pong has been read, which this goroutine does below.
			go func() {
				if err := conn.Ping(ctx); err != nil {
					log.Print(err)
					return
				}
				time.Sleep(quietTime)
				conn.Write(ctx, coder.MessageText, []byte("still here"))
			}()
		case strings.HasPrefix(text, "close "):
			code, reason := closeArguments(text)
			err = conn.Close(coder.StatusCode(code), reason)
			if err == nil {
				return
			}
		default:
			err = conn.Write(ctx, kind, data)
		}
		if err != nil {
			log.Print(err)
			return
		}
	}
}

func main() {
	handlers := map[string]http.HandlerFunc{"gorilla": serveGorilla, "coder": serveCoder}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, handlers[os.Args[1]]))
}
