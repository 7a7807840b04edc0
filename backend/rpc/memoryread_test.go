package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestReads checks that the memory of reads is charged to the accounts of server and caller,
// and released by the server with its response and by the caller with its holding. Without
// memory on either side the call fails, and nothing is held.
func TestReads(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	a := newAccounted(t, openIngester(t), sec, sec)
	if _, err := a.Push(ctx, push("a", body(t, 3000))); err != nil {
		t.Fatal(err)
	}
	a.eventually("pushed", none)
	matchers := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "up")}}
	long := []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "i", strings.Repeat("x", 1000))}
	request := series.Request{Tenant: "a", MaxTime: math.MaxInt64, Matchers: matchers[0]}
	regex := request
	regex.Matchers = long
	calls := map[string]struct {
		do      func(ctx context.Context) error
		nothing bool // the response is empty
	}{
		"select": {do: func(ctx context.Context) error { _, _, err := a.Select(ctx, request); return err }},
		"names":  {do: func(ctx context.Context) error { _, _, err := a.Labels(ctx, "", request); return err }},
		"values": {do: func(ctx context.Context) error { _, _, err := a.Labels(ctx, "i", request); return err }},
		"exemplars": {do: func(ctx context.Context) error {
			_, err := a.Exemplars(ctx, "a", 0, math.MaxInt64, matchers)
			return err
		}},
		"metadata":        {do: func(ctx context.Context) error { _, err := a.Metadata(ctx, "a"); return err }},
		"regex":           {do: func(ctx context.Context) error { _, _, err := a.Select(ctx, regex); return err }, nothing: true},
		"regex of values": {do: func(ctx context.Context) error { _, _, err := a.Labels(ctx, "i", regex); return err }, nothing: true},
		"regex of exemplars": {do: func(ctx context.Context) error {
			_, err := a.Exemplars(ctx, "a", 0, math.MaxInt64, [][]*labels.Matcher{long})
			return err
		}, nothing: true},
	}
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			mine := memory.NewAccount(accountBytes, nil)
			h := mine.Begin(memory.Request{Tenant: "a"})
			defer h.Close()
			held := memory.NewContext(ctx, h)
			if err := c.do(held); err != nil {
				t.Fatal(err)
			}
			if (h.Used() > 0) == c.nothing {
				t.Errorf("the caller holds %d bytes", h.Used())
			}
			a.eventually("answered", none)
			empty := fill(t, a.account, 20)
			if err := c.do(held); !errors.Is(err, wire.ErrUnavailable) || !strings.Contains(err.Error(), memory.ErrFull.Error()) {
				t.Errorf("without memory of the server: %v", err)
			}
			empty()
			h.Close()
			if c.nothing {
				return
			}
			h = mine.Begin(memory.Request{Tenant: "a"})
			empty = fill(t, mine, 20)
			if err := c.do(memory.NewContext(ctx, h)); !errors.Is(err, memory.ErrFull) {
				t.Errorf("without memory of the caller: %v", err)
			}
			if h.Used() != 0 {
				t.Errorf("%d bytes held after an error", h.Used())
			}
			empty()
			h.Close()
			if mine.Used() != 0 {
				t.Errorf("the caller still holds %d bytes", mine.Used())
			}
			a.eventually("in the end", none)
		})
	}
}

// TestSelectReleases checks that the memory of a selection is released with it or after an
// error, and that Select fails after the request's holding was closed.
func TestSelectReleases(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	a := newAccounted(t, openIngester(t), sec, sec)
	if _, err := a.Push(ctx, push("a", incompressible(t, 4<<20))); err != nil {
		t.Fatal(err)
	}
	mine := memory.NewAccount(accountBytes, nil)
	h := mine.Begin(memory.Request{Tenant: "a"})
	held := memory.NewContext(ctx, h)
	req := all("a")
	sel, _, err := a.Select(held, req)
	if err != nil || h.Used() < 4<<20 {
		t.Fatalf("%d bytes held: %v", h.Used(), err)
	}
	sel.Release()
	if h.Used() != 0 {
		t.Errorf("%d bytes held after Release", h.Used())
	}
	req.MaxSeries = 1000
	var exceeded *limits.Exceeded
	if _, _, err := a.Select(held, req); !errors.As(err, &exceeded) || h.Used() != 0 {
		t.Errorf("too many series: %d bytes are held: %v", h.Used(), err)
	}
	req.MaxSeries = 0
	empty := fill(t, mine, 3<<20)
	if _, _, err := a.Select(held, req); !errors.Is(err, memory.ErrFull) || h.Used() != 0 {
		t.Errorf("no memory for the last part: %d bytes are held: %v", h.Used(), err)
	}
	empty()
	h.Close()
	if _, _, err := a.Select(held, req); err == nil || mine.Used() != 0 {
		t.Errorf("after the request's end: %d bytes are held: %v", mine.Used(), err)
	}
}

// endedIngester ends the heaviest read, which is the one that it answers.
type endedIngester struct {
	Ingester
	account func() *memory.Account
}

// Select implements Ingester.
func (i endedIngester) Select(ctx context.Context, _ series.Request) (*series.Selection, []ulid.ULID, error) {
	h := memory.FromContext(ctx)
	if err := h.Take(1 << 20); err != nil {
		return nil, nil, err
	}
	i.account().EndHeaviest(1)
	return nil, nil, fmt.Errorf("read: %w", h.Take(1))
}

// TestReadEnded: the caller of a read that an ingester ended because of its memory learns that,
// and its own memory is not the reason.
func TestReadEnded(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	var a *accounted
	a = newAccounted(t, endedIngester{account: func() *memory.Account { return a.account }}, sec, sec)
	h := memory.NewAccount(accountBytes, nil).Begin(memory.Request{Tenant: "a"})
	defer h.Close()
	if _, _, err := a.Select(memory.NewContext(ctx, h), all("a")); !errors.Is(err, memory.ErrEndedElsewhere) || h.Used() != 0 {
		t.Errorf("error %v, %d bytes held", err, h.Used())
	}
}
