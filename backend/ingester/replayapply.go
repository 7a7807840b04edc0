package ingester

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	// applyBatch is how many samples are handed to an applier at a time.
	applyBatch = 1024
	// applyQueue is how many batches may wait for an applier.
	applyQueue = 8
)

// appliers append replayed samples to their series, each series in one of them:
// that keeps its samples in order, and no lock is needed.
type appliers struct {
	workers []*applier
	failed  atomic.Pointer[error]
	done    sync.WaitGroup
	ended   bool
}

// applier is one goroutine and the batch that is being gathered for it.
type applier struct {
	queue  chan []replayed
	gather []replayed
	free   chan []replayed // batches to be used again
}

// replayed is a sample on its way to its series: a float, or a histogram as it is
// in the log.
type replayed struct {
	s         *memSeries
	t         int64
	v         float64
	histogram []byte
}

func newAppliers(n int) *appliers {
	a := &appliers{}
	for range n {
		w := &applier{
			queue:  make(chan []replayed, applyQueue),
			free:   make(chan []replayed, applyQueue+2),
			gather: make([]replayed, 0, applyBatch),
		}
		a.workers = append(a.workers, w)
		a.done.Go(func() {
			for batch := range w.queue {
				a.apply(batch)
				clear(batch)
				select {
				case w.free <- batch[:0]:
				default:
				}
			}
		})
	}
	return a
}

func (a *appliers) float(s *memSeries, t int64, v float64) { a.add(replayed{s: s, t: t, v: v}) }

func (a *appliers) histogram(s *memSeries, t int64, encoded []byte) {
	a.add(replayed{s: s, t: t, histogram: encoded})
}

func (a *appliers) add(r replayed) {
	w := a.workers[r.s.ref%uint64(len(a.workers))]
	w.gather = append(w.gather, r)
	if len(w.gather) == applyBatch {
		w.hand()
	}
}

// hand gives what was gathered to the applier.
func (w *applier) hand() {
	w.queue <- w.gather
	select {
	case w.gather = <-w.free:
	default:
		w.gather = make([]replayed, 0, applyBatch)
	}
}

func (a *appliers) apply(batch []replayed) {
	find := newFinder()
	for i := range batch {
		if err := batch[i].apply(&find); err != nil {
			err = fmt.Errorf("series %s: %w", batch[i].s.labels, err)
			a.failed.CompareAndSwap(nil, &err)
			return
		}
	}
}

func (r *replayed) apply(f *finder) error {
	smp := series.Sample{T: r.t, V: r.v}
	if r.histogram != nil {
		d := encoding.Decbuf{B: r.histogram}
		decoded, err := decodeHistogram(&d)
		if err != nil {
			return err
		}
		if d.Err() != nil || d.Len() != 0 {
			return fmt.Errorf("%w: histogram of %d bytes", errRecord, len(r.histogram))
		}
		smp.H, smp.FH = decoded.H, decoded.FH
	}
	_, err := r.s.append(&smp, f)
	return err
}

// failure is why an applier could not append a sample, or nil.
func (a *appliers) failure() error {
	if err := a.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// wait returns when all samples are in their series, or one could not be.
func (a *appliers) wait() error {
	if !a.ended {
		a.ended = true
		for _, w := range a.workers {
			w.queue <- w.gather
			close(w.queue)
		}
	}
	a.done.Wait()
	return a.failure()
}
