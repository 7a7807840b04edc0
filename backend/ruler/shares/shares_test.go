package shares

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// TestExclusive checks that a process takes the share of an earlier process at once if and only if
// Exclusive is set.
func TestExclusive(t *testing.T) {
	for _, exclusive := range []bool{true, false} {
		w := newWorld(t, 1, 1)
		if _, held, err := w.store.Take(t.Context(), 0, schema.Share{}, "all/1", 1); !held || err != nil {
			t.Fatal(held, err)
		}
		r := w.start("all", false)
		w.number[0] = 1
		r.h.opts.Exclusive = exclusive
		w.until(3 * time.Second)
		if _, _, ok := r.h.Lease(0); ok != exclusive {
			t.Errorf("exclusive %t: the share is held: %t", exclusive, ok)
		}
	}
}

// TestRetire checks that a Holder takes no more shares after Retire, and keeps the shares that it holds.
func TestRetire(t *testing.T) {
	for _, first := range []bool{true, false} {
		w := newWorld(t, 1, 1)
		r := w.start("all", false)
		if first {
			r.h.Retire()
		}
		w.until(3 * time.Second)
		r.h.Retire()
		w.until(30 * time.Second)
		if _, _, ok := r.h.Lease(0); ok == first {
			t.Errorf("retired at the start %t: the share is held: %t", first, ok)
		}
	}
}

// rowsOf is a Reader that counts reads.
type rowsOf struct {
	share schema.Share
	err   error
	reads int
}

func (r *rowsOf) Read(context.Context, int) (schema.Share, error) {
	r.reads++
	return r.share, r.err
}

func TestFence(t *testing.T) {
	var now time.Duration
	r := &rowsOf{share: schema.Share{Holder: "a/1", Number: 5}}
	f := NewFence(r, func() time.Duration { return now })
	for _, c := range []struct {
		what   string
		at     time.Duration
		row    uint64
		number uint64
		fenced bool
		reads  int // total number of reads
	}{
		{"first write", 0, 5, 5, false, 1},
		{"within two seconds", 2 * time.Second, 6, 5, false, 1},
		{"after two seconds", 2*time.Second + 1, 6, 5, true, 2},
		{"old number again", 3 * time.Second, 6, 5, true, 2},
		{"current number", 3 * time.Second, 6, 6, false, 2},
		{"newer number than the one read", 3 * time.Second, 7, 7, false, 3},
		{"number that does not exist", 3 * time.Second, 7, 9, true, 4},
	} {
		now, r.share.Number = c.at, c.row
		err := f.Check(t.Context(), 3, c.number)
		if errors.Is(err, series.ErrFenced) != c.fenced || (err != nil) != c.fenced || r.reads != c.reads {
			t.Errorf("%s: error %v after %d reads, want fenced %t after %d", c.what, err, r.reads, c.fenced, c.reads)
		}
	}
	now, r.err = time.Minute, errUnreachable
	if err := f.Check(t.Context(), 3, 7); !errors.Is(err, errUnreachable) || errors.Is(err, series.ErrFenced) {
		t.Errorf("without the store the error is %v", err)
	}
}
