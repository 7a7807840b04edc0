package store

import (
	"context"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/series"
)

// Metadata returns the metadata of a tenant's metrics in the published days of a
// range, sorted by metric and, for each metric, from the newest day to the oldest.
func (s *Store) Metadata(ctx context.Context, t tenant.ID, first, last int64) ([]series.MetricMetadata, error) {
	list, _, err := s.index.Catalogs.Readable(ctx, t, first, last)
	if err != nil {
		return nil, err
	}
	if len(index.Published(list)) == 0 {
		return nil, nil
	}
	parts, err := s.index.Generations.Names(ctx, t, first, last)
	if err == nil {
		parts, err = s.index.Generations.PublishedNames(ctx, list, parts)
	}
	if err != nil {
		return nil, err
	}
	var out []series.MetricMetadata
	for i := len(parts) - 1; i >= 0; i-- {
		out = append(out, parts[i].Names.Metadata...)
	}
	sortMetadata(out)
	return out, nil
}

// sortMetadata sorts by metric and keeps the order of entries of the same metric.
func sortMetadata(list []series.MetricMetadata) {
	slices.SortStableFunc(list, func(a, b series.MetricMetadata) int { return strings.Compare(a.Metric, b.Metric) })
}
