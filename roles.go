package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Role is the kind of a process.
type Role string

// The roles of a process.
const (
	All     Role = "all"     // gateway and every backend role in one process
	Gateway Role = "gateway" // only the edge, in front of another backend
	Backend Role = "backend" // some or all backend roles, as one process of a cluster
)

// Target is a role of a backend process.
type Target string

// The targets; see roles.
const (
	TargetDistributor Target = "distributor"
	TargetIngester    Target = "ingester"
	TargetCompactor   Target = "compactor"
	TargetQuerier     Target = "querier"
	TargetFrontend    Target = "query-frontend"
	TargetRuler       Target = "ruler"

	TargetAlertmanager Target = "alertmanager"
)

// needs lists what a role requires in a cluster.
type needs struct {
	stores bool // Bigtable and a bucket, shared by all processes
	ring   bool // Redis, through which processes find each other
	disk   bool // a persistent data directory
}

// role is a row of the table of backend roles. Functions may be nil, except build.
type role struct {
	name  Target
	doc   string // completes "the NAME ..."
	needs needs

	// build adds the role to a process, in the order of the table.
	build func(*backend, context.Context) error
	// head and requests say which parts of the process's memory the role uses.
	head, requests bool
	// activate announces to the cluster that the role serves, once the listeners are
	// open. serve runs from then until the process stops.
	activate func(*backend, context.Context)
	serve    func(*backend, context.Context)
	// seal saves data before the deadline so that the next start is faster.
	seal func(*backend, time.Time)
	// ready returns why the role cannot do its work.
	ready func(*backend, context.Context) error
	// status sets the role's part of the status on the operator page.
	status func(*backend, *processStatus)
}

// roles returns the table of backend roles, in the order in which they are built.
func roles() []role {
	shared := needs{stores: true, ring: true}
	return []role{
		{
			name:     TargetIngester,
			doc:      "stores recent samples, in memory and in a write-ahead log",
			needs:    needs{stores: true, ring: true, disk: true},
			build:    (*backend).buildIngester,
			head:     true,
			requests: true,
			activate: (*backend).activateIngester,
			serve:    (*backend).restoreOwn,
			seal:     (*backend).sealHead,
			status:   (*backend).ingesterStatus,
		},
		{name: TargetCompactor, doc: "publishes days in the long-term store, and deletes what has expired", needs: shared,
			build: (*backend).buildCompactor, status: (*backend).compactorStatus},
		{name: TargetDistributor, doc: "accepts writes, and sends each series to its ingesters", needs: shared,
			build: (*backend).buildDistributor, requests: true, serve: (*backend).watchZones, ready: (*backend).zonesMissing},
		{name: TargetQuerier, doc: "serves queries from ingesters and the long-term store", needs: shared,
			build: (*backend).buildQuerier, requests: true, serve: (*backend).lendSlots, status: (*backend).queriesStatus},
		{name: TargetFrontend, doc: "divides queries, caches results, and queues evaluations fairly between tenants", needs: shared,
			build: (*backend).buildQueryFrontend, requests: true, status: (*backend).queriesStatus},
		{name: TargetRuler, doc: "evaluates the recording and alerting rules of tenants", needs: shared,
			build: (*backend).buildRuler, requests: true, serve: (*backend).runRuler},
		{name: TargetAlertmanager, doc: "groups, silences and inhibits the alerts of tenants, and notifies receivers", needs: shared,
			build: (*backend).buildAlertmanager, requests: true, serve: (*backend).runAlertmanager},
	}
}

// Targets are the roles of a backend process.
type Targets map[Target]bool

// allTargets returns all roles, which a single process has.
func allTargets() Targets {
	out := Targets{}
	for _, r := range roles() {
		out[r.name] = true
	}
	return out
}

// names returns the names of the targets, sorted.
func (t Targets) names() []string {
	var out []string
	for name := range t {
		out = append(out, string(name))
	}
	slices.Sort(out)
	return out
}

// roles returns the rows of the targets, in the order of the table.
func (t Targets) roles() []role {
	return slices.DeleteFunc(roles(), func(r role) bool { return !t[r.name] })
}

// ParseTargets parses a list such as "distributor,querier"; "all" means all roles.
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
			return nil, fmt.Errorf("-target: unknown role %q; choose from %s, or all", name, roleNames())
		}
	}
	return out, nil
}

// roleNames returns the names of all backend roles.
func roleNames() string { return strings.Join(allTargets().names(), ", ") }

// roleUsage returns a description of the backend roles, one per line.
func roleUsage() string {
	var b strings.Builder
	for _, r := range roles() {
		fmt.Fprintf(&b, "  %-14s %s\n", r.name, r.doc)
	}
	return b.String()
}

// check returns an error if the configuration lacks something that a role of the targets
// needs. A backend with an embedded store would seem to work, but other processes would not
// see its data.
func (t Targets) check(cfg *Config) error {
	for _, r := range t.roles() {
		s := &cfg.Store
		switch {
		case r.needs.stores && (!s.Bigtable.set() || s.shared() == ""):
			return fmt.Errorf("the %s needs both store.bigtable and %s: copy them from the other processes of the cluster; %s. "+
				"For one process without other services, run `pallium all`", r.name, s.bucketKeys(), ownStore)
		case r.needs.ring && !cfg.Cluster.Redis.Set():
			return fmt.Errorf("the %s needs cluster.redis.addresses: processes of a cluster find each other through Redis", r.name)
		case r.needs.disk && cfg.DataDir == "":
			return fmt.Errorf("the %s needs data_dir: a persistent directory", r.name)
		}
	}
	return nil
}
