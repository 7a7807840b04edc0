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

// AsideOf is the record of the series of one tenant and window that an ingester set
// aside; see docs/format/aside.md.
type AsideOf struct {
	Ingester string // for a lost ingester, a name made by LostName
	Window   Window
	Tenant   tenant.ID
	schema.Aside
}

// ErrNoAside is returned when there is no record for an ingester, tenant and window.
var ErrNoAside = errors.New("no series set aside by this ingester for this tenant and window")

func (a *AsideOf) qualifier() string {
	return schema.AsideQualifier(a.Window.Number, a.Ingester, a.Tenant)
}

// Asides returns all records of series set aside.
func (s *Work) Asides(ctx context.Context) ([]AsideOf, error) {
	var out []AsideOf
	err := s.Each(ctx, func(d *DayWork) error { out = append(out, d.Asides...); return nil })
	return out, err
}

// SetAside writes records of series set aside, and replaces the records of the same
// ingester, window and tenant. It also replaces a record that is marked as dropped: the
// new record has series that the operator did not see.
func (s *Work) SetAside(ctx context.Context, list []AsideOf) error {
	byDay := map[int64][]rows.Mutation{}
	for i := range list {
		a := &list[i]
		byDay[a.Window.Day] = append(byDay[a.Window.Day], rows.Set(rows.System, a.qualifier(), 0, a.Encode()))
	}
	return s.mutateWork(ctx, byDay, "record series that were set aside")
}

// ClearAside deletes records of series that are no longer set aside.
func (s *Work) ClearAside(ctx context.Context, list []AsideOf) error {
	byDay := map[int64][]rows.Mutation{}
	for i := range list {
		a := &list[i]
		byDay[a.Window.Day] = append(byDay[a.Window.Day], rows.DeleteColumn(rows.System, a.qualifier()))
	}
	return s.mutateWork(ctx, byDay, "delete records of series that were set aside")
}

// DropAside drops the series of a tenant and window that an ingester set aside. It
// deletes the record of a lost ingester. It marks any other record as dropped, and the
// ingester then deletes its files and the record. It returns the previous record, or
// ErrNoAside.
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
		// Only if the record is unchanged since it was read.
		held, err := s.rows.CheckAndMutate(ctx, schema.WorkKey(w.Day), rows.ValueIs(rows.System, a.qualifier(), a.Encode()),
			[]rows.Mutation{mutation}, nil)
		if err != nil {
			return a, fmt.Errorf("drop series that were set aside: %w", err)
		}
		if held {
			return a, nil
		}
	}
	return AsideOf{}, errors.New("drop series that were set aside: the record was changed concurrently; repeat the request")
}

// AsidesOf returns the records of an instance and of its lost incarnations that are not
// marked as dropped.
func (s *Work) AsidesOf(ctx context.Context, instance string) ([]AsideOf, error) {
	all, err := s.Asides(ctx)
	return slices.DeleteFunc(all, func(a AsideOf) bool { return a.Dropped != 0 || !ofInstance(a.Ingester, instance) }), err
}

// ForgetAsides deletes the records of an instance that are marked as dropped. It is
// for instances that will not start again to delete them.
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

// HasAside reports whether a tenant has series set aside that are not marked as dropped.
func (s *Work) HasAside(ctx context.Context, t tenant.ID) (bool, error) {
	all, err := s.Asides(ctx)
	return slices.ContainsFunc(all, func(a AsideOf) bool { return a.Tenant == t && a.Dropped == 0 }), err
}
