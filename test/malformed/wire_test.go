package malformed

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// wire writes requests that are not valid HTTP, or unusual, to both listeners, and checks the
// status of each response.
func wire(t *testing.T, b *bench) {
	edge, admin := strings.TrimPrefix(b.p.Edge, "http://"), strings.TrimPrefix(b.p.Admin, "http://")
	auth := "Host: x\r\nAuthorization: Bearer " + b.team + "\r\n"
	push := "POST /api/v1/push HTTP/1.1\r\n" + auth
	get := "GET /prometheus/api/v1/query?query=kept HTTP/1.1\r\n" + auth
	rows := []struct{ name, addr, send, want string }{
		{"not HTTP", edge, "hello\r\n\r\n", "400"},
		{"not HTTP, admin", admin, "hello\r\n\r\n", "400"},
		{"TLS", edge, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
		{"zeros", admin, strings.Repeat("\x00", 2000) + "\r\n\r\n", "400"},
		{"HTTP/1.0", edge, "GET /prometheus/api/v1/status/buildinfo HTTP/1.0\r\n\r\n", "200"},
		{"HTTP/1.0, chunked", edge, "POST /api/v1/push HTTP/1.0\r\n" + auth + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"two equal lengths", edge, push + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", "400"},
		{"folded line", edge, get + "X-Y: a\r\n b\r\n\r\n", "400"},
		{"bare line feed", edge, get + "X-Y: a\n\r\n", "400"},
		{"HTTP/3.0", edge, "GET / HTTP/3.0\r\nHost: x\r\n\r\n", "505"},
		{"no Host", edge, "GET /ready HTTP/1.1\r\n\r\n", "400"},
		{"two Hosts", edge, "GET /ready HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
		{"whole URL", edge, "GET http://other/prometheus/api/v1/query HTTP/1.1\r\n" + auth + "\r\n", "400"},
		{"CONNECT", edge, "CONNECT other:443 HTTP/1.1\r\n" + auth + "\r\n", "400"},
		{"two lengths", edge, push + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", "400"},
		{"length and chunks", edge, push + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"length that is no number", edge, push + "Content-Length: many\r\n\r\n", "400"},
		{"negative length", edge, push + "Content-Length: -1\r\n\r\n", "400"},
		{"unknown transfer encoding", edge, push + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"},
		{"broken chunk", edge, push + "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", "400"},
		{"huge chunk size", edge, push + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc", "400"},
		{"header without a colon", edge, get + "nonsense\r\n\r\n", "400"},
		{"header with a space", edge, get + "X Y: z\r\n\r\n", "400"},
		{"header with a zero", edge, get + "X-Y: a\x00b\r\n\r\n", "400"},
		{"huge header", edge, get + "X-Y: " + strings.Repeat("a", 2<<20) + "\r\n\r\n", "431"},
		{"many headers", admin, "GET /ready HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Y: 0123456789\r\n", 200000) + "\r\n", "431"},
		{"huge request line", edge, "GET /" + strings.Repeat("a", 2<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "414"},
		{"two authorizations", edge, get + "Authorization: Bearer x\r\n\r\n", "400"},
		{"body cut off", edge, push + "Content-Length: 1000\r\n\r\nabc", "400"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := converse(t, r.addr, r.send)
			if !strings.HasPrefix(got, "HTTP/1.1 "+r.want) && !strings.HasPrefix(got, "HTTP/1.0 "+r.want) {
				t.Errorf("response = %.300q, want status %s", got, r.want)
			}
		})
	}
}

// converse sends, closes the sending side of the connection, and reads to the end. The
// server may respond and close before it has read everything.
func converse(t *testing.T, addr, send string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	_, werr := io.WriteString(c, send)
	if half, ok := c.(*net.TCPConn); ok && werr == nil {
		if err := half.CloseWrite(); err != nil {
			t.Log(err)
		}
	}
	var got strings.Builder
	if _, err := io.Copy(&got, c); err != nil && got.Len() == 0 {
		t.Errorf("no response: %v (write: %v)", err, werr)
	}
	return got.String()
}
