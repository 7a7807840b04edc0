package memory

import "fmt"

// Want describes the memory needs of a process, and the sizes that the
// configuration sets; 0 = derived from Limit.
type Want struct {
	Limit    int64 // memory of the process; 0 = unknown
	Head     bool  // the process has an ingester
	Requests bool  // the process serves writes or reads
	Store    bool  // the process has the long-term store
	Fixed    int64 // bytes outside of Go's heap: caches and buffers of the row store

	HeadBytes, CacheBytes, RequestBytes int64 // configured sizes
}

// Plan is the division of a process's memory, in bytes; 0 = no limit.
type Plan struct {
	Limit    int64 // of the process
	Go       int64 // Go's memory limit (GOMEMLIMIT): all memory except Want.Fixed and a margin
	Head     int64 // head of the ingester
	Caches   int64 // caches of the long-term store and of local packs
	Requests int64 // the account of requests
}

// Parts of Go's limit, in percent. The rest is for garbage that is not collected
// yet, and for memory that is not counted.
const (
	headPart    = 40
	cachePart   = 10
	requestPart = 35
	mostPart    = 85 // maximum of all parts together

	goPart = 90 // part of the process's memory, without Want.Fixed, that Go may use

	// mostCaches is the maximum size of caches that are not configured.
	mostCaches = 512 << 20
	// leastRequests is the smallest account with which a process can work.
	leastRequests = 16 << 20
	leastGo       = 96 << 20
)

// Divide divides the memory of a process. It uses the configured sizes, and returns
// an error if they do not fit.
func Divide(w Want) (Plan, error) {
	p := Plan{Limit: w.Limit}
	// Roles that the process does not have get no memory, even if a size is
	// configured: all processes of a cluster may share one configuration.
	if w.Head {
		p.Head = w.HeadBytes
	}
	if w.Store {
		p.Caches = w.CacheBytes
	}
	if w.Requests {
		p.Requests = w.RequestBytes
	}
	if w.Limit <= 0 {
		return p, nil
	}
	p.Go = (w.Limit - w.Fixed) / 100 * goPart
	if p.Go < leastGo {
		return p, fmt.Errorf("memory: the process has %s, of which %s are needed outside of the Go heap; give it at least %s, "+
			"or set memory.limit_bytes if the detected limit is wrong", mib(w.Limit), mib(w.Fixed), mib(leastGo*100/goPart+w.Fixed))
	}
	if w.Store && p.Caches == 0 {
		p.Caches = min(p.Go/100*cachePart, mostCaches)
	}
	if w.Head && p.Head == 0 {
		p.Head = p.Go / 100 * headPart
	}
	left := p.Go/100*mostPart - p.Head - p.Caches
	if w.Requests && p.Requests == 0 {
		p.Requests = p.Go / 100 * requestPart
		switch {
		case !w.Head:
			p.Requests = max(left, leastRequests) // no other part needs it
		case left < p.Requests:
			p.Requests = max(left, leastRequests)
		}
	}
	if p.Head+p.Caches+p.Requests > p.Go/100*mostPart {
		return p, fmt.Errorf("memory: the process has %s, of which at most %s can be assigned, but ingester.memory_bytes (%s), "+
			"the caches of the store (%s) and memory.request_bytes (%s) need more; make them smaller, "+
			"or give the process more memory (memory.limit_bytes)", mib(w.Limit), mib(p.Go/100*mostPart), mib(p.Head),
			mib(p.Caches), mib(p.Requests))
	}
	return p, nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
