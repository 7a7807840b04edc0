// Package limits defines the limits of a tenant: their declarations, the struct from
// which every part of Pallium reads them, the errors of requests that exceed them, the
// plans and per-tenant overrides that set them, and their validation. It is pure:
// authn/control stores them.
package limits

//go:generate go run ./generate

import (
	"reflect"

	"github.com/prometheus/common/model"
)

// Duration is a duration in the format of Prometheus ("14d", "1h30m"); "0s" is zero.
type Duration = model.Duration

// Limit identifies a limit by its index in the declarations, which is also the index of
// its field in Limits.
type Limit int

// table holds the declarations and is never changed. It avoids creating them for each of
// the thousands of samples of a request that may exceed a limit.
var table = declared()

// Name returns the limit's key in plans, overrides, the admin API and errors.
func (l Limit) Name() string { return table[l].Name }

// field returns the settable struct field of a limit.
func (l *Limits) field(limit Limit) reflect.Value { return reflect.ValueOf(l).Elem().Field(int(limit)) }

// Default returns the limits of a tenant without plan and overrides.
func Default() Limits {
	var l Limits
	for i, d := range table {
		l.field(Limit(i)).Set(reflect.ValueOf(d.Default))
	}
	return l
}
