// Command queries compares range queries of Pallium with its query frontend, of Pallium
// without it and of Prometheus over the same samples: CPU time and latency of typical
// Grafana queries that are sent for the first time and again, of a dashboard that is
// refreshed while samples are written, and of a tenant's dashboard while another tenant
// runs many long queries. It also counts the round trips to the stores of cold queries.
//
// The processes get the same query one after another, in turns, so that the ratios are
// meaningful even where absolute times are not.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
)

type options struct {
	pallium, prometheus string
	dir                 string
	parts               string
	series              int
	interval            time.Duration
	span                time.Duration
	rounds, repeats     int
	refreshes           time.Duration
	every               time.Duration
	fairSeries          int
	phase               time.Duration
	phases              int
	queued              int
	config              string
	profile             string
}

func main() {
	var o options
	flag.StringVar(&o.pallium, "pallium", os.Getenv("PALLIUM"), "Pallium's `binary`")
	flag.StringVar(&o.prometheus, "prometheus", os.Getenv("PROMETHEUS"), "Prometheus' `binary`")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the data; default: a temporary one")
	flag.StringVar(&o.parts, "parts", "now,past,dashboard,trips,fairness",
		"what to measure: now, past (queries that end now, six hours ago), dashboard, trips, fairness, parts (only the cost of dividing "+
			"queries), shards (the cost of shards)")
	flag.IntVar(&o.series, "series", 2000, "number of series")
	flag.DurationVar(&o.interval, "interval", 15*time.Second, "interval between two samples of a series")
	flag.DurationVar(&o.span, "span", 24*time.Hour, "the longest range of queries; there are samples of 7 hours more")
	flag.IntVar(&o.rounds, "rounds", 2, "how often Pallium is restarted for queries that are sent for the first time")
	flag.IntVar(&o.repeats, "repeats", 3, "how often each query is repeated in a round")
	flag.DurationVar(&o.refreshes, "dashboard", 10*time.Minute, "how long the dashboard is refreshed")
	flag.DurationVar(&o.every, "every", 5*time.Second, "time between refreshes of a dashboard")
	flag.IntVar(&o.fairSeries, "fair-series", 400, "series of the heavy tenant, over 30 days at 60 s, for the fairness of queries")
	flag.DurationVar(&o.phase, "phase", 40*time.Second, "how long a phase of the measurement of fairness takes")
	flag.IntVar(&o.phases, "phases", 4, "pairs of phases")
	flag.IntVar(&o.queued, "queued", 200, "queries of the heavy tenant that wait all the time")
	flag.StringVar(&o.config, "fair-config", "", "more `YAML` of the configuration for the fairness of queries")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of both Palliums to this `directory`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "queries:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.pallium == "" || o.prometheus == "" {
		return fmt.Errorf("PALLIUM or PROMETHEUS is not set: set them to the paths of the binaries, or run `make bench-queries`")
	}
	dir, err := os.MkdirTemp(o.dir, "pallium-queries-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.dir = dir
	if o.has("now") || o.has("past") || o.has("parts") || o.has("shards") || o.has("dashboard") || o.has("trips") {
		if err := paired(ctx, o); err != nil {
			return err
		}
	}
	if o.has("fairness") {
		return fairness(ctx, o)
	}
	return nil
}

func (o *options) has(part string) bool {
	for _, p := range strings.Split(o.parts, ",") {
		if p == part {
			return true
		}
	}
	return false
}
