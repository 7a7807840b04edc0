package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// compare measures the ingestion cost of two builds of Pallium in one run: both get
// the same bodies, and the order alternates from round to round. With the same binary
// twice it shows the variance of the measurement.
func compare(ctx context.Context, o options) error {
	var targets []*target
	for i, path := range []string{o.pallium, o.against} {
		t, err := startPallium(path, filepath.Join(o.dir, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		defer t.stop()
		t.name = [...]string{"pallium", "against"}[i]
		targets = append(targets, t)
	}
	g := newGenerator(o.series, o.series, o.version)
	at := time.Now().Truncate(time.Minute).Add(-time.Hour)
	if err := feed(ctx, g, targets, at, o.series); err != nil { // creates the series
		return err
	}
	for _, t := range targets {
		defer t.profile(o.profile, t.name, 20)()
		t.since = t.cpu()
	}
	n := 0
	for range o.rounds {
		at = at.Add(15 * time.Second)
		slices.Reverse(targets)
		if err := feed(ctx, g, targets, at, o.series); err != nil {
			return err
		}
		n += o.series
	}
	if targets[0].name != "pallium" {
		slices.Reverse(targets)
	}
	var each [2]float64
	for i, t := range targets {
		each[i] = (t.cpu() - t.since).Seconds() / float64(n) * 1e6
	}
	fmt.Printf("%d samples: pallium %.4f µs of CPU per sample, against %.4f, ratio %.4f\n", n, each[0], each[1], each[0]/each[1])
	return nil
}
