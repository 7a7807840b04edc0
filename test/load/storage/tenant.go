package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store/fsck"
)

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// measureTenant writes and compacts a tenant's day, reads it if o.decode is set, and rebuilds
// its index.
func measureTenant(ctx context.Context, parent, kind string, list []oneSeries, o options) (err error) {
	w, err := newWorld(parent, kind)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	t, r := tenant.ID(kind), newRun(list, 1, o.interval.Milliseconds(), o.jitter.Milliseconds(), o.ingesters)
	if err := w.upload(ctx, t, r); err != nil {
		return err
	}
	n, unique := float64(len(list)), float64(r.samples)
	line(t, "series, unique samples", "", "%d, %.1f M", len(list), unique/1e6)
	up := w.count.Take()
	report, cpu, err := compactProfiled(ctx, w, o.cpuProfile)
	if err != nil {
		return err
	}
	if report.Samples != r.samples || report.Series != int64(len(list)) {
		return fmt.Errorf("compacted %d series and %d samples, want %d and %d", report.Series, report.Samples, len(list), r.samples)
	}
	down := w.count.Take()
	l1, packs, err := w.objectBytes(ctx, "l1/")
	if err != nil {
		return err
	}
	cells, err := w.cells(ctx, t)
	if err != nil {
		return err
	}
	indexed := cells.bytes["D"] + cells.bytes["M"] + cells.bytes["V"]
	line(t, "L1 objects", "", "%d, %s (index in them included)", packs, mib(l1))
	line(t, "bytes/sample, L1 objects", "<= 0.85", "%.3f", float64(l1)/unique)
	line(t, "bytes/sample, rows", "", "%.4f", float64(total(cells.bytes))/unique)
	line(t, "bytes/sample, both", "<= 0.85", "%.3f", float64(l1+total(cells.bytes))/unique)
	line(t, "L0 objects before", "", "%d, %s, %.2f bytes per unique sample", up.PutsL0, mib(up.PutL0Size), float64(up.PutL0Size)/unique)
	target := "<= 20"
	if kind == "containers" || kind == "random" {
		target = "<= 65"
	}
	line(t, "index bytes/series-day", target, "%.1f", float64(indexed)/n)
	line(t, "rows", "", "%s", cells)
	line(t, "rows cells/series-day", "<= 0.005 with 300,000 series", "%.5f", float64(total(cells.cells))/n)
	line(t, "object writes/M unique samples", "", "%.3f (%d L0, %d L1)", float64(up.Puts+down.Puts)/unique*1e6, up.PutsL0, down.Puts)
	extrapolate(t, l1, unique, up.Puts)
	line(t, "compaction, M unique samples per CPU second",
		">= 15", "%.1f (%.1f s CPU; with %d copies)", unique/cpu.Seconds()/1e6, cpu.Seconds(), o.ingesters)
	line(t, "compaction reads", "", "%d row calls, %d gets, %s", down.RowCalls, down.Gets, mib(down.GotBytes))
	if !o.noProm {
		if err := measurePrometheus(w, t, r, unique, n); err != nil {
			return err
		}
	}
	if o.decode {
		if err := measureDecode(ctx, w, t, r); err != nil {
			return err
		}
	}
	return measureRebuild(ctx, w, t, l1)
}

// measurePrometheus reports the size of Prometheus' block of the same samples.
func measurePrometheus(w *world, t tenant.ID, r *run, samples, series float64) error {
	chunkBytes, indexBytes, err := promBlock(filepath.Join(w.dir, "prometheus"), r)
	if err != nil {
		return fmt.Errorf("prometheus' block: %w", err)
	}
	line(t, "Prometheus' block, bytes/sample", "", "%.3f (chunks %.3f, index %.3f)",
		float64(chunkBytes+indexBytes)/samples, float64(chunkBytes)/samples, float64(indexBytes)/samples)
	line(t, "Prometheus' index bytes/series-day", "", "%.1f", float64(indexBytes)/series)
	return nil
}

// extrapolate prints the number of writes for 10 million series of this kind at 15 s: each
// ingester writes one pack per window, and compacted packs have 512 MiB.
func extrapolate(t tenant.ID, l1 int64, unique float64, puts int) {
	const active, perDay, packBytes = 10e6, 5760, 512 << 20
	samples := active * perDay
	compacted := samples * float64(l1) / unique / packBytes
	for _, ingesters := range []float64{3, 12, 30, 60} {
		writes := ingesters*12 + compacted
		line(t, fmt.Sprintf("object writes/M at 10 M series, %.0f ingesters", ingesters), "<= 0.02", "%.5f (%.0f L0 + %.0f L1 a day)",
			writes/samples*1e6, ingesters*12, compacted)
	}
}

// measureRebuild deletes the index rows and rebuilds them.
func measureRebuild(ctx context.Context, w *world, t tenant.ID, l1 int64) error {
	before, err := w.cells(ctx, t)
	if err != nil {
		return err
	}
	for _, kind := range []string{"D", "M", "V"} {
		if err := w.rows.DeletePrefix(ctx, schema.TenantPrefix(t)+kind); err != nil {
			return err
		}
	}
	w.count.Take()
	if err := w.reopen(); err != nil {
		return err
	}
	start := time.Now()
	report, err := fsck.New(w.store).RebuildIndex(ctx, w.tenants, nil)
	if err != nil {
		return err
	}
	c, took := w.count.Take(), time.Since(start)
	after, err := w.cells(ctx, t)
	if err != nil {
		return err
	}
	if total(before.cells) != total(after.cells) || total(before.bytes) != total(after.bytes) {
		return fmt.Errorf("the rebuilt index has %s, want %s", after, before)
	}
	line(t, "index rebuilt: bytes read / bytes of packs", "", "%.3f (%s of %s, %d cells, %s; the report says %s)",
		float64(c.GotBytes)/float64(l1), mib(c.GotBytes), mib(l1), report.Cells, took.Round(time.Millisecond), mib(report.Read))
	return nil
}
