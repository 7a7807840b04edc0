package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Role is what a process does.
type Role string

// The roles of a process.
const (
	All     Role = "all"     // gateway and every backend role in one process
	Gateway Role = "gateway" // the edge alone, before another backend
	Backend Role = "backend" // some backend roles, one process of a cluster
)

// Target is one role of a backend process.
type Target string

// The targets that exist; see roles.
const (
	TargetDistributor Target = "distributor"
	TargetIngester    Target = "ingester"
	TargetCompactor   Target = "compactor"
	TargetQuerier     Target = "querier"
)

// needs is what a role of a cluster does not work without.
type needs struct {
	stores bool // Bigtable and a bucket, which all processes share
	ring   bool // Redis, by which processes find each other
	disk   bool // a data directory that outlives the process
}

// role is one row of the table of backend roles. A new role is a package and a row.
// What is nil does not concern it.
type role struct {
	name  Target
	doc   string // completes "the NAME ..."
	needs needs

	// build adds the role to a process, in the order of the table.
	build func(*backend, context.Context) error
	// memory is what the role takes of the process's memory besides Go's own.
	head, requests bool
	// activate tells the cluster that the role serves, when the listeners are open;
	// beside has what goes on from then until the process stops.
	activate func(*backend, context.Context)
	beside   func(*backend, context.Context)
	// seal makes the next start short; it has until a deadline.
	seal func(*backend, time.Time)
	// ready returns why the role cannot do its work.
	ready func(*backend, context.Context) error
	// status is what the operator's page shows of the role.
	status func(*backend, *processStatus)
}

// roles is the table of backend roles, in the order in which they are built.
func roles() []role {
	everything := needs{stores: true, ring: true}
	return []role{
		{
			name:     TargetIngester,
			doc:      "keeps recent samples, in memory and in a write-ahead log",
			needs:    needs{stores: true, ring: true, disk: true},
			build:    (*backend).buildIngester,
			head:     true,
			requests: true,
			activate: (*backend).activateIngester,
			beside:   (*backend).restoreOwn,
			seal:     (*backend).sealHead,
			status:   (*backend).ingesterStatus,
		},
		{name: TargetCompactor, doc: "publishes days in the long-term store, and deletes what has expired", needs: everything,
			build: (*backend).buildCompactor, status: (*backend).compactorStatus},
		{name: TargetDistributor, doc: "takes writes, and sends each series to its ingesters", needs: everything,
			build: (*backend).buildDistributor, requests: true, beside: (*backend).watchZones, ready: (*backend).zonesMissing},
		{name: TargetQuerier, doc: "answers queries from ingesters and the long-term store", needs: everything,
			build: (*backend).buildQuerier, requests: true},
	}
}

// Targets are the roles of a backend process.
type Targets map[Target]bool

// allTargets are the roles of a process that is all there is.
func allTargets() Targets {
	out := Targets{}
	for _, r := range roles() {
		out[r.name] = true
	}
	return out
}

// names are those of the targets, sorted.
func (t Targets) names() []string {
	var out []string
	for name := range t {
		out = append(out, string(name))
	}
	slices.Sort(out)
	return out
}

// roles are the rows of the targets, in the order of the table.
func (t Targets) roles() []role {
	return slices.DeleteFunc(roles(), func(r role) bool { return !t[r.name] })
}

// ParseTargets reads a list such as "distributor,querier"; "all" is all of them.
func ParseTargets(list string) (Targets, error) {
	all, out := allTargets(), Targets{}
	for _, name := range strings.Split(list, ",") {
		t := Target(strings.TrimSpace(name))
		switch {
		case t == "all":
			for t := range all {
				out[t] = true
			}
		case all[t]:
			out[t] = true
		default:
			return nil, fmt.Errorf("-target: there is no role %q; choose of %s, or all", name, roleNames())
		}
	}
	return out, nil
}

// roleNames lists the names of all backend roles.
func roleNames() string { return strings.Join(allTargets().names(), ", ") }

// roleUsage describes the backend roles, a line each.
func roleUsage() string {
	var b strings.Builder
	for _, r := range roles() {
		fmt.Fprintf(&b, "  %-12s %s\n", r.name, r.doc)
	}
	return b.String()
}

// check reports what a role of the targets needs and the configuration has not.
// Embedded stores look like working ones, and nobody else sees what is in them.
func (t Targets) check(cfg *Config) error {
	for _, r := range t.roles() {
		s := &cfg.Store
		switch {
		case r.needs.stores && (!s.Bigtable.set() || s.shared() == ""):
			return fmt.Errorf("the %s needs both store.bigtable and %s: set them as in all processes of the cluster, %s, "+
				"and would ignore limits, deletions and retention that are set at a gateway; "+
				"for one process without other services run `pallium all`", r.name, s.bucketKeys(), ownStore)
		case r.needs.ring && !cfg.Cluster.Redis.Set():
			return fmt.Errorf("the %s needs cluster.redis.addresses: processes of a cluster find each other by a Redis server", r.name)
		case r.needs.disk && cfg.DataDir == "":
			return fmt.Errorf("the %s needs data_dir: a directory that outlives the process", r.name)
		}
	}
	return nil
}
