// Command local starts and stops a cluster as processes on this machine; `make
// cluster` and `make cluster-stop` run it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/palliumhq/pallium/test/kit/cluster"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 || args[0] != "up" && args[0] != "down" {
		return fmt.Errorf("usage: local up|down DIRECTORY")
	}
	dir, err := filepath.Abs(args[1])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := cluster.New(cluster.Options{
		Dir: dir, Rulers: 2, Alertmanagers: 3, AdminTokenFile: filepath.Join(filepath.Dir(dir), "admin-token"),
		Binaries: cluster.Binaries{Pallium: os.Getenv("PALLIUM"), Redis: os.Getenv("REDIS_SERVER"),
			Bigtable: os.Getenv("BIGTABLE_EMULATOR_BIN"), GCS: os.Getenv("FAKE_GCS_SERVER_BIN")},
	})
	if err != nil {
		return err
	}
	if args[0] == "down" {
		return c.Down(ctx)
	}
	if err := c.Down(ctx); err != nil { // processes of an earlier cluster
		return err
	}
	if err := c.Reset(); err != nil {
		return err
	}
	if err := c.Up(ctx); err != nil {
		return err
	}
	fmt.Printf("The cluster is running: edges %v, admin API %s.\n", c.Edges, c.AdminURL)
	fmt.Printf("Its processes, logs and cluster.env are in %s; `make cluster-stop` stops it.\n", dir)
	return nil
}
