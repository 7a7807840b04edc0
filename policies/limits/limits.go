// Package limits has the limits of a tenant: their declarations, the struct that
// every part of Pallium reads them from, the errors of requests that exceed them,
// the named plans and per-tenant overrides that they are made of, and their
// validation. It is pure: storage is authn/control's.
package limits

//go:generate go run ./generate

import (
	"reflect"

	"github.com/prometheus/common/model"
)

// Duration is written as Prometheus writes it ("14d", "1h30m"); "0s" is zero.
type Duration = model.Duration

// Limit identifies one of the limits: its place in the declarations, and that of its
// field in Limits.
type Limit int

// table has the declarations. It is never changed: a request may have thousands of
// samples that exceed a limit, each of which needs the declaration.
var table = declared()

// Name is the limit's key in plans, overrides, the admin API and errors.
func (l Limit) Name() string { return table[l].Name }

// field is the struct field of a limit; it is settable.
func (l *Limits) field(limit Limit) reflect.Value { return reflect.ValueOf(l).Elem().Field(int(limit)) }

// Default are the limits of a tenant without plan and overrides.
func Default() Limits {
	var l Limits
	for i, d := range table {
		l.field(Limit(i)).Set(reflect.ValueOf(d.Default))
	}
	return l
}
