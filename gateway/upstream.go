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
	// skipFor is how long an unreachable backend is skipped.
	skipFor  = time.Second
	attempts = 3
)

// upstream distributes requests over several backends round robin. A request that fails
// before it has a response is sent again, if possible to another backend, at most attempts
// times in total. All requests that the gateway forwards are safe to repeat, and their bodies
// are buffered.
type upstream struct {
	backends []*endpoint
	next     http.RoundTripper
	turn     atomic.Uint64
	now      func() time.Time
}

type endpoint struct {
	url       *url.URL
	skipUntil atomic.Int64 // skip the backend until this time, in Unix nanoseconds
}

func newUpstream(urls []*url.URL, next http.RoundTripper, now func() time.Time) *upstream {
	u := &upstream{next: next, now: now}
	for _, b := range urls {
		u.backends = append(u.backends, &endpoint{url: b})
	}
	return u
}

// pick returns the next backend that was not tried and is not skipped. If there is none, it returns a skipped
// one, and if all were tried, the next one.
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
		if b.skipUntil.Load() <= now {
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
				return nil, fmt.Errorf("read the buffered body for a retry: %w", err)
			}
			out.Body = body
		}
		resp, err := u.next.RoundTrip(out)
		if err == nil {
			b.skipUntil.Store(0)
			return resp, nil
		}
		errs = errors.Join(errs, err)
		if r.Context().Err() != nil {
			break
		}
		b.skipUntil.Store(u.now().Add(skipFor).UnixNano())
	}
	return nil, errs
}
