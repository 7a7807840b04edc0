package ingester

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
	"github.com/palliumhq/pallium/policies/limits"

	"github.com/palliumhq/pallium/authn/tenant"
)

// BenchmarkLog writes the log of series with nine labels and 200 bytes of text,
// with a sample every 15 seconds in pushes of 2,000, and replays it. It reports the
// bytes of log per sample, the samples replayed per second of CPU time, the seconds
// until the ingester is open and until a query of 100 series returns, and the peak
// memory of the process. LOG_SERIES and LOG_ROUNDS set the size (20,000 and 100),
// LOG_REPLACED the part of the series that is replaced by others (0).
// LOG_VALUES=random uses incompressible values, and LOG_DIR is a data directory in
// which the log is kept.
func BenchmarkLog(b *testing.B) {
	number := func(name string, otherwise float64) float64 {
		v, err := strconv.ParseFloat(os.Getenv(name), 64)
		if err != nil {
			return otherwise
		}
		return v
	}
	w := logWriter{series: int(number("LOG_SERIES", 20_000)), rounds: int(number("LOG_ROUNDS", 100)), replaced: number("LOG_REPLACED", 0),
		random: os.Getenv("LOG_VALUES") == "random"}
	for b.Loop() {
		dir := os.Getenv("LOG_DIR")
		if dir == "" {
			dir = b.TempDir()
		}
		start := time.UnixMilli(series.WindowStart(time.Now().UnixMilli())).Add(-time.Duration(series.WindowMillis/8) * time.Millisecond)
		written, err := w.write(filepath.Join(dir, "wal"), start)
		if err != nil {
			b.Fatal(err)
		}
		end := start.Add(time.Duration(w.rounds) * 15 * time.Second)
		report(b, dir, end, w.samples(), written)
	}
}

// TestLogBytes checks that the log has at most 12 bytes per sample, including the
// labels, for series of 250 samples with random values, however many segments the
// window fills.
func TestLogBytes(t *testing.T) {
	w := logWriter{series: 2000, rounds: 250, random: true, segment: 256 << 10}
	dir := filepath.Join(t.TempDir(), "wal")
	written, err := w.write(dir, time.UnixMilli(1_700_006_400_000))
	if err != nil {
		t.Fatal(err)
	}
	segments, err := wal.Segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	if each := float64(written) / float64(w.samples()); each > 12 || len(segments) < 15 {
		t.Errorf("%.1f bytes per sample, want at most 12; %d segments, want at least 15", each, len(segments))
	}
}

// report replays the log and reports the measurements.
func report(b *testing.B, dir string, now time.Time, samples, written int64) {
	b.Helper()
	cpu, begun := cpuTime(), time.Now()
	ing, err := Open(context.Background(), Options{ID: "i", Dir: dir, Limits: func(tenant.ID) limits.Limits { return limits.Limits{} },
		Now: func() time.Time { return now }, idle: true})
	if err != nil {
		b.Fatal(err)
	}
	defer ing.Close()
	took, opened := cpuTime()-cpu, time.Since(begun)
	req := series.Request{Tenant: "load", MinTime: now.Add(-time.Hour).UnixMilli(), MaxTime: now.UnixMilli(),
		Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "pod", "pod-7")}}
	sel, _, err := ing.Select(context.Background(), req)
	if err != nil || len(sel.Series) == 0 {
		b.Fatalf("%d series, %v", len(sel.Series), err)
	}
	b.ReportMetric(float64(written)/float64(samples), "B/sample")
	b.ReportMetric(float64(samples)/took.Seconds(), "samples/CPU-s")
	b.ReportMetric(opened.Seconds(), "s-open")
	b.ReportMetric(time.Since(begun).Seconds(), "s-query")
	b.ReportMetric(float64(peakMemory())/1e6, "MB-peak")
}

// logWriter writes a log as an ingester would, without keeping the samples in
// memory.
type logWriter struct {
	series, rounds int
	replaced       float64
	random         bool
	segment        int64 // size of segments; 0: as usual
}

func (w *logWriter) samples() int64 { return int64(w.series) * int64(w.rounds) }

// write writes the log and returns its size in bytes.
func (w *logWriter) write(dir string, start time.Time) (int64, error) {
	log, err := wal.Open(dir, wal.Options{SegmentBytes: w.segment})
	if err != nil {
		return 0, err
	}
	names := newLabelLog(time.Now)
	names.log = log
	seals, err := openSealLog(filepath.Join(dir, "none"))
	if err != nil {
		return 0, err
	}
	th := newTenantHead("load", &account{})
	list := make([]*memSeries, w.series)
	for i := range list {
		list[i] = w.newSeries(i, i)
	}
	next := w.series
	rng := rand.New(rand.NewPCG(1, 2))
	const batch = 2000
	for round := range w.rounds {
		for n := int(w.replaced * float64(w.series) / float64(w.rounds)); n > 0; n-- {
			i := rng.IntN(w.series)
			list[i] = w.newSeries(i, next)
			next++
		}
		t := start.Add(time.Duration(round) * 15 * time.Second).UnixMilli()
		for at := 0; at < w.series; at += batch {
			part := list[at:min(at+batch, w.series)]
			b := &series.Batch{Tenant: "load", Entries: make([]series.Entry, len(part))}
			for i := range part {
				b.Entries[i].Samples = []series.Sample{{T: t + int64(at%15_000), V: w.value(rng, at+i, round)}}
			}
			rec := writeRecord{batch: b, th: th, series: part, times: noTimes(), labels: names, seals: seals}
			rec.encode()
			if _, err := log.Append(&rec); err != nil {
				return 0, err
			}
		}
		if err := names.checkpoint(context.Background()); err != nil {
			return 0, err
		}
	}
	written := log.Appended()
	return written, log.Close()
}

func (w *logWriter) newSeries(i, n int) *memSeries {
	ls := labels.FromStrings("__name__", fmt.Sprint("container_network_receive_packets_total_", i%300), "cluster", "production-europe-west1",
		"container", "server", "instance", fmt.Sprintf("10.%d.%d.%d:9090", n>>16&255, n>>8&255, n&255), "job", "kubernetes-cadvisor",
		"namespace", fmt.Sprint("namespace-", i%50), "node", fmt.Sprint("gke-pool-", i%997), "pod", fmt.Sprint("pod-", n/100),
		"region", strings.Repeat("europe", 2))
	return newMemSeries(ls, ls.Hash(), uint64(n+1))
}

// value returns a value of a counter, of a gauge that rarely changes, or of a
// measurement.
func (w *logWriter) value(rng *rand.Rand, i, round int) float64 {
	switch {
	case w.random || i%4 == 0:
		return rng.Float64()
	case i%4 == 1:
		return math.Floor(float64(i%7) * float64(round/20))
	default:
		return float64(1000*(i%100) + round*(i%13))
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMemory returns the peak resident memory of the process in bytes.
func peakMemory() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss * 1024
}
