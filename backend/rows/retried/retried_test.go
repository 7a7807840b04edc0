package retried

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/rows/rowtest"
)

func TestContract(t *testing.T) {
	rowtest.Run(t, func(t *testing.T) rows.Store {
		s, err := rowsmemory.Open()
		if err != nil {
			t.Fatal(err)
		}
		return New(s, Options{})
	})
}

var errBroken = errors.New("stream broken")

// table is a row store whose reads have faults.
type table struct {
	rows.Store
	keys  []string
	mu    sync.Mutex // of calls
	calls int
	// fault is called before each row with its number in the call, and at the end; it may sleep.
	fault func(ctx context.Context, call, row int) error
}

func (s *table) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	s.mu.Lock()
	s.calls++
	call, n := s.calls, 0
	s.mu.Unlock()
	for _, r := range rows.Disjoint(ranges) {
		for _, k := range s.keys {
			if k < r.Start || r.End != "" && k >= r.End || f.Rows > 0 && n == f.Rows {
				continue
			}
			if err := s.fault(ctx, call, n); err != nil {
				return err
			}
			if n++; !visit(rows.Row{Key: k}) {
				return nil
			}
		}
	}
	return s.fault(ctx, call, n)
}

// count returns the number of calls.
func (s *table) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func newTable(n int) *table {
	s := &table{fault: func(context.Context, int, int) error { return nil }}
	for i := range n {
		s.keys = append(s.keys, fmt.Sprintf("k%03d", i))
	}
	return s
}

// TestContinues checks that a read that fails after some rows continues after the last one: its
// caller gets each row once, in order, and as many as it asked for.
func TestContinues(t *testing.T) {
	for name, tt := range map[string]struct {
		ranges []rows.Range
		filter rows.Filter
		stop   int // visit returns false for this row; 0: never
		want   []int
	}{
		"all":           {[]rows.Range{{}}, rows.Filter{}, 0, seq(0, 100)},
		"ranges":        {[]rows.Range{{Start: "k050", End: "k060"}, {Start: "k005", End: "k010"}, {Start: "k055", End: "k070"}}, rows.Filter{}, 0, append(seq(5, 10), seq(50, 70)...)},
		"single keys":   {[]rows.Range{rows.Single("k003"), rows.Single("k001"), rows.Single("k007")}, rows.Filter{}, 0, []int{1, 3, 7}},
		"limit":         {[]rows.Range{{}}, rows.Filter{Rows: 23}, 0, seq(0, 23)},
		"visit stops":   {[]rows.Range{{}}, rows.Filter{}, 17, seq(0, 17)},
		"no row":        {[]rows.Range{{Start: "x"}}, rows.Filter{}, 0, nil},
		"ends at a key": {[]rows.Range{{Start: "k000", End: "k004\x00"}}, rows.Filter{}, 0, seq(0, 5)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, every := range []int{1, 2, 3, 5, 7, 10} { // rows that a call returns before it fails
					inner := newTable(100)
					inner.fault = func(_ context.Context, call, row int) error {
						if row == every || row == 0 && call%2 == 1 {
							return errBroken
						}
						return nil
					}
					given := slices.Clone(tt.ranges)
					var got []int
					err := New(inner, Options{}).ReadRows(t.Context(), tt.ranges, tt.filter, func(r rows.Row) bool {
						var i int
						if _, err := fmt.Sscanf(r.Key, "k%03d", &i); err != nil {
							t.Fatal(err)
						}
						if got = append(got, i); len(got) > 200 {
							return false // endless repetitions
						}
						return tt.stop == 0 || len(got) < tt.stop
					})
					// A fault after the last row does not fail the read either.
					if err != nil || !slices.Equal(got, tt.want) {
						t.Errorf("fault after %d rows: rows %v, %v; want %v", every, got, err, tt.want)
					}
					if !slices.Equal(given, tt.ranges) {
						t.Errorf("the caller's ranges were changed to %v", tt.ranges)
					}
				}
			})
		})
	}
}

func seq(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// TestGivesUp checks the number of calls until a read fails.
func TestGivesUp(t *testing.T) {
	denied := errors.New("permission denied")
	for name, tt := range map[string]struct {
		fault func(ctx context.Context, call, row int) error
		calls int
		rows  int
		err   error
	}{
		"never a row": {func(context.Context, int, int) error { return errBroken }, 4, 0, errBroken},
		"no further row": {func(_ context.Context, call, row int) error {
			return map[bool]error{true: errBroken}[row == 5 || call > 1]
		}, 5, 5, errBroken},
		"permanent":       {func(context.Context, int, int) error { return denied }, 1, 0, denied},
		"permanent later": {func(_ context.Context, _, row int) error { return map[int]error{5: denied}[row] }, 1, 5, denied},
		"invalid":         {func(context.Context, int, int) error { return rows.ErrInvalid }, 1, 0, rows.ErrInvalid},
		"closed":          {func(context.Context, int, int) error { return rows.ErrClosed }, 1, 0, rows.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner, n := newTable(100), 0
				inner.fault = tt.fault
				s := New(inner, Options{Permanent: func(err error) bool { return errors.Is(err, denied) }})
				err := s.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{}, func(rows.Row) bool { n++; return true })
				if !errors.Is(err, tt.err) || inner.calls != tt.calls || n != tt.rows {
					t.Errorf("%d calls, %d rows, %v; want %d, %d, %v", inner.calls, n, err, tt.calls, tt.rows, tt.err)
				}
			})
		})
	}
}

// TestHedge checks that only one of two calls passes rows to visit, whichever returns a row
// first, and that a read that has returned a row is not hedged.
func TestHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newTable(10)
		s := New(inner, Options{})
		read := func() (got []string) {
			if err := s.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool {
				got = append(got, r.Key)
				return true
			}); err != nil {
				t.Fatal(err)
			}
			return got
		}
		for range 100 {
			read()
		}
		for slow, calls := range []int{2, 2, 1} { // the first, the second, or a later row of the first
			synctest.Wait() // until a canceled call has ended
			inner.calls = 0
			inner.fault = func(ctx context.Context, call, row int) error {
				d := time.Millisecond
				switch {
				case slow < 2 && row == 0 && call == slow+1:
					d = time.Second
				case slow == 1 && row == 0:
					d = 30 * time.Millisecond
				case slow == 2 && row == 5:
					d = time.Second
				}
				select {
				case <-time.After(d):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if got := read(); !slices.Equal(got, inner.keys) || inner.count() != calls {
				t.Errorf("case %d: rows %v, %d calls, want %d", slow, got, inner.count(), calls)
			}
		}
		synctest.Wait()
	})
}

// TestUnreliable makes 2,000 reads of a store where 10% of the calls fail, at any row, and every
// hundredth call hangs before its first row. All reads succeed, with each row once. After the
// first 200 reads, which provide the durations for hedging, no read waits for a call that hangs:
// two calls of a read never both hang.
func TestUnreliable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newTable(5)
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(3, 4))
		failed, hung := 0, 0
		roll := func(call, row int) (hang, fail bool, d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			hang, fail = row == 0 && call%100 == 0, random.Float64() < 0.02
			if hang {
				hung++
			} else if fail {
				failed++
			}
			return hang, fail, time.Duration(random.IntN(30)) * time.Millisecond
		}
		inner.fault = func(ctx context.Context, call, row int) error {
			hang, fail, d := roll(call, row)
			if hang {
				<-ctx.Done()
				return ctx.Err()
			}
			time.Sleep(d)
			if fail {
				return errBroken
			}
			return nil
		}
		s := New(inner, Options{})
		for i := range 2000 {
			began, got := time.Now(), []string(nil)
			err := s.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool { got = append(got, r.Key); return true })
			if err != nil || strings.Join(got, " ") != strings.Join(inner.keys, " ") {
				t.Fatalf("read %d: %v, %v", i, got, err)
			}
			if i >= 200 && time.Since(began) >= stall {
				t.Errorf("read %d waited %s for a call that hangs", i, time.Since(began))
			}
		}
		time.Sleep(time.Second) // until canceled calls have ended
		if failed < 150 || hung < 10 {
			t.Errorf("%d calls failed, %d hung, want at least 150 and 10", failed, hung)
		}
	})
}

// TestCanceled checks that a read whose context ends between two rows returns its error.
func TestCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := New(newTable(10), Options{}).ReadRows(ctx, []rows.Range{{}}, rows.Filter{}, func(rows.Row) bool {
			if n++; n == 3 {
				cancel()
				synctest.Wait()
			}
			return true
		})
		if !errors.Is(err, context.Canceled) || n > 4 {
			t.Errorf("%d rows, %v", n, err)
		}
	})
}
