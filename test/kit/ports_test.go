package kit

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const child = "PALLIUM_TEST_PORTS_CHILD"

// TestMain lets the test run itself as a second process, which reserves one of two
// ports and holds it until its standard input is closed.
func TestMain(m *testing.M) {
	if os.Getenv(child) == "" {
		os.Exit(m.Run())
	}
	port, err := between(lowest, lowest+2)
	if err != nil {
		port = err.Error()
	}
	os.Stdout.WriteString(port + "\n")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

// TestPortsAreUnique checks that no port is returned twice, although nothing listens on any of
// them. Fifty of a hundred ports drawn at random without a repetition cannot be chance.
func TestPortsAreUnique(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	seen := map[string]bool{}
	for range 50 {
		port, err := between(highest-100, highest)
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %s was returned twice", port)
		}
		seen[port] = true
	}
}

// TestPortsOfOtherProcesses checks that a port that a running process has reserved is not returned
// to another one, and is free again when that process has ended.
func TestPortsOfOtherProcesses(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	first, end := process(t)
	second, endSecond := process(t)
	if first == second {
		t.Errorf("two processes got port %s", first)
	}
	third, endThird := process(t)
	if !strings.Contains(third, "all ports are in use") {
		t.Errorf("a third process got %s of two ports", third)
	}
	endThird()
	end()
	again, endAgain := process(t)
	if again != first {
		t.Errorf("after the process with port %s ended, another process got port %s", first, again)
	}
	endAgain()
	endSecond()
}

func process(t *testing.T) (port string, end func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), child+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
}
