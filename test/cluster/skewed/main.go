// Command skewed runs a backend whose clock is off: skewed OFFSET PALLIUM
// backend -target=ROLES -config FILE. It stands in for the binary that is named
// after the offset; clocks are injected, never set.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/palliumhq/pallium/backend/app"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "skewed:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 6 || args[2] != "backend" || args[4] != "-config" {
		return fmt.Errorf("usage: skewed OFFSET PALLIUM backend -target=ROLES -config FILE")
	}
	offset, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	targets, err := app.ParseTargets(strings.TrimPrefix(args[3], "-target="))
	if err != nil {
		return err
	}
	cfg, err := app.LoadConfig(args[5], os.LookupEnv)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a, err := app.New(ctx, cfg, app.Options{Role: app.Backend, Targets: targets, Version: "skewed", Env: os.LookupEnv,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Now: func() time.Time { return time.Now().Add(offset) }})
	if err != nil {
		return err
	}
	return a.Run(ctx, nil)
}
