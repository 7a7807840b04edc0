package gateway

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/gateway/conn"
)

// TestUnreadBody checks that the unread rest of a request body is never parsed as the
// next request of the connection, however much of it a handler read and whether or not it
// closed the body.
func TestUnreadBody(t *testing.T) {
	const size = 4 << 20
	handlers := map[string]func(http.ResponseWriter, *http.Request){
		"unread":       func(http.ResponseWriter, *http.Request) {},
		"closed":       func(_ http.ResponseWriter, r *http.Request) { _ = r.Body.Close() },
		"read in part": func(_ http.ResponseWriter, r *http.Request) { _, _ = io.CopyN(io.Discard, r.Body, 100) },
		"read and closed": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 100)
			_ = r.Body.Close()
		},
		"bounded": func(w http.ResponseWriter, r *http.Request) { newBody(w, r, 1000, nil).receive() },
	}
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, handle := range handlers {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", name, chunked), func(t *testing.T) {
				var calls atomic.Int32
				s := conn.Server(conn.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					calls.Add(1)
					handle(w, r)
				}), Logger: slog.New(slog.DiscardHandler)})
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				go func() { _ = s.Serve(conn.Guard(l, conn.HeaderBytes)) }()
				t.Cleanup(func() { _ = s.Close() })
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				go func() {
					body := strings.Repeat(smuggled, size/len(smuggled)+1)[:size]
					header := fmt.Sprintf("Content-Length: %d\r\n\r\n", size)
					if chunked {
						header = "Transfer-Encoding: chunked\r\n\r\n"
						body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body)
					}
					_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n"+header+body) // fails after the server has closed the connection
				}()
				in := bufio.NewReader(c)
				if resp, err := http.ReadResponse(in, nil); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					if more, err := http.ReadResponse(in, nil); err == nil {
						t.Errorf("second response: %s", more.Status)
					}
				}
				if n := calls.Load(); n != 1 {
					t.Errorf("%d requests were served, want 1", n)
				}
			})
		}
	}
}
