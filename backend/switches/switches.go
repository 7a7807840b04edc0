// Package switches defines the PromQL switches: optional parts of PromQL, which Prometheus enables
// with flags and Pallium with limits of a tenant. Tenants of one process can have different ones.
package switches

import (
	"strings"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/lru"
	"github.com/palliumhq/pallium/policies/limits"
)

// Set is a set of switches that are on; each is the limit promql_... of the same name. The
// zero Set is PromQL as in Prometheus without flags. Start timestamps are not among them,
// because they are not stored.
type Set struct {
	ExperimentalFunctions bool
	BinopFillModifiers    bool
	UnquotedUTF8Names     bool
	DelayedNameRemoval    bool
	TypeAndUnitLabels     bool
	PerStepStats          bool
}

// Of returns the switches that limits turn on. Without limits, all are off.
func Of(lim *limits.Limits) Set {
	if lim == nil {
		return Set{}
	}
	return Set{
		ExperimentalFunctions: lim.PromQLExperimentalFunctions,
		BinopFillModifiers:    lim.PromQLBinopFillModifiers,
		UnquotedUTF8Names:     lim.PromQLUnquotedUTF8Names,
		DelayedNameRemoval:    lim.PromQLDelayedNameRemoval,
		TypeAndUnitLabels:     lim.PromQLTypeAndUnitLabels,
		PerStepStats:          lim.PromQLPerStepStats,
	}
}

// String returns the names of the limits of the switches that are on, in a fixed order, separated
// by commas; "" if all are off. It is part of the keys of cached results, and an answer contains it
// so that other processes know which switches were applied.
func (s Set) String() string {
	var names []string
	for _, one := range []struct {
		on    bool
		limit limits.Limit
	}{
		{s.ExperimentalFunctions, limits.PromQLExperimentalFunctions},
		{s.BinopFillModifiers, limits.PromQLBinopFillModifiers},
		{s.UnquotedUTF8Names, limits.PromQLUnquotedUTF8Names},
		{s.DelayedNameRemoval, limits.PromQLDelayedNameRemoval},
		{s.TypeAndUnitLabels, limits.PromQLTypeAndUnitLabels},
		{s.PerStepStats, limits.PromQLPerStepStats},
	} {
		if one.on {
			names = append(names, one.limit.Name())
		}
	}
	return strings.Join(names, ",")
}

// Grammar returns the switches that are options of the parser. Caches of values that depend only on
// the parser use it as their key, so that they have fewer entries.
func (s Set) Grammar() Set {
	s.DelayedNameRemoval, s.TypeAndUnitLabels, s.PerStepStats = false, false, false
	return s
}

// Parser returns the options of Prometheus' parser.
func (s Set) Parser() parser.Options {
	return parser.Options{
		EnableExperimentalFunctions: s.ExperimentalFunctions,
		EnableBinopFillModifiers:    s.BinopFillModifiers,
		EnableUnquotedUTF8Names:     s.UnquotedUTF8Names,
	}
}

// Engine sets the options of Prometheus' engine, other than its parser.
func (s Set) Engine(o *promql.EngineOpts) {
	o.EnableDelayedNameRemoval = s.DelayedNameRemoval
	o.EnableTypeAndUnitLabels = s.TypeAndUnitLabels
	o.EnablePerStepStats = s.PerStepStats
}

// maxSets is the maximum number of sets for which Each caches values. More sets are possible, but few are in
// use.
const maxSets = 32

// Each returns a function that returns the value of a set. It caches the values of the maxSets sets
// that were used last; others are created again.
func Each[T any](create func(Set) T) func(Set) T {
	kept := lru.New[Set, T](maxSets, nil)
	return func(s Set) T {
		if v, ok := kept.Get(s); ok {
			return v
		}
		return kept.GetOrPut(s, create(s))
	}
}

// Parsers returns the parser of a set.
type Parsers func(Set) parser.Parser

// Only returns p as the parser of every set.
func Only(p parser.Parser) Parsers { return func(Set) parser.Parser { return p } }
