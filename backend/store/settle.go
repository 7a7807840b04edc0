package store

import (
	"context"
	"slices"

	"github.com/palliumhq/pallium/backend/index"
)

// SettleLosses deletes intents of lost ingesters for windows of which no other
// ingester has pending uploads, and with which no ingester of another zone was lost:
// every acknowledged sample of them was on another ingester too, and is uploaded.
// Intents younger than before (Unix milliseconds) are kept. It returns how many were
// deleted.
func (s *Store) SettleLosses(ctx context.Context, before int64) (int, error) {
	return s.settleLosses(ctx, func(d *index.DayWork, in index.IntentOf) bool { return in.Since <= before && settled(d, in, false) })
}

// SettleLoss deletes the intents of one lost ingester, after all others have sealed
// and uploaded what they had. Windows with which an ingester of another zone was lost,
// too, are kept. It returns how many those are.
func (s *Store) SettleLoss(ctx context.Context, ingester string) (int, error) {
	left := 0
	_, err := s.settleLosses(ctx, func(d *index.DayWork, in index.IntentOf) bool {
		if !index.IsLostOf(in.Ingester, ingester) {
			return false
		}
		if !settled(d, in, true) {
			left++
			return false
		}
		return true
	})
	return left, err
}

func (s *Store) settleLosses(ctx context.Context, which func(*index.DayWork, index.IntentOf) bool) (int, error) {
	byName := map[string][]index.Window{}
	err := s.index.Work.Each(ctx, func(d *index.DayWork) error {
		for _, in := range d.Intents {
			if index.IsLost(in.Ingester) && which(d, in) {
				byName[in.Ingester] = append(byName[in.Ingester], index.Window{Day: d.Day, Number: in.Window})
			}
		}
		return nil
	})
	n := 0
	for name, windows := range byName {
		if err == nil {
			err = s.index.Work.Settle(ctx, name, windows)
			n += len(windows)
		}
	}
	return n, err
}

// settled reports whether a lost ingester's window is with all others in the
// long-term store. With uploaded, those that live are known to have uploaded
// what they had.
func settled(d *index.DayWork, lost index.IntentOf, uploaded bool) bool {
	return !slices.ContainsFunc(d.Intents, func(o index.IntentOf) bool {
		if o.Window != lost.Window || o.Ingester == lost.Ingester {
			return false
		}
		if !index.IsLost(o.Ingester) {
			return !uploaded
		}
		return o.Zone != lost.Zone || o.Zone == ""
	})
}
