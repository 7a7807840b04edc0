package cluster_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/palliumhq/pallium/test/kit/cluster"
)

// TestOpenFiles checks that a process of a cluster does not inherit files that are open in the
// process that starts it, such as a shell or make.
func TestOpenFiles(t *testing.T) {
	redis := os.Getenv("REDIS_SERVER")
	if redis == "" {
		redis = "redis-server"
	}
	c, err := cluster.New(cluster.Options{Dir: t.TempDir(), Free: true, Binaries: cluster.Binaries{Redis: redis}})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "of the shell"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 12 { // descriptors below and above 10: some shells cannot close those above
		fd, err := syscall.Dup(int(file.Fd())) // inherited by child processes
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
	}
	ctx := context.Background()
	defer func() { _ = c.Down(ctx) }()
	if err := c.Start(ctx, "redis"); err != nil {
		t.Fatal(err)
	}
	closed(t, c, "started by Go")
	if err := c.Stop(ctx, "redis", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", filepath.Join(c.Dir(), "redis.sh"))
	cmd.ExtraFiles = []*os.File{file, file}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := c.WaitReady(ctx, "redis"); err != nil {
		t.Fatal(err)
	}
	closed(t, c, "started by a shell")
}

// closed checks that Redis did not inherit the file.
func closed(t *testing.T, c *cluster.Cluster, how string) {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(c.Dir(), "redis.pid"))
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%s/fd", strings.TrimSpace(string(pid)))
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.Contains(target, "of the shell") {
			t.Errorf("%s: file %s is %s", how, e.Name(), target)
		}
	}
}
