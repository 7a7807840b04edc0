package querier

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
)

// Ingester is one ingester as a querier sees it. Each answer comes with the L0
// packs that it was read from.
type Ingester interface {
	Select(ctx context.Context, req series.Request) (*series.Selection, []ulid.ULID, error)
	// Labels returns the sorted names of labels, or the values of one.
	Labels(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error)
	Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error)
}

// Peer is an ingester and what it would fail together with: its zone, or itself.
type Peer struct {
	ID, Domain string
	Unhealthy  bool
	Ingester   Ingester
}

// IngestersOptions are the options of Ingesters.
type IngestersOptions struct {
	// Peers lists all ingesters that may have samples, those that leave included.
	Peers func(context.Context) ([]Peer, error)
	// Tolerate is how many domains may be silent: a series is on a majority of
	// Replication ingesters in distinct domains, so one less than a majority.
	Tolerate int
	// Lost lists domains in which an ingester was lost with samples of the tenant and
	// range that are not in the long-term store. They count as silent, even when all
	// their ingesters answer. nil: none ever is.
	Lost func(ctx context.Context, id tenant.ID, mint, maxt int64) ([]string, error)
	// HedgeAfter is how long the domains asked first have before the others are
	// asked, too; default 300 ms.
	HedgeAfter time.Duration
}

// ErrSilent is returned when so many ingesters do not answer that samples could
// be missing. Asking again later may help.
var ErrSilent = errors.New("too many ingesters do not answer: samples could be missing from an answer")

// Ingesters answers for all ingesters together. It asks as many domains as are
// enough for every acknowledged sample, and the rest when one of those fails or
// is slow; the answer is the union. Fewer are an error, never a shorter answer.
type Ingesters struct{ o IngestersOptions }

var _ Recent = (*Ingesters)(nil)

// NewIngesters returns Ingesters.
func NewIngesters(o IngestersOptions) *Ingesters {
	if o.HedgeAfter == 0 {
		o.HedgeAfter = 300 * time.Millisecond
	}
	return &Ingesters{o: o}
}

// OneIngester is Ingesters of a process that has the only one.
func OneIngester(ing Ingester) *Ingesters {
	return NewIngesters(IngestersOptions{Peers: func(context.Context) ([]Peer, error) {
		return []Peer{{ID: "local", Domain: "local", Ingester: ing}}, nil
	}})
}

// poll is the state of one question to the ingesters.
type poll struct {
	peers    []Peer
	order    []string        // domains, in the order of asking
	lost     map[string]bool // domains that count as silent
	waiting  map[string]int  // answers a domain still owes
	failed   map[string]bool
	tolerate int
	errs     []error
}

func (in *Ingesters) newPoll(ctx context.Context, id tenant.ID, mint, maxt int64) (*poll, error) {
	peers, err := in.o.Peers(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("%w: there are none in the ring", ErrSilent)
	}
	p := &poll{peers: peers, tolerate: in.o.Tolerate, lost: map[string]bool{}, waiting: map[string]int{}, failed: map[string]bool{}}
	sick := map[string]bool{}
	for _, peer := range peers {
		if p.waiting[peer.Domain] == 0 {
			p.order = append(p.order, peer.Domain)
		}
		p.waiting[peer.Domain]++
		sick[peer.Domain] = sick[peer.Domain] || peer.Unhealthy
	}
	if in.o.Lost != nil {
		list, err := in.o.Lost(ctx, id, mint, maxt)
		if err != nil {
			return nil, fmt.Errorf("lost ingesters: %w", err)
		}
		for _, d := range list {
			p.lost[d] = true
		}
	}
	if len(p.lost) > p.tolerate {
		return nil, fmt.Errorf("%w: ingesters of %d zones were lost with samples of this time that may be nowhere else (%s); an operator can accept that", ErrSilent, len(p.lost), strings.Join(sortedKeys(p.lost), ", "))
	}
	// Tenants begin at different domains, so that all have the same to do. Those
	// that cannot be relied on come last.
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	slices.Sort(p.order)
	k := int(h.Sum32() % uint32(len(p.order)))
	p.order = append(slices.Clone(p.order[k:]), p.order[:k]...)
	slices.SortStableFunc(p.order, func(a, b string) int {
		rank := func(d string) int {
			switch {
			case p.lost[d]:
				return 2
			case sick[d]:
				return 1
			}
			return 0
		}
		return rank(a) - rank(b)
	})
	return p, nil
}

func sortedKeys(m map[string]bool) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// enough is how many domains must answer completely, lost ones not counted. It is
// never so few that all replicas of a sample could be in others: a ring that is not
// known as a whole yet may lack some.
func (p *poll) enough() int {
	all := len(p.order)
	for d := range p.lost { // a zone without any ingester left
		if !slices.Contains(p.order, d) {
			all++
		}
	}
	return max(all-p.tolerate, p.tolerate+1)
}

func (p *poll) complete() int {
	n := 0
	for _, d := range p.order {
		if !p.lost[d] && !p.failed[d] && p.waiting[d] == 0 {
			n++
		}
	}
	return n
}

// possible reports whether enough domains can still answer.
func (p *poll) possible() bool {
	good := 0
	for _, d := range p.order {
		if !p.lost[d] && !p.failed[d] {
			good++
		}
	}
	return good >= p.enough()
}

// reply is one ingester's answer.
type reply[T any] struct {
	peer  int
	value T
	packs []ulid.ULID
	err   error
}

// ask puts a question to the ingesters and returns the answers that are enough,
// with the packs that they were read from. drop lets go of an answer that is not
// returned.
func ask[T any](ctx context.Context, in *Ingesters, id tenant.ID, mint, maxt int64, call func(context.Context, Ingester) (T, []ulid.ULID, error), drop func(T)) ([]T, Served, error) {
	p, err := in.newPoll(ctx, id, mint, maxt)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan reply[T], len(p.peers))
	started := 0
	begin := func(domains []string) {
		for i, peer := range p.peers {
			if slices.Contains(domains, peer.Domain) {
				started++
				go func() {
					v, packs, err := call(ctx, peer.Ingester)
					replies <- reply[T]{i, v, packs, err}
				}()
			}
		}
	}
	var got []T
	// Everything that was begun is waited for: its answer may hold resources.
	defer func() {
		if started > 0 {
			go discard(replies, started, drop)
		}
	}()
	// A failed question ends when the work for it has: its place and its memory are
	// given back then, and an ingester of this process may be in the middle of a
	// regular expression.
	fail := func(err error) ([]T, Served, error) {
		cancel()
		discard(replies, started, drop)
		started = 0
		for _, v := range got {
			drop(v)
		}
		return nil, nil, err
	}
	first := min(p.enough(), len(p.order))
	begin(p.order[:first])
	rest := p.order[first:]
	hedge := time.NewTimer(in.o.HedgeAfter)
	defer hedge.Stop()
	served := map[ulid.ULID]bool{}
	for p.complete() < p.enough() {
		select {
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-hedge.C:
			begin(rest)
			rest = nil
		case r := <-replies:
			started--
			peer := &p.peers[r.peer]
			if r.err == nil {
				got = append(got, r.value)
				for _, pack := range r.packs {
					served[pack] = true
				}
				p.waiting[peer.Domain]--
				continue
			}
			if own(r.err) || ctx.Err() != nil {
				return fail(r.err)
			}
			p.failed[peer.Domain] = true
			p.errs = append(p.errs, fmt.Errorf("%s: %w", peer.ID, r.err))
			if !p.possible() {
				return fail(fmt.Errorf("%w: %w", ErrSilent, errors.Join(p.errs...)))
			}
			begin(rest)
			rest = nil
		}
	}
	return got, func(id ulid.ULID) bool { return served[id] }, nil
}

// own reports whether the question failed for a reason of its own, which asking
// others does not cure: a limit, or no memory here for the answers. What an ingester
// has no memory for comes as another error.
func own(err error) bool {
	var exceeded *limits.Exceeded
	return errors.As(err, &exceeded) || errors.Is(err, memory.ErrFull) || errors.Is(err, memory.ErrEnded)
}

// discard takes the answers that nobody waits for.
func discard[T any](replies <-chan reply[T], n int, drop func(T)) {
	for range n {
		if r := <-replies; r.err == nil {
			drop(r.value)
		}
	}
}

// Select implements Recent.
func (in *Ingesters) Select(ctx context.Context, req series.Request) (*series.Selection, Served, error) {
	answers, served, err := ask(ctx, in, req.Tenant, req.MinTime, req.MaxTime,
		func(ctx context.Context, ing Ingester) (*series.Selection, []ulid.ULID, error) {
			return ing.Select(ctx, req)
		},
		(*series.Selection).Release)
	if err != nil {
		return nil, nil, err
	}
	out := answers[0]
	for i, a := range answers[1:] {
		out.Hold(a.Release)
		if out.Series, err = union(out.Series, a.Series, req.MaxSeries); err != nil {
			for _, left := range answers[i+2:] {
				left.Release()
			}
			out.Release()
			return nil, nil, err
		}
	}
	return out, served, nil
}

// LabelNames implements Recent.
func (in *Ingesters) LabelNames(ctx context.Context, req series.Request) ([]string, Served, error) {
	return in.labels(ctx, "", req)
}

// LabelValues implements Recent.
func (in *Ingesters) LabelValues(ctx context.Context, name string, req series.Request) ([]string, Served, error) {
	return in.labels(ctx, name, req)
}

func (in *Ingesters) labels(ctx context.Context, name string, req series.Request) ([]string, Served, error) {
	answers, served, err := ask(ctx, in, req.Tenant, req.MinTime, req.MaxTime,
		func(ctx context.Context, ing Ingester) ([]string, []ulid.ULID, error) {
			return ing.Labels(ctx, name, req)
		},
		func([]string) {})
	if err != nil {
		return nil, nil, err
	}
	var out []string
	for _, a := range answers {
		out = mergeSorted(out, a)
	}
	return out, served, nil
}

// Exemplars implements Recent.
func (in *Ingesters) Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	answers, _, err := ask(ctx, in, id, mint, maxt,
		func(ctx context.Context, ing Ingester) ([]exemplar.QueryResult, []ulid.ULID, error) {
			out, err := ing.Exemplars(ctx, id, mint, maxt, sets)
			return out, nil, err
		}, func([]exemplar.QueryResult) {})
	if err != nil {
		return nil, err
	}
	var out []exemplar.QueryResult
	for _, a := range answers {
		out = joinExemplars(out, a)
	}
	return out, nil
}

// joinExemplars brings the exemplars of a series together, each once.
func joinExemplars(a, b []exemplar.QueryResult) []exemplar.QueryResult {
	for _, r := range b {
		i := slices.IndexFunc(a, func(o exemplar.QueryResult) bool { return labels.Equal(o.SeriesLabels, r.SeriesLabels) })
		if i < 0 {
			a = append(a, r)
			continue
		}
		for _, e := range r.Exemplars {
			if !slices.ContainsFunc(a[i].Exemplars, func(o exemplar.Exemplar) bool { return o.Equals(e) }) {
				a[i].Exemplars = append(a[i].Exemplars, e)
			}
		}
		slices.SortStableFunc(a[i].Exemplars, func(x, y exemplar.Exemplar) int { return int(x.Ts - y.Ts) })
	}
	slices.SortFunc(a, func(x, y exemplar.QueryResult) int { return labels.Compare(x.SeriesLabels, y.SeriesLabels) })
	return a
}

// Served tells whether a pack's samples are in an answer.
type Served = store.Covered
