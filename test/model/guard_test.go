package model

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/palliumhq/pallium/test/kit"
)

// guard starts a shell that kills the processes whose IDs are in files *.pid of the directory
// if the test ends without cleanups, because the test is killed or panics after -timeout.
// Otherwise the shell ends with the test.
func guard(t *testing.T, dir string) {
	t.Helper()
	const script = `read -r _ && exit; for f in "$1"/*.pid; do [ -s "$f" ] && kill -9 "$(cat "$f")"; done`
	cmd := exec.Command("sh", "-c", script, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of the test must not reach the shell
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = in.Write([]byte("done\n")) // the shell may have been killed
		_ = cmd.Wait()
	})
}

// noteProcess writes a process ID to the directory that the guard reads.
func noteProcess(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "pallium.pid"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestGuard checks that the processes that a test started end when the test is killed.
func TestGuard(t *testing.T) {
	if dir := os.Getenv("MODEL_GUARDED"); dir != "" { // in the test that is killed
		guard(t, dir)
		sleep := exec.Command("sleep", "600")
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		noteProcess(t, dir, sleep.Process.Pid)
		_ = sleep.Wait() // killed: the error is expected
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestGuard$")
	cmd.Env = append(os.Environ(), "MODEL_GUARDED="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	kit.Until(t, "the process has started", func() bool {
		data, _ := os.ReadFile(filepath.Join(dir, "pallium.pid")) // may not exist yet
		pid, _ = strconv.Atoi(string(data))
		return pid > 0
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed: the error is expected
	kit.Until(t, "the process has ended", func() bool { return ended(pid) })
}

// ended reports whether a process has ended. A zombie counts as ended.
func ended(pid int) bool {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err != nil || len(data) > 0 && stateOf(string(data)) == 'Z'
}

// stateOf returns the state in a line of /proc/PID/stat.
func stateOf(line string) byte {
	for i := len(line) - 1; i > 1; i-- {
		if line[i-1] == ')' && i+1 < len(line) {
			return line[i+1]
		}
	}
	return 0
}
