// Command storage measures the long-term store on generated tenants: bytes per sample
// compared with Prometheus' own block of the same samples, the size of the index,
// object writes, the speed of compaction and decoding, and the latency of queries. It
// needs no network: rows are in Pebble and objects in a directory, and the calls of
// both are counted.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/compactor"
)

type options struct {
	series     int
	interval   time.Duration
	jitter     time.Duration
	ingesters  int
	tenants    string
	shapes     bool
	cold       bool
	decode     bool
	noProm     bool
	cpuProfile string
	dir        string
}

func main() {
	var o options
	flag.IntVar(&o.series, "series", 20_000, "series of each tenant")
	flag.DurationVar(&o.interval, "interval", 15*time.Second, "interval between two samples of a series")
	flag.DurationVar(&o.jitter, "jitter", 0, "maximal jitter of timestamps, in either direction")
	flag.IntVar(&o.ingesters, "ingesters", 3, "ingesters with a copy of all samples")
	flag.StringVar(&o.tenants, "tenants", "node,kubernetes,containers,random", "kinds of tenants to measure")
	flag.BoolVar(&o.shapes, "shapes", true, "measure query shapes")
	flag.BoolVar(&o.cold, "cold", false, "measure cold queries too; this takes minutes")
	flag.BoolVar(&o.decode, "decode", true, "read and decode everything")
	flag.BoolVar(&o.noProm, "no-prometheus", false, "do not write Prometheus' block")
	flag.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of the compactions to `FILE`; the last tenant's profile is kept")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the data; default: a temporary one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := runAll(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "storage:", err)
		os.Exit(1)
	}
}

func runAll(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "pallium-storage-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("%d series per tenant, one day at %s, jitter %s, %d ingesters\n\n", o.series, o.interval, o.jitter, o.ingesters)
	fmt.Println("| tenant | what | measured | target |\n| --- | --- | --- | --- |")
	for _, kind := range splitList(o.tenants) {
		list, err := generate(kind, o.series)
		if err != nil {
			return err
		}
		if err := measureTenant(ctx, dir, kind, list, o); err != nil {
			return fmt.Errorf("tenant %s: %w", kind, err)
		}
	}
	if o.shapes {
		if err := measureShapes(ctx, dir); err != nil {
			return fmt.Errorf("query shapes: %w", err)
		}
	}
	if o.cold {
		if err := measureCold(ctx, dir); err != nil {
			return fmt.Errorf("cold queries: %w", err)
		}
	}
	return nil
}

func generate(kind string, n int) ([]oneSeries, error) {
	switch kind {
	case "node":
		return nodeExporter(n), nil
	case "kubernetes":
		return kubernetes(n, noContainers), nil
	case "containers":
		return kubernetes(n, realContainers), nil
	case "random":
		return kubernetes(n, randomContainers), nil
	}
	return nil, fmt.Errorf("-tenants: unknown tenant kind %q: use node, kubernetes, containers or random", kind)
}

// compactProfiled compacts on one core, and writes a CPU profile if profile is not
// empty.
func compactProfiled(ctx context.Context, w *world, profile string) (report compactor.Report, cpu time.Duration, err error) {
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return report, 0, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return report, 0, err
		}
		defer pprof.StopCPUProfile()
	}
	runtime.GC()
	cpu, err = onOneCore(func() error {
		report, err = w.compact(ctx)
		return err
	})
	return report, cpu, err
}

// line prints a row of the table.
func line(t tenant.ID, what, target, format string, args ...any) {
	fmt.Printf("| %s | %s | %s | %s |\n", t, what, fmt.Sprintf(format, args...), target)
}
