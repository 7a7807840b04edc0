package store

import (
	"context"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/series"
)

// Metadata is what the published days of a range know of a tenant's metrics,
// sorted by metric, the newest first of each.
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

// sortMetadata sorts by metric and leaves the order of one metric's as it is.
func sortMetadata(list []series.MetricMetadata) {
	slices.SortStableFunc(list, func(a, b series.MetricMetadata) int { return strings.Compare(a.Metric, b.Metric) })
}
