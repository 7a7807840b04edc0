package main

import (
	"io"
	"net"
	"os"
	"strconv"
	"testing"
)

func TestRole(t *testing.T) {
	for name, want := range map[string]string{"ingester-3": "ingester", "backend-1": "backend", "redis": "redis", "query-frontend-12": "query-frontend"} {
		if got := role(name); got != want {
			t.Errorf("%s has the role %q, want %q", name, got, want)
		}
	}
}

// TestCPU checks that an existing process has used some CPU time, and a missing one none.
func TestCPU(t *testing.T) {
	for sum, i := 0, 0; i < 200_000_000; i++ {
		sum += i
		if sum == -1 {
			t.Log(sum)
		}
	}
	if got := cpu(strconv.Itoa(os.Getpid())); got <= 0 {
		t.Errorf("this process used %v seconds", got)
	}
	if got := cpu("0"); got != 0 {
		t.Errorf("a missing process used %v seconds", got)
	}
}

// TestWires checks that bytes to an ingester are forwarded and counted, and that connections to
// other processes bypass the counter.
func TestWires(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		text := make([]byte, 5)
		_, _ = io.ReadFull(c, text)
		got <- string(text)
	}()
	var w wires
	if through := w.through("backend-1", l.Addr().String()); through != l.Addr().String() {
		t.Errorf("address of a backend = %s", through)
	}
	c, err := net.Dial("tcp", w.through("ingester-1", l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if text := <-got; text != "hello" || w.bytes.Load() != 5 {
		t.Errorf("forwarded %q, counted %d bytes", text, w.bytes.Load())
	}
}
