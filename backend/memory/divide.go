package memory

import "fmt"

// Want says what a process needs memory for, and what of it the configuration
// sets; 0 is a share of what there is.
type Want struct {
	Limit    int64 // of the process, all of it
	Head     bool  // it has an ingester
	Requests bool  // it answers writes or reads
	Store    bool  // it has the long-term store
	Fixed    int64 // outside of Go's heap: caches and buffers of the row store

	HeadBytes, CacheBytes, RequestBytes int64 // as configured
}

// Plan is how the memory of a process is divided, in bytes; 0 has no limit.
type Plan struct {
	Limit    int64 // of the process
	Go       int64 // Go's own limit (GOMEMLIMIT): everything but what is not its heap
	Head     int64 // of the ingester
	Caches   int64 // of the long-term store and of local packs, together
	Requests int64 // the account
}

// Parts of Go's limit, in percent. What is left is for the collector, which needs
// room for what is garbage, and for what nobody counts.
const (
	headPart    = 40
	cachePart   = 10
	requestPart = 35
	mostPart    = 85 // of all together

	goPart = 90 // of the process's memory that is not outside of the heap

	// mostCaches is what caches take at most when nothing is configured.
	mostCaches = 512 << 20
	// leastRequests is the least account that a process can work with.
	leastRequests = 16 << 20
	leastGo       = 96 << 20
)

// Divide divides the memory of a process. What the configuration sets is kept, if
// all of it fits; else the error says what does not.
func Divide(w Want) (Plan, error) {
	p := Plan{Limit: w.Limit}
	// Roles that a process does not have take nothing, whatever is configured: the
	// processes of a cluster may have one configuration.
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
		return p, fmt.Errorf("memory: the process may use %s, of which %s are needed outside of Go's heap; give it at least %s, "+
			"or set memory.limit_bytes if that is not what it may use", mib(w.Limit), mib(w.Fixed), mib(leastGo*100/goPart+w.Fixed))
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
			p.Requests = max(left, leastRequests) // nothing else needs it
		case left < p.Requests:
			p.Requests = max(left, leastRequests)
		}
	}
	if p.Head+p.Caches+p.Requests > p.Go/100*mostPart {
		return p, fmt.Errorf("memory: the process may use %s, of which %s can be planned with; ingester.memory_bytes of %s, "+
			"caches of the store of %s and memory.request_bytes of %s are more together; make them smaller, "+
			"or give the process more memory (memory.limit_bytes says how much it has)", mib(w.Limit), mib(p.Go/100*mostPart), mib(p.Head),
			mib(p.Caches), mib(p.Requests))
	}
	return p, nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
