package authn

import "sync"

// recent is a bounded map that forgets what was not used lately: it holds at
// most two generations of max entries, and drops the older one when the younger
// is full.
type recent[K comparable, V any] struct {
	max int

	mu    sync.Mutex
	young map[K]V
	old   map[K]V
}

func newRecent[K comparable, V any](max int) *recent[K, V] {
	return &recent[K, V]{max: max, young: make(map[K]V)}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.young[k]; ok {
		return v, true
	}
	v, ok := r.old[k]
	if ok {
		r.insert(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.insert(k, v)
}

func (r *recent[K, V]) insert(k K, v V) {
	if _, ok := r.young[k]; !ok && len(r.young) >= r.max {
		r.old, r.young = r.young, make(map[K]V)
	}
	r.young[k] = v
}

// getOrPut returns what is kept for k, after putting v there if nothing is.
func (r *recent[K, V]) getOrPut(k K, v V) V {
	if have, ok := r.get(k); ok {
		return have
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.young[k]; ok {
		return have
	}
	r.insert(k, v)
	return v
}
