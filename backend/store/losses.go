package store

import (
	"context"
	"slices"

	"github.com/palliumhq/pallium/backend/index"
)

// ClearLosses deletes the intents of lost ingesters for each window that is not pending on any
// other ingester and was not also lost by an ingester of another zone (without zones: by another
// ingester). A replica had every acknowledged sample of such a window and has uploaded it. Intents
// younger than before (Unix milliseconds) are kept. It returns the number of intents deleted.
func (s *Store) ClearLosses(ctx context.Context, before int64) (int, error) {
	return s.clearLosses(ctx, func(d *index.DayWork, in index.IntentOf) bool { return in.Since <= before && recovered(d, in, false) })
}

// ClearLoss deletes the intents of one lost ingester. The caller has made all other
// ingesters seal and upload their samples. The intents of windows that an ingester of
// another zone has lost too are kept. It returns the number of intents kept.
func (s *Store) ClearLoss(ctx context.Context, ingester string) (int, error) {
	left := 0
	_, err := s.clearLosses(ctx, func(d *index.DayWork, in index.IntentOf) bool {
		if !index.IsLostOf(in.Ingester, ingester) {
			return false
		}
		if !recovered(d, in, true) {
			left++
			return false
		}
		return true
	})
	return left, err
}

// clearLosses deletes the intents of lost ingesters for which accept returns true, and returns
// how many it deleted.
func (s *Store) clearLosses(ctx context.Context, accept func(*index.DayWork, index.IntentOf) bool) (int, error) {
	byName := map[string][]index.Window{}
	err := s.index.Work.Each(ctx, func(d *index.DayWork) error {
		for _, in := range d.Intents {
			if index.IsLost(in.Ingester) && accept(d, in) {
				byName[in.Ingester] = append(byName[in.Ingester], index.Window{Day: d.Day, Number: in.Window})
			}
		}
		return nil
	})
	n := 0
	for name, windows := range byName {
		if err == nil {
			err = s.index.Work.ClearIntents(ctx, name, windows)
			n += len(windows)
		}
	}
	return n, err
}

// recovered reports whether all samples of a lost ingester's window are in the long-term
// store. The argument `uploaded` says that the other ingesters are known to have uploaded
// their samples of the window; then their intents do not count.
func recovered(d *index.DayWork, lost index.IntentOf, uploaded bool) bool {
	return !slices.ContainsFunc(d.Intents, func(o index.IntentOf) bool {
		if o.Window != lost.Window || o.Ingester == lost.Ingester {
			return false
		}
		if !index.IsLost(o.Ingester) {
			return !uploaded
		}
		return o.Zone != lost.Zone || o.Zone == "" && index.InstanceOf(o.Ingester) != index.InstanceOf(lost.Ingester)
	})
}
