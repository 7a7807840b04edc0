package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"
)

const (
	// awayFor is how long a backend that could not be reached is passed over.
	awayFor  = time.Second
	attempts = 3
)

// upstream sends requests to several backends in turn. A request that fails
// before it has an answer goes to the next one: all that the gateway forwards
// may be repeated, and its body is there as a whole.
type upstream struct {
	backends []*endpoint
	next     http.RoundTripper
	turn     atomic.Uint64
	now      func() time.Time
}

type endpoint struct {
	url  *url.URL
	away atomic.Int64 // Unix nanoseconds until which it is passed over
}

func newUpstream(urls []*url.URL, next http.RoundTripper, now func() time.Time) *upstream {
	u := &upstream{next: next, now: now}
	for _, b := range urls {
		u.backends = append(u.backends, &endpoint{url: b})
	}
	return u
}

// pick returns the next backend in turn that is not away, or the next at all.
func (u *upstream) pick(tried map[*endpoint]bool) *endpoint {
	now := u.now().UnixNano()
	n := uint64(len(u.backends))
	start := u.turn.Add(1)
	var fallback *endpoint
	for i := range n {
		b := u.backends[(start+i)%n]
		if tried[b] {
			continue
		}
		if b.away.Load() <= now {
			return b
		}
		if fallback == nil {
			fallback = b
		}
	}
	if fallback == nil {
		return u.backends[start%n]
	}
	return fallback
}

// RoundTrip implements http.RoundTripper.
func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	tried := map[*endpoint]bool{}
	var errs error
	for range attempts {
		b := u.pick(tried)
		tried[b] = true
		out := r.Clone(r.Context())
		(&httputil.ProxyRequest{Out: out}).SetURL(b.url)
		if r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, fmt.Errorf("send the body again: %w", err)
			}
			out.Body = body
		}
		resp, err := u.next.RoundTrip(out)
		if err == nil {
			b.away.Store(0)
			return resp, nil
		}
		errs = errors.Join(errs, err)
		if r.Context().Err() != nil {
			break
		}
		b.away.Store(u.now().Add(awayFor).UnixNano())
	}
	return nil, errs
}
