package ingester

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	// applyBatch is the number of samples in one batch for an applier.
	applyBatch = 1024
	// applyQueue is the number of batches that may be queued for an applier.
	applyQueue = 8
)

// appliers append replayed samples to their series. Each series belongs to one
// applier, which preserves the order of its samples and makes locks unnecessary.
type appliers struct {
	workers []*applier
	failed  atomic.Pointer[error]
	done    sync.WaitGroup
	ended   bool
}

// applier is one goroutine and the batch that is being collected for it.
type applier struct {
	queue  chan []replayed
	gather []replayed
	free   chan []replayed // batches to be reused
}

// replayed is a sample to be appended: a float, or a histogram as encoded in the
// log.
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

// hand queues the collected batch.
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
			return fmt.Errorf("%w: histogram cannot be decoded (%d bytes)", errRecord, len(r.histogram))
		}
		smp.H, smp.FH = decoded.H, decoded.FH
	}
	_, err := r.s.append(&smp, f)
	return err
}

// failure returns the error of the first sample that could not be appended, or nil.
func (a *appliers) failure() error {
	if err := a.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// wait waits until the appliers have processed all batches. It returns the error of
// the first sample that could not be appended, or nil.
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
