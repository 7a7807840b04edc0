package lru

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// model is a cache as a list, with the most recently used entry at the end.
type model struct {
	max     int64
	entries []entry
}

type entry struct{ k, v int }

func (m *model) find(k int) int {
	return slices.IndexFunc(m.entries, func(e entry) bool { return e.k == k })
}

func (m *model) used() (n int64) {
	for _, e := range m.entries {
		n += int64(e.v)
	}
	return n
}

func (m *model) get(k int) (int, bool) {
	i := m.find(k)
	if i < 0 {
		return 0, false
	}
	e := m.entries[i]
	m.entries = append(slices.Delete(m.entries, i, i+1), e)
	return e.v, true
}

func (m *model) remove(k int) {
	if i := m.find(k); i >= 0 {
		m.entries = slices.Delete(m.entries, i, i+1)
	}
}

func (m *model) put(k, v int) {
	m.remove(k)
	if int64(v) > m.max {
		return
	}
	m.entries = append(m.entries, entry{k, v})
	for m.used() > m.max {
		m.entries = m.entries[1:]
	}
}

// TestCache compares random calls with a model. The weight of a value is the value.
func TestCache(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		m := &model{max: int64(rnd.IntN(60))}
		c := New[int](m.max, func(v int) int64 { return int64(v) })
		for step := range 2000 {
			k, v := rnd.IntN(15), rnd.IntN(20)
			switch rnd.IntN(12) {
			case 0:
				c.Remove(k, k+1)
				m.remove(k)
				m.remove(k + 1)
			case 1:
				c.RemoveIf(func(x int) bool { return x%7 == v%7 })
				m.entries = slices.DeleteFunc(m.entries, func(e entry) bool { return e.v%7 == v%7 })
			case 2, 3:
				have, ok := m.get(k)
				if !ok {
					m.put(k, v)
					have = v
				}
				if got := c.GetOrPut(k, v); got != have {
					t.Fatalf("seed %d, step %d: GetOrPut(%d, %d) = %d, want %d", seed, step, k, v, got, have)
				}
			case 4, 5, 6, 7:
				c.Put(k, v)
				m.put(k, v)
			default:
				want, wantOK := m.get(k)
				if got, ok := c.Get(k); got != want || ok != wantOK {
					t.Fatalf("seed %d, step %d: Get(%d) = %d, %v, want %d, %v", seed, step, k, got, ok, want, wantOK)
				}
			}
			if c.Used() != m.used() || c.Len() != len(m.entries) || c.Used() > m.max {
				t.Fatalf("seed %d, step %d: used %d (limit %d) in %d values, want %d in %d", seed, step, c.Used(), m.max, c.Len(), m.used(), len(m.entries))
			}
		}
	}
}

// TestCount checks that without weights the limit is a number of values.
func TestCount(t *testing.T) {
	c := New[int, string](10, nil)
	for i := range 1000 {
		c.Put(i, "x")
		c.Get(0) // used, so it stays
	}
	if _, ok := c.Get(0); !ok || c.Len() != 10 || c.Used() != 10 {
		t.Errorf("%d values, Used = %d, want 10; the used value exists: %v", c.Len(), c.Used(), ok)
	}
}

// TestConcurrent uses one cache concurrently: it must stay within its budget, and
// concurrent GetOrPut of a key must return the same value.
func TestConcurrent(t *testing.T) {
	c := New[int](50, func(v int) int64 { return int64(v) })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 2000 {
				c.Put(n%40, n%9)
				c.Get(n % 11)
				if n%50 == i {
					c.RemoveIf(func(v int) bool { return v == i })
				}
				if used := c.Used(); used > 50 || used < 0 {
					t.Errorf("Used = %d, want 0 to 50", used)
					return
				}
			}
		})
	}
	wg.Wait()
	one := New[int, int](10, nil)
	got := make([]int, 50)
	for i := range got {
		wg.Go(func() { got[i] = one.GetOrPut(1, i) })
	}
	wg.Wait()
	if len(slices.Compact(got)) != 1 {
		t.Errorf("one key has values %v", got)
	}
}
