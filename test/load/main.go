// Command load compares Pallium with Prometheus' own remote-write receiver: both get
// the same request bodies alternately, in one run on one machine, so that the ratios
// are meaningful even where absolute times are not.
//
// It reports for each: CPU time per ingested sample, memory per active series, samples
// per second, and CPU time and latency of queries over one and 24 hours. Pallium
// receives samples through its gateway, with an API key.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

type options struct {
	pallium, prometheus string
	series              int
	queried             int
	version             int
	hours               int
	dir                 string
	profile             string
	against             string
	rounds              int
}

func main() {
	var o options
	flag.StringVar(&o.pallium, "pallium", os.Getenv("PALLIUM"), "Pallium's `binary`")
	flag.StringVar(&o.prometheus, "prometheus", os.Getenv("PROMETHEUS"), "Prometheus' `binary`")
	flag.IntVar(&o.series, "series", 100_000, "active series in the last hour")
	flag.IntVar(&o.queried, "queried", 10_000, "series of the metric that is queried, with samples for all hours")
	flag.IntVar(&o.version, "version", 1, "remote write `version`, 1 or 2")
	flag.IntVar(&o.hours, "hours", 24, "hours of samples of the queried metric")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of Pallium to this `directory`")
	flag.StringVar(&o.against, "against", "", "compare only ingestion with another build of Pallium, this `binary`")
	flag.IntVar(&o.rounds, "rounds", 200, "rounds of -against; each has one sample of each series")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.pallium == "" || o.prometheus == "" && o.against == "" {
		return fmt.Errorf("PALLIUM or PROMETHEUS is not set: set them to the paths of the binaries, or run `make load`")
	}
	if o.dir, err = os.MkdirTemp("", "pallium-load-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	if o.against != "" {
		return compare(ctx, o)
	}
	pal, err := startPallium(o.pallium, filepath.Join(o.dir, "pallium"))
	if err != nil {
		return err
	}
	defer pal.stop()
	prom, err := startPrometheus(o.prometheus, filepath.Join(o.dir, "prometheus"))
	if err != nil {
		return err
	}
	defer prom.stop()
	targets := []*target{pal, prom}

	g := newGenerator(o.series, o.queried, o.version)
	end := time.Now().Truncate(time.Minute).Add(-time.Minute)
	start := end.Add(-time.Duration(o.hours) * time.Hour)
	fmt.Printf("%d series in the last hour at 15 s; %d of them for %d hours at 60 s; remote write %d.0\n\n",
		o.series, o.queried, o.hours, o.version)

	if err := ingest(ctx, g, targets, pal, start, end, o); err != nil {
		return err
	}
	reportMemory(targets, o.series)
	fmt.Println("\nqueries of the head (Pallium) and of the head and blocks (Prometheus)")
	if err := queries(ctx, targets, end, o.hours); err != nil {
		return err
	}
	if err := pal.flush(ctx); err != nil {
		return err
	}
	fmt.Println("\nqueries after Pallium has sealed everything into packs")
	stopProfile := pal.profile(o.profile, "query", 20)
	defer stopProfile()
	if err := queries(ctx, targets, end, o.hours); err != nil {
		return err
	}
	return reportDisk(targets)
}

// ingest writes the queried series from start on, and all series in the last hour
// before end.
func ingest(ctx context.Context, g *generator, targets []*target, pal *target, start, end time.Time, o options) error {
	recent := end.Add(-time.Hour)
	for t := start; t.Before(recent); t = t.Add(time.Minute) {
		if err := feed(ctx, g, targets, t, o.queried); err != nil {
			return err
		}
	}
	// In operation the older windows would already have been sealed.
	if err := pal.flush(ctx); err != nil {
		return err
	}
	// The first round creates the series; the later ones are the steady state.
	if err := measured(ctx, "first round, which creates the series", targets, func() (int, error) {
		return o.series, feed(ctx, g, targets, recent, o.series)
	}); err != nil {
		return err
	}
	stopProfile := pal.profile(o.profile, "ingest", 25)
	if err := measured(ctx, "steady state", targets, func() (int, error) {
		n := 0
		for t := recent.Add(15 * time.Second); t.Before(end); t = t.Add(15 * time.Second) {
			if err := feed(ctx, g, targets, t, o.series); err != nil {
				return n, err
			}
			n += o.series
		}
		return n, nil
	}); err != nil {
		return err
	}
	stopProfile()
	return nil
}
