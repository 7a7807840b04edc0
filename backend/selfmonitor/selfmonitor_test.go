package selfmonitor

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestSelfMonitorFails checks that a failure is logged and that Run continues.
func TestSelfMonitorFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := &gatherer{fails: 2, enough: cancel}
	var log strings.Builder
	var got []series.Batch
	Run(ctx, Options{Gatherer: g, Interval: time.Millisecond, Limits: func(tenant.ID) limits.Limits { return limits.Default() }, Now: func() time.Time { return time.UnixMilli(7_000) }, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Instance: "me", Push: func(_ context.Context, b *series.Batch) (series.Outcome, error) {
			got = append(got, *b)
			return series.Outcome{}, nil
		}})
	if n := strings.Count(log.String(), "gathering failed"); n != 2 {
		t.Errorf("%d failures logged, want 2", n)
	}
	if len(got) != 1 || got[0].Tenant != tenant.Self || got[0].Limits == nil || len(got[0].Entries) != 1 || len(got[0].Metadata) != 1 {
		t.Fatalf("pushed %+v", got)
	}
	e := &got[0].Entries[0]
	if want := `{__name__="a", instance="me", job="pallium"}`; e.Labels.String() != want || e.Samples[0].T != 7_000 || e.Samples[0].V != 5 {
		t.Errorf("pushed %s %+v", e.Labels, e.Samples)
	}
}

var errGather = errors.New("gathering failed")

// gatherer fails some times, then returns one gauge and ends Run.
type gatherer struct {
	fails  int
	enough func()
}

func (g *gatherer) Gather() ([]*dto.MetricFamily, error) {
	if g.fails--; g.fails >= 0 {
		return nil, errGather
	}
	g.enough()
	return []*dto.MetricFamily{{Name: proto.String("a"), Help: proto.String("helps"), Type: dto.MetricType_GAUGE.Enum(),
		Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: proto.Float64(5)}}}}}, nil
}
