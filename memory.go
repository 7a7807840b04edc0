package main

import (
	"context"
	"errors"
	"math"
	"os"
	"runtime/debug"

	"github.com/palliumhq/pallium/backend/memory"
)

// Memory configures how much memory the process and its requests may use.
type Memory struct {
	// LimitBytes is the limit of the whole process; 0 means the memory of its container
	// or of the machine.
	LimitBytes int64 `yaml:"limit_bytes"`
	// RequestBytes is the limit of all requests in progress together; 0 means 35%
	// of Go's memory limit, or the rest of it in a process without an ingester.
	RequestBytes int64 `yaml:"request_bytes"`
}

// The memory of the embedded row store outside of Go's heap: its block cache, and the
// memtables that it fills before it delays writes.
const (
	maxRowCache  = 64 << 20
	minRowCache  = 8 << 20
	rowMemtables = 64 << 20
)

// bufferPart divides Go's memory limit: a gateway uses at most 1/bufferPart for the buffers of
// request bodies and of responses to HTTP/1.0, unless gateway.max_buffered_bytes is set.
const bufferPart = 4

// planMemory divides the memory of the process between its parts, sets the limit of Go's
// runtime, and opens the memory account of requests.
func (p *process) planMemory() error {
	limit := p.cfg.Memory.LimitBytes
	if limit == 0 {
		limit = memory.Limit(os.DirFS("/"))
	}
	w := p.want(limit)
	// A GOMEMLIMIT in the environment lowers the limit.
	if given := debug.SetMemoryLimit(-1); given < math.MaxInt64 {
		if of := given + given/9 + w.Fixed; w.Limit == 0 || of < w.Limit {
			w.Limit = of
		}
	}
	parts, err := memory.Divide(w)
	if err != nil {
		return err
	}
	if w.Store {
		shareCaches(p.caches(), p.cacheWeights(), parts.Caches)
	}
	p.cfg.Ingester.MemoryBytes = parts.Head
	if p.opts.Role == Gateway {
		if parts.Requests = p.cfg.Gateway.MaxBufferedBytes; parts.Requests == 0 {
			parts.Requests = parts.Go / bufferPart
		}
	}
	p.memory = memory.NewAccount(parts.Requests, p.registry)
	if parts.Go > 0 {
		debug.SetMemoryLimit(parts.Go)
		p.start("memory watch", func(ctx context.Context) { p.memory.Watch(ctx, parts.Go, memory.ReadUsage, p.opts.Logger) })
	}
	p.opts.Logger.Info("memory divided", "limit_bytes", parts.Limit, "go_limit_bytes", parts.Go, "head_bytes", parts.Head,
		"cache_bytes", parts.Caches, "request_bytes", parts.Requests)
	return nil
}

// want returns which memory the roles of this process need, given the limit of the process.
func (p *process) want(limit int64) memory.Want {
	w := memory.Want{
		Limit:        limit,
		HeadBytes:    p.cfg.Ingester.MemoryBytes,
		CacheBytes:   configuredCaches(p.caches(), p.cacheWeights()),
		RequestBytes: p.cfg.Memory.RequestBytes,
	}
	if !p.cfg.Store.Bigtable.set() {
		p.rowCache = maxRowCache
		if limit > 0 {
			p.rowCache = min(max(limit/32, minRowCache), maxRowCache)
		}
		w.Fixed = p.rowCache + rowMemtables
	}
	w.Store = p.opts.Role != Gateway
	for _, r := range p.targets.roles() {
		w.Head = w.Head || r.head
		w.Requests = w.Requests || r.requests
	}
	return w
}

func (p *process) caches() []*int64 {
	s := &p.cfg.Store
	return []*int64{&s.PageCacheBytes, &s.FrameCacheBytes, &s.TableCacheBytes, &p.localPages, &p.cfg.Frontend.CacheBytes}
}

// cacheWeights returns the relative sizes of the caches: pages, frames and tables of the long-term
// store, pages of local packs, results of queries. If any cache is configured, or the memory limit
// is unknown, they are the sizes in MiB of the caches that are not configured. A query frontend
// without a querier reads only labels and versions from the store.
func (p *process) cacheWeights() [5]int64 {
	w := [5]int64{64, 128, 64, 64, 64}
	if !p.targets[TargetIngester] {
		w[3] = 0
	}
	if p.targets[TargetFrontend] && !p.targets[TargetQuerier] {
		w[0], w[1], w[2], w[4] = 32, 32, 16, 240
	}
	return w
}

// configuredCaches returns the total size of all caches if any is configured, else 0.
func configuredCaches(caches []*int64, weights [5]int64) int64 {
	sum, any := int64(0), false
	for i, c := range caches {
		if *c > 0 {
			any = true
			sum += *c
			continue
		}
		sum += weights[i] << 20
	}
	if !any {
		return 0
	}
	return sum
}

// shareCaches sets the sizes of the caches that are not configured. `total` is 0 if the memory
// limit is unknown.
func shareCaches(caches []*int64, weights [5]int64, total int64) {
	any := configuredCaches(caches, weights) > 0
	all := int64(0)
	for _, w := range weights {
		all += w
	}
	for i, c := range caches {
		switch {
		case *c > 0:
		case any || total == 0:
			*c = weights[i] << 20
		default:
			*c = total / all * weights[i]
		}
	}
}

func (m *Memory) check() error {
	_, err := memory.Divide(memory.Want{Limit: m.LimitBytes})
	return errors.Join(
		notNegative("memory.limit_bytes", m.LimitBytes),
		notNegative("memory.request_bytes", m.RequestBytes),
		err)
}
