package index

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// AsideOf is the record of what an ingester set aside of a tenant in a window;
// see docs/format/aside.md.
type AsideOf struct {
	Ingester string // with the mark of lost ones
	Window   Window
	Tenant   tenant.ID
	schema.Aside
}

// ErrNoAside is returned when there is no such record.
var ErrNoAside = errors.New("nothing is recorded as set aside by that ingester for that tenant and window")

func (a *AsideOf) qualifier() string {
	return schema.AsideQualifier(a.Window.Number, a.Ingester, a.Tenant)
}

// Asides lists everything that is recorded as set aside.
func (s *Work) Asides(ctx context.Context) ([]AsideOf, error) {
	var out []AsideOf
	err := s.Each(ctx, func(d *DayWork) error { out = append(out, d.Asides...); return nil })
	return out, err
}

// SetAside records what an ingester set aside, in place of what was recorded for
// the same window and tenant. A mark of Drop on it goes: there is more now than
// the operator gave up.
func (s *Work) SetAside(ctx context.Context, list []AsideOf) error {
	byDay := map[int64][]rows.Mutation{}
	for i := range list {
		a := &list[i]
		byDay[a.Window.Day] = append(byDay[a.Window.Day], rows.Set(rows.System, a.qualifier(), 0, a.Encode()))
	}
	return s.mutateWork(ctx, byDay, "record series that were set aside")
}

// ClearAside deletes records of what is not set aside any more.
func (s *Work) ClearAside(ctx context.Context, list []AsideOf) error {
	byDay := map[int64][]rows.Mutation{}
	for i := range list {
		a := &list[i]
		byDay[a.Window.Day] = append(byDay[a.Window.Day], rows.DeleteColumn(rows.System, a.qualifier()))
	}
	return s.mutateWork(ctx, byDay, "delete records of series that were set aside")
}

// DropAside gives up what an ingester set aside of a tenant in a window. The
// record of an ingester that was lost goes at once; any other is marked, and the
// ingester deletes its files and then the record. It returns what was given up,
// or ErrNoAside.
func (s *Work) DropAside(ctx context.Context, ingester string, w Window, t tenant.ID) (AsideOf, error) {
	const attempts = 5
	for range attempts {
		all, err := s.Asides(ctx)
		if err != nil {
			return AsideOf{}, err
		}
		i := slices.IndexFunc(all, func(a AsideOf) bool { return a.Ingester == ingester && a.Window == w && a.Tenant == t })
		if i < 0 {
			return AsideOf{}, ErrNoAside
		}
		a := all[i]
		mutation := rows.DeleteColumn(rows.System, a.qualifier())
		if !IsLost(a.Ingester) {
			marked := a
			marked.Dropped = s.nowMillis()
			mutation = rows.Set(rows.System, a.qualifier(), 0, marked.Encode())
		}
		// Only what the operator saw is given up.
		held, err := s.rows.CheckAndMutate(ctx, schema.WorkKey(w.Day), rows.ValueIs(rows.System, a.qualifier(), a.Encode()),
			[]rows.Mutation{mutation}, nil)
		if err != nil {
			return a, fmt.Errorf("drop series that were set aside: %w", err)
		}
		if held {
			return a, nil
		}
	}
	return AsideOf{}, errors.New("drop series that were set aside: the record keeps changing; repeat it")
}

// AsidesOf lists what an instance has set aside, under its own name or as one
// that was lost, and that no operator gave up.
func (s *Work) AsidesOf(ctx context.Context, instance string) ([]AsideOf, error) {
	all, err := s.Asides(ctx)
	return slices.DeleteFunc(all, func(a AsideOf) bool { return a.Dropped != 0 || !ofInstance(a.Ingester, instance) }), err
}

// ForgetAsides deletes the records of an instance that an operator gave up: the
// instance will not come back to do it.
func (s *Work) ForgetAsides(ctx context.Context, instance string) error {
	all, err := s.Asides(ctx)
	if err != nil {
		return err
	}
	return s.ClearAside(ctx, slices.DeleteFunc(all, func(a AsideOf) bool { return a.Dropped == 0 || !ofInstance(a.Ingester, instance) }))
}

func ofInstance(ingester, instance string) bool {
	return ingester == instance || strings.HasPrefix(ingester, instance+lostMark)
}

// HasAside reports whether a tenant has something set aside that nobody gave up.
func (s *Work) HasAside(ctx context.Context, t tenant.ID) (bool, error) {
	all, err := s.Asides(ctx)
	return slices.ContainsFunc(all, func(a AsideOf) bool { return a.Tenant == t && a.Dropped == 0 }), err
}
