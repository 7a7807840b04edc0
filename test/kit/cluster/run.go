package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Reset deletes the data of an earlier run. The emulators start empty, and ingesters must not
// remember uploads to the emulators of the earlier run.
func (c *Cluster) Reset() error {
	var errs error
	for _, p := range c.Processes {
		errs = errors.Join(errs, os.RemoveAll(c.path(p.Name)), os.RemoveAll(c.path(p.Name+".log")))
	}
	return errs
}

// Up starts all processes in order, creates the tenant and its token, and writes
// cluster.env.
func (c *Cluster) Up(ctx context.Context) error {
	for _, name := range []string{"redis", "bigtable", "gcs"} {
		if err := c.Start(ctx, name); err != nil {
			return err
		}
	}
	if err := c.makeBucket(ctx); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.o.Binaries.Pallium, "migrate", "up", "-config", c.path("gateway-1.yaml"))
	cmd.Env = append(os.Environ(), "BIGTABLE_EMULATOR_HOST=", "STORAGE_EMULATOR_HOST=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pallium migrate up: %w\n%s", err, out)
	}
	for _, p := range c.Processes[3:] {
		if err := c.launch(p.Name); err != nil {
			return err
		}
	}
	for _, p := range c.Processes[3:] {
		if err := c.WaitReady(ctx, p.Name); err != nil {
			return err
		}
	}
	if err := c.provision(ctx); err != nil {
		return err
	}
	env := fmt.Sprintf("EDGE_URLS=%q\nADMIN_URL=%q\nTOKEN=%q\n", strings.Join(c.Edges, " "), c.AdminURL, c.Token)
	tmp := c.path("cluster.env.tmp")
	if err := os.WriteFile(tmp, []byte(env), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.path("cluster.env"))
}

// Start starts a process and waits until it is ready.
func (c *Cluster) Start(ctx context.Context, name string) error {
	if err := c.launch(name); err != nil {
		return err
	}
	return c.WaitReady(ctx, name)
}

// StartWith is Start with a command that wraps the program.
func (c *Cluster) StartWith(ctx context.Context, name, wrap string) error {
	if err := c.launch(name, "WRAP="+wrap); err != nil {
		return err
	}
	return c.WaitReady(ctx, name)
}

func (c *Cluster) launch(name string, env ...string) error {
	closeOnExec()
	cmd := exec.Command("sh", c.path(name+".sh"))
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("start %s: %w\n%s", name, err, out)
	}
	return nil
}

// closeOnExec marks the files that this process inherited from make or a shell as
// close-on-exec; otherwise the processes that it starts would keep them open. Files
// that Go opens are never inherited.
func closeOnExec() {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // not available on this system
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// AddIngester starts an additional ingester.
func (c *Cluster) AddIngester(ctx context.Context, name, zone string) error {
	c.backend(name, zone, "ingester")
	if err := c.writeFiles(); err != nil {
		return err
	}
	return c.Start(ctx, name)
}

// Process returns a process by its name.
func (c *Cluster) Process(name string) Process {
	for _, p := range c.Processes {
		if p.Name == name {
			return p
		}
	}
	panic("no process " + name)
}

// WaitReady waits until a process is ready.
func (c *Cluster) WaitReady(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := c.Process(name)
	var err error
	for {
		if p.Admin != "" {
			err = get(ctx, p.Admin+"/ready")
		} else {
			err = dial(ctx, p.Addr)
		}
		if err == nil {
			return nil
		}
		if pid := c.pid(name); pid > 0 && syscall.Kill(pid, 0) != nil {
			return fmt.Errorf("%s ended:\n%s", name, c.Log(name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready: %w\n%s", name, err, c.Log(name))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d %s", url, resp.StatusCode, bytes.TrimSpace(body))
	}
	return nil
}

func dial(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Log returns the last 8 KiB of a process's output.
func (c *Cluster) Log(name string) string {
	data, _ := os.ReadFile(c.path(name + ".log"))
	const most = 8 << 10
	return string(data[max(0, len(data)-most):])
}

func (c *Cluster) pid(name string) int {
	data, err := os.ReadFile(c.path(name + ".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

// Signal sends a signal to a process.
func (c *Cluster) Signal(name string, sig syscall.Signal) error {
	pid := c.pid(name)
	if pid <= 0 {
		return fmt.Errorf("%s is not running", name)
	}
	return syscall.Kill(pid, sig)
}

// Stop sends a signal to a process and waits until the process has ended.
func (c *Cluster) Stop(ctx context.Context, name string, sig syscall.Signal) error {
	if err := c.Signal(name, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for pid := c.pid(name); alive(pid); {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not end: %w", name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// alive reports whether a process is running. A zombie counts as running until its other threads
// have ended, because until then its sockets are open.
func alive(pid int) bool {
	if pid <= 0 || syscall.Kill(pid, 0) != nil {
		return false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	if _, rest, _ := strings.Cut(string(data), ") "); !strings.HasPrefix(rest, "Z") {
		return true
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1
}

// Down stops all processes.
func (c *Cluster) Down(ctx context.Context) error {
	var errs error
	_ = os.Remove(c.path("cluster.env"))
	for i := len(c.Processes) - 1; i >= 0; i-- {
		name := c.Processes[i].Name
		if c.pid(name) == 0 {
			continue
		}
		_ = c.Signal(name, syscall.SIGCONT)
		soft, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := c.Stop(soft, name, syscall.SIGTERM)
		cancel()
		if err != nil {
			err = c.Stop(ctx, name, syscall.SIGKILL)
		}
		errs = errors.Join(errs, err, os.Remove(c.path(name+".pid")))
	}
	return errs
}

// Lose deletes an ingester's data directory.
func (c *Cluster) Lose(name string) error { return os.RemoveAll(c.path(name)) }
