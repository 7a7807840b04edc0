package main

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// cpuTime returns the process's CPU time on all cores.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// onOneCore runs f with one thread for Go code, and returns the process's CPU time
// meanwhile, including garbage collection and system calls.
func onOneCore(f func() error) (time.Duration, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	before, err := cpuTime()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := cpuTime()
	return after - before, err
}

// cellSizes counts the cells of a tenant and their bytes in key, qualifier and value, by
// the kind of the row.
type cellSizes struct{ cells, bytes map[string]int64 }

func (w *world) cells(ctx context.Context, t tenant.ID) (cellSizes, error) {
	out := cellSizes{map[string]int64{}, map[string]int64{}}
	err := w.rows.ReadRows(ctx, []rows.Range{rows.Prefix(schema.TenantPrefix(t))}, rows.Filter{}, func(row rows.Row) bool {
		k, ok := schema.ParseKey(row.Key)
		kind := string(rune(k.Row))
		for i := range row.Cells {
			c := &row.Cells[i]
			name := kind
			if !ok {
				name = "?"
			}
			out.cells[name]++
			out.bytes[name] += int64(len(row.Key) + len(c.Qualifier) + len(c.Value))
		}
		return true
	})
	return out, err
}

func total(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

func (c cellSizes) String() string {
	var parts []string
	for _, k := range []string{"C", "D", "M", "V", "T", "?"} {
		if c.cells[k] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d cells %s", k, c.cells[k], mib(c.bytes[k])))
		}
	}
	return strings.Join(parts, ", ")
}

// objectBytes returns the total size and the number of the objects under a prefix.
func (w *world) objectBytes(ctx context.Context, prefix string) (n int64, number int, err error) {
	err = w.objects.List(ctx, prefix, func(o objects.Object) bool {
		n += o.Size
		number++
		return true
	})
	return n, number, err
}

// read selects and decodes, and returns the number of series and samples.
func (w *world) read(ctx context.Context, req series.Request) (nSeries int, samples int64, err error) {
	sel, err := w.store.Select(ctx, req, nil)
	if err != nil {
		return 0, 0, err
	}
	defer sel.Release()
	var it chunkenc.Iterator
	for _, s := range sel.Series {
		it = series.IteratorBetween(s.Chunks, req.MinTime, req.MaxTime, it)
		for it.Next() != chunkenc.ValNone {
			samples++
		}
		if err := it.Err(); err != nil {
			return 0, 0, err
		}
	}
	return len(sel.Series), samples, nil
}

func everything(t tenant.ID, ms ...*labels.Matcher) series.Request {
	return series.Request{Tenant: t, MinTime: 0, MaxTime: math.MaxInt64, Matchers: ms}
}

// peakHeap samples the bytes of heap objects until `stop` is called, which returns the
// maximum minus the initial value.
func peakHeap() (stop func() int64) {
	runtime.GC()
	read := func() int64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	before := read()
	done, result := make(chan struct{}), make(chan int64)
	go func() {
		peak := before
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				result <- max(peak, read()) - before
				return
			case <-tick.C:
				peak = max(peak, read())
			}
		}
	}()
	return func() int64 {
		close(done)
		return <-result
	}
}

func mib(n int64) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }
