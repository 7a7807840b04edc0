package series

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/policies/limits"
)

// budget is a Memory with a number of bytes.
type budget struct{ left int64 }

var errNoMemory = errors.New("no memory")

func (b *budget) Take(n int64) error {
	if n > b.left {
		return errNoMemory
	}
	b.left -= n
	return nil
}

func plenty() *budget { return &budget{1 << 40} }

func named(i int) labels.Labels { return labels.FromStrings("__name__", fmt.Sprintf("m%02d", i)) }

// at returns a chunk that is identified by its time.
func at(t int64) []Chunk { return []Chunk{{MinTime: t, MaxTime: t}} }

// joinedText returns the series and the times of their chunks as text.
func joinedText(list []WithChunks) string {
	s := ""
	for _, w := range list {
		s += w.Labels.Get("__name__")
		for _, c := range w.Chunks {
			s += fmt.Sprintf(" %d", c.MinTime)
		}
		s += "; "
	}
	return s
}

// TestJoin joins series in random order with each of the functions: the result
// must be sorted and have each series once, with its chunks in the order of the
// calls.
func TestJoin(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		want := map[int][]Chunk{}
		added, joined := NewJoiner(0, plenty()), NewJoiner(0, plenty())
		var merged []WithChunks
		for n := range int64(60) {
			i := rnd.IntN(20)
			want[i] = append(want[i], at(n)...)
			if err := added.Add(named(i), named(i).Hash(), at(n)); err != nil {
				t.Fatal(err)
			}
			if err := joined.Admit(named(i), 1); err != nil {
				t.Fatal(err)
			}
			joined.Join(named(i), at(n))
			var err error
			if merged, err = Merge(merged, []WithChunks{{Labels: named(i), Chunks: at(n)}}, 0); err != nil {
				t.Fatal(err)
			}
		}
		var list []WithChunks
		for i := range 20 {
			if len(want[i]) > 0 {
				list = append(list, WithChunks{Labels: named(i), Chunks: want[i]})
			}
		}
		for how, got := range map[string][]WithChunks{"Add": added.Series(), "Join": joined.Series(), "Merge": merged} {
			if joinedText(got) != joinedText(list) {
				t.Fatalf("seed %d, %s:\n%s, want\n%s", seed, how, joinedText(got), joinedText(list))
			}
		}
	}
}

// TestSameHash checks that series with equal hashes but different labels are
// not joined.
func TestSameHash(t *testing.T) {
	j := NewJoiner(0, plenty())
	for i, n := range []int{1, 2, 1, 2, 2} {
		if err := j.Add(named(n), 7, at(int64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := joinedText(j.Series()); got != "m01 0 2; m02 1 3 4; " {
		t.Errorf("Series = %s", got)
	}
}

// TestJoinLimits checks that each of the functions joins as many series as the
// limit, with any number of chunks, and returns the error of the limit for one
// more; and that it returns an error if the memory budget is exhausted.
func TestJoinLimits(t *testing.T) {
	list := func(n int) (out []WithChunks) {
		for i := range n {
			out = append(out, WithChunks{Labels: named(i), Chunks: at(0)})
		}
		return out
	}
	ways := map[string]func(n, most int, m Memory) error{
		"Add": func(n, most int, m Memory) error {
			j := NewJoiner(most, m)
			for range 2 {
				for _, w := range list(n) {
					if err := j.Add(w.Labels, w.Labels.Hash(), w.Chunks); err != nil {
						return err
					}
				}
			}
			return nil
		},
		"Admit": func(n, most int, m Memory) error {
			j := NewJoiner(most, m)
			for range 2 {
				for _, w := range list(n) {
					if err := j.Admit(w.Labels, 1); err != nil {
						return err
					}
				}
			}
			return nil
		},
		"Merge": func(n, most int, _ Memory) error {
			_, err := Merge(list(n), list(n-1), most)
			return err
		},
		"Merge with nothing": func(n, most int, _ Memory) error {
			_, err := Merge(nil, list(n), most)
			return err
		},
		"CheckCount": func(n, most int, _ Memory) error { return CheckCount(n, most) },
	}
	for how, do := range ways {
		for _, tt := range []struct {
			n, most int
			ok      bool
		}{{3, 3, true}, {4, 3, false}, {1, 1, true}, {2, 1, false}, {9, 0, true}} {
			err := do(tt.n, tt.most, plenty())
			var exceeded *limits.Exceeded
			if (err == nil) != tt.ok || !tt.ok && (!errors.As(err, &exceeded) || !exceeded.Of(limits.MaxQuerySeries)) {
				t.Errorf("%s: %d series with a limit of %d: error %v", how, tt.n, tt.most, err)
			}
		}
	}
	for _, how := range []string{"Add", "Admit"} {
		need := 2 * 3 * SelectedBytes(named(0), 1)
		if err := ways[how](3, 0, &budget{need}); err != nil {
			t.Errorf("%s with enough memory: error %v", how, err)
		}
		if err := ways[how](3, 0, &budget{need - 1}); !errors.Is(err, errNoMemory) {
			t.Errorf("%s without memory: error %v", how, err)
		}
	}
}

// TestMergeLeavesChunks checks that Merge does not overwrite chunks in a list
// that another selection also uses.
func TestMergeLeavesChunks(t *testing.T) {
	a := []WithChunks{{Labels: named(1), Chunks: slices.Clip(at(1))}}
	first, err := Merge(a, []WithChunks{{Labels: named(1), Chunks: at(2)}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if joinedText(first) != "m01 1 2; " || joinedText(a) != "m01 1; " {
		t.Errorf("Merge = %s, its input is now %s", joinedText(first), joinedText(a))
	}
}
