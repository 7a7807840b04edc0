// Package selfmonitor writes a process's own metrics to the built-in tenant, so that a new
// installation has data to query from the first minute.
package selfmonitor

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Options configure Run. Only Instance is optional.
type Options struct {
	Gatherer prometheus.Gatherer
	Push     func(context.Context, *series.Batch) (series.Outcome, error)
	Limits   func(tenant.ID) limits.Limits
	Interval time.Duration
	Now      func() time.Time
	Logger   *slog.Logger
	Instance string // label value; default the host name
}

// Run writes the metrics once per interval until ctx is done. Failures are logged.
func Run(ctx context.Context, o Options) {
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	host := o.Instance
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	for {
		if err := write(ctx, &o, host); err != nil && ctx.Err() == nil {
			o.Logger.Warn("could not write own metrics", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func write(ctx context.Context, o *Options, host string) error {
	families, err := o.Gatherer.Gather()
	if err != nil {
		return err
	}
	lim := o.Limits(tenant.Self)
	b := &series.Batch{Tenant: tenant.Self, Limits: &lim}
	vector, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.TimeFromUnixNano(o.Now().UnixNano())}, families...)
	if err != nil {
		return err
	}
	lb := labels.NewBuilder(labels.EmptyLabels())
	for _, s := range vector {
		lb.Reset(labels.EmptyLabels())
		for n, v := range s.Metric {
			lb.Set(string(n), string(v))
		}
		lb.Set("job", "pallium")
		lb.Set("instance", host)
		ls := lb.Labels()
		b.Entries = append(b.Entries,
			series.Entry{Labels: ls, Hash: ls.Hash(), Samples: []series.Sample{{T: int64(s.Timestamp), V: float64(s.Value)}}})
	}
	for _, f := range families {
		b.Metadata = append(b.Metadata, series.MetricMetadata{
			Metric:   f.GetName(),
			Metadata: metadata.Metadata{Type: metricType(f.GetType()), Help: f.GetHelp(), Unit: f.GetUnit()},
		})
	}
	_, err = o.Push(ctx, b)
	return err
}

func metricType(t dto.MetricType) model.MetricType {
	switch t {
	case dto.MetricType_COUNTER:
		return model.MetricTypeCounter
	case dto.MetricType_GAUGE:
		return model.MetricTypeGauge
	case dto.MetricType_SUMMARY:
		return model.MetricTypeSummary
	case dto.MetricType_HISTOGRAM:
		return model.MetricTypeHistogram
	case dto.MetricType_GAUGE_HISTOGRAM:
		return model.MetricTypeGaugeHistogram
	}
	return model.MetricTypeUnknown
}
