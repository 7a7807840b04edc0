package cluster_test

import (
	"context"
	"os"
	"testing"

	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// startCluster starts a cluster that ends with the test. memory returns each process's
// memory limit; nil sets none.
func startCluster(ctx context.Context, t *testing.T, memory func(process string) int64) *cluster.Cluster {
	t.Helper()
	redis := os.Getenv("REDIS_SERVER")
	if redis == "" {
		redis = "redis-server"
	}
	c, err := cluster.New(cluster.Options{Dir: t.TempDir(), Free: true, Memory: memory, Binaries: cluster.Binaries{
		Pallium: programs.Binary(t, "PALLIUM"), Redis: redis,
		Bigtable: programs.Binary(t, "BIGTABLE_EMULATOR_BIN"), GCS: programs.Binary(t, "FAKE_GCS_SERVER_BIN")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := c.Up(ctx); err != nil {
		logAll(t, c)
		t.Fatal(err)
	}
	return c
}

// logAll logs the output of all processes of a cluster.
func logAll(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, p := range c.Processes {
		t.Logf("== %s\n%s", p.Name, c.Log(p.Name))
	}
}

// logAllIfFailed logs the output of all processes if the test fails.
func logAllIfFailed(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			logAll(t, c)
		}
	})
}
