package model

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// delete sends a deletion and records the outcome.
func (r *run) delete(t *Tenant, d *deletion) bool {
	params := url.Values{"match[]": {d.selector}}
	if d.mint != math.MinInt64 {
		params.Set("start", seconds(d.mint))
	}
	if d.maxt != math.MaxInt64 {
		params.Set("end", seconds(d.maxt))
	}
	edge := r.edge()
	t.beginDeletion(d)
	ctx, cancel := r.bounded(context.Background())
	defer cancel()
	a := r.client.do(ctx, http.MethodPost, edge+"/prometheus/api/v1/admin/tsdb/delete_series?"+params.Encode(), t.token, nil)
	how := fmt.Sprintf("at %s: %d", edge, a.code)
	if a.code == http.StatusNoContent {
		t.finishDeletion(d, Acknowledged, how)
		return true
	}
	t.finishDeletion(d, Unknown, how)
	if !r.mayFail(a) {
		r.differ(t, "delete_series "+params.Encode()+" "+how, &Difference{Expected: "204", Got: a.String()})
	}
	return false
}

// repeatDeletion repeats a failed deletion, as its error response tells clients to, and
// reports whether no failed deletion is left. Callers push nothing while one is left,
// because it could also delete the new samples.
func (r *run) repeatDeletion(t *Tenant) bool {
	d := t.failedDeletion()
	return d == nil || r.delete(t, d)
}

// changeRetention sets another retention.
func (r *run) changeRetention() {
	t := r.tenant()
	keep := []time.Duration{0, 0, 24 * time.Hour, 36 * time.Hour, 4 * time.Hour, 72 * time.Hour}[r.gen.rnd.Intn(6)]
	t.setRetention(keep, r.slacks.clock)
	retention := strings.TrimSuffix(strings.TrimSuffix(keep.String(), "0s"), "0m") + zero(keep)
	if _, err := r.sys.command("limits", "set", t.name, "retention="+retention, "-yes"); err != nil {
		if !r.faulty.Load() {
			r.t.Errorf("seed %d, step %d: %v", r.seed, r.step, err)
		}
		t.setRetention(keep, r.slacks.clock) // the command may have taken effect: samples older than either retention may exist or not
	}
	t.mu.Lock()
	t.changed = time.Now()
	t.mu.Unlock()
}

func zero(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	return ""
}

// replaceTenant deletes a tenant, whose key must be rejected from then on, and creates
// another one.
func (r *run) replaceTenant() {
	i := r.gen.rnd.Intn(len(r.tenants))
	t := r.tenants[i]
	if _, err := r.sys.command("tenant", "delete", t.name, "-yes"); err != nil {
		if !r.faulty.Load() {
			r.t.Errorf("seed %d, step %d: %v", r.seed, r.step, err)
		}
		return // the tenant remains; a later call may choose it again
	}
	for deadline := time.Now().Add(30 * time.Second); ; { // other processes apply the deletion within a second
		open := ""
		for _, edge := range r.sys.edges() {
			a := r.client.do(context.Background(), http.MethodGet, edge+"/prometheus/api/v1/query?query="+url.QueryEscape(`count({__name__=~".+"})`),
				t.token, nil)
			if a.code != http.StatusUnauthorized && a.code != http.StatusForbidden && a.code != http.StatusNotFound && !r.mayFail(a) {
				open = a.String()
			}
		}
		if open == "" {
			break
		}
		if time.Now().After(deadline) {
			r.differ(t, "count of a deleted tenant", &Difference{Expected: "401, 403 or 404", Got: open})
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.tenants[i] = r.newTenant()
}

// publishing pushes, flushes and compacts a few times while queries run.
func (r *run) publishing() { r.publications(1 + r.gen.rnd.Intn(5)) }

func (r *run) publications(rounds int) {
	t := r.tenant()
	if !r.repeatDeletion(t) {
		return
	}
	seeds := r.seeds()
	var background sync.WaitGroup
	stop := make(chan struct{})
	r.writing.Store(true)
	background.Go(func() {
		defer close(stop)
		for range rounds {
			r.push(context.Background(), t)
			r.maintain(r.sys.flush)
			r.maintain(r.sys.compact)
		}
	})
	r.askUntil(t, stop, seeds)
	background.Wait()
	r.writing.Store(false)
}

// fromStore runs queries that read everything from the long-term store. The function `drop` deletes
// the local packs, which ingesters keep for an hour.
func (r *run) fromStore(drop func()) {
	r.maintain(r.sys.flush)
	r.maintain(r.sys.compact)
	drop()
	for _, t := range r.tenants {
		r.ask(t, 5)
	}
	r.publications(publicationsFromStore)
}

// publicationsFromStore is high: queries rarely read between two writes of a publication, and an
// error there is visible only if all data are read from the long-term store.
const publicationsFromStore = 12

const askers = 3

// seeds returns one seed for each querying goroutine: the generator belongs to another
// goroutine while they run.
func (r *run) seeds() []int64 {
	var out []int64
	for range askers {
		out = append(out, r.gen.rnd.Int63())
	}
	return out
}

// askUntil runs queries from several goroutines until the channel is closed.
func (r *run) askUntil(t *Tenant, stop <-chan struct{}, seeds []int64) {
	var all sync.WaitGroup
	for _, seed := range seeds {
		all.Go(func() {
			rnd := rand.New(rand.NewSource(seed))
			for {
				select {
				case <-stop:
					return
				default:
					r.askOnce(t, rnd.Int63())
				}
			}
		})
	}
	all.Wait()
}

// concurrent pushes samples while queries run. In half of the calls, everything is also flushed and
// compacted repeatedly. Each point of a response must be as it was before or after a concurrent
// write.
func (r *run) concurrent() {
	t := r.tenant()
	if !r.repeatDeletion(t) {
		return
	}
	seeds := r.seeds()
	var writers, background sync.WaitGroup
	stop := make(chan struct{})
	r.writing.Store(true)
	maintained := r.gen.chance(2)
	writers.Go(func() {
		defer close(stop)
		for range 40 {
			r.push(context.Background(), t)
		}
	})
	if maintained {
		background.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					r.maintain(r.sys.flush)
					r.maintain(r.sys.compact)
				}
			}
		})
	}
	r.askUntil(t, stop, seeds)
	writers.Wait()
	background.Wait()
	r.writing.Store(false)
}

// deleteSeries deletes series, or a range of them.
func (r *run) deleteSeries() {
	t := r.tenant()
	if t.failedDeletion() != nil {
		r.repeatDeletion(t)
		return
	}
	list := selectors()
	d := &deletion{selector: list[r.gen.rnd.Intn(len(list))], mint: math.MinInt64, maxt: math.MaxInt64}
	d.matchers = parse(d.selector)
	if r.gen.chance(2) {
		d.maxt = time.Now().UnixMilli() - r.gen.rnd.Int63n(2*dayMillis)
		d.mint = d.maxt - r.gen.rnd.Int63n(dayMillis)
	}
	r.delete(t, d)
}
