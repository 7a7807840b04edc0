package programs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// RedisServer is a redis-server process of a test.
type RedisServer struct {
	Addr string
	t    testing.TB
	args []string
	cmd  *exec.Cmd
}

// Redis starts a redis-server without persistence, with args as additional arguments.
// The server is stopped when the test ends.
func Redis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	s := &RedisServer{Addr: kit.FreeAddr(t), t: t, args: args}
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// Start starts or restarts the server, with no data, and waits until it answers.
func (s *RedisServer) Start() {
	s.t.Helper()
	path := os.Getenv("REDIS_SERVER")
	if path == "" {
		path = "redis-server"
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--port", port, "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", s.t.TempDir(), "--loglevel", "warning"}, s.args...)
	s.cmd = exec.Command(path, args...)
	if err := s.cmd.Start(); errors.Is(err, exec.ErrNotFound) {
		s.t.Fatal("redis-server is not installed: install it (Debian: apt-get install redis-server) or set REDIS_SERVER to its path")
	} else if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		if answers(ctx, s.Addr) {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatalf("redis-server at %s does not answer", s.Addr)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// answers reports whether the server answers a PING, sent as an inline command.
func answers(ctx context.Context, addr string) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := fmt.Fprint(c, "PING\r\n"); err != nil {
		return false
	}
	b := make([]byte, 64)
	n, _ := c.Read(b)
	return strings.HasPrefix(string(b[:n]), "+PONG") || strings.HasPrefix(string(b[:n]), "-NOAUTH")
}

// Kill ends the server at once; its data is lost.
func (s *RedisServer) Kill() { s.signal(syscall.SIGKILL) }

func (s *RedisServer) signal(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
	s.cmd = nil
}
