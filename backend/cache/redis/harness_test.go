package redis

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/backend/cache/sealed"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/test/kit"
)

// patient is a timeout that is not reached even on a busy machine.
const patient = 30 * time.Second

// client returns a client of a server, with a password if the server has one.
func client(t testing.TB, c redisconn.Config, password string) goredis.UniversalClient {
	t.Helper()
	out, err := redisconn.Open(c, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return out
}

func at(addr string) redisconn.Config { return redisconn.Config{Addresses: []string{addr}} }

// seal returns the seal of a cluster whose secrets consist of the letters.
func seal(t testing.TB, letters string) *sealed.Seal {
	t.Helper()
	var secrets [][]byte
	for _, l := range letters {
		secrets = append(secrets, bytes.Repeat([]byte{byte(l)}, 32))
	}
	s, err := sealed.New(secrets)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start returns a cache that waits patiently, unless the options say otherwise.
func start(t testing.TB, c goredis.UniversalClient, o Options) *Cache {
	t.Helper()
	if o.Seal == nil {
		o.Seal = seal(t, "a")
	}
	if o.GetTimeout == 0 {
		o.GetTimeout = patient
	}
	if o.PutTimeout == 0 {
		o.PutTimeout = patient
	}
	out := New(c, o)
	t.Cleanup(func() { _ = out.Close() })
	return out
}

// settle waits until all values are written or dropped.
func settle(t testing.TB, c *Cache) {
	t.Helper()
	kit.Until(t, "the values are written", func() bool { return c.queue.size() == 0 })
}

// looked and put return how many keys and values had a result.
func (c *Cache) looked(result string) float64 {
	return testutil.ToFloat64(c.metrics.lookups.WithLabelValues(result))
}

func (c *Cache) put(result string) float64 {
	return testutil.ToFloat64(c.metrics.puts.WithLabelValues(result))
}

// fake starts a server that completes the handshake of a client and responds to each GETRANGE and
// SET with the text that answer returns. If the text is empty, it never responds.
func fake(t *testing.T, answer func(command string) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			all.Go(func() { serve(conn, answer) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

func serve(conn net.Conn, answer func(string) string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		reply := "+OK\r\n"
		switch command {
		case "HELLO":
			reply = "-ERR unknown command 'HELLO'\r\n"
		case "GETRANGE", "SET":
			reply = answer(command)
		}
		if _, err := io.WriteString(conn, reply); err != nil {
			return
		}
	}
}

// readCommand reads a command and returns its name.
func readCommand(r *bufio.Reader) (string, error) {
	n, err := readLength(r)
	if err != nil {
		return "", err
	}
	name := ""
	for i := range n {
		size, err := readLength(r)
		if err != nil {
			return "", err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if i == 0 {
			name = strings.ToUpper(string(b[:size]))
		}
	}
	return name, nil
}

func readLength(r *bufio.Reader) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
