package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// generous is an ingester that does not take memory for its responses itself.
type generous struct{ Ingester }

// answerText is the minimum size in bytes of its responses.
const answerText = 200_000

func texts() []string {
	var out []string
	for i := range 200 {
		out = append(out, strings.Repeat("x", answerText/200)+fmt.Sprint(i))
	}
	return out
}

func (generous) Select(context.Context, series.Request) (*series.Selection, []ulid.ULID, error) {
	sel := &series.Selection{}
	for _, s := range texts() {
		sel.Series = append(sel.Series, series.WithChunks{Labels: labels.FromStrings("a", s)})
	}
	return sel, nil, nil
}

func (generous) LabelNames(context.Context, series.Request) ([]string, []ulid.ULID, error) {
	return texts(), nil, nil
}

func (generous) LabelValues(context.Context, string, series.Request) ([]string, []ulid.ULID, error) {
	return texts(), nil, nil
}

func (generous) Exemplars(context.Context, tenant.ID, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	var out []exemplar.QueryResult
	for _, s := range texts() {
		out = append(out, exemplar.QueryResult{SeriesLabels: labels.FromStrings("a", s)})
	}
	return out, nil
}

func (generous) ReserveSeries(context.Context, *ingester.ActiveSeries) error { return nil }

func (generous) ActiveSeries(context.Context, string, func(*ingester.ActiveSeries) error) error {
	return nil
}

// TestAnswersTakeMemory checks that the server takes memory for a response until it was sent, and
// for a list of active series, in addition to the memory that the ingester took.
func TestAnswersTakeMemory(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	a := newAccounted(t, generous{}, sec, sec)
	request := series.Request{Tenant: "a", MaxTime: math.MaxInt64}
	const handedOver = 5000
	for name, c := range map[string]struct {
		do   func() error
		need int64 // at least
	}{
		"select": {func() error { _, _, err := a.Select(ctx, request); return err }, responseCopies * answerText},
		"names":  {func() error { _, _, err := a.Labels(ctx, "", request); return err }, (responseCopies - 1) * answerText},
		"values": {func() error { _, _, err := a.Labels(ctx, "i", request); return err }, (responseCopies - 1) * answerText},
		"exemplars": {func() error {
			_, err := a.Exemplars(ctx, "a", 0, math.MaxInt64, [][]*labels.Matcher{{}})
			return err
		}, responseCopies * answerText},
		"series that are handed over": {func() error {
			return a.ReserveSeries(ctx, &ingester.ActiveSeries{Tenant: "a", Hashes: make([]uint64, handedOver), Seconds: make([]uint32, handedOver)})
		}, handOverBytes * handedOver},
		"active series": {func() error { return a.ActiveSeries(ctx, "x", nil) }, handOverBytes * ingester.HandOverSlice},
	} {
		empty := fill(t, a.account, c.need-1)
		if err := c.do(); !errors.Is(err, wire.ErrUnavailable) || !strings.Contains(err.Error(), memory.ErrFull.Error()) {
			t.Errorf("%s with %d bytes: %v", name, c.need-1, err)
		}
		empty()
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		a.eventually(name, none)
	}
}
