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

// TestCPU: a process that exists has used some time, one that does not none.
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
		t.Errorf("no process used %v seconds", got)
	}
}

// TestWires: bytes to an ingester go through and are counted, those to others go past.
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
		t.Errorf("a backend is reached by %s", through)
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
		t.Errorf("%q came through, %d bytes were counted", text, w.bytes.Load())
	}
}
