package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// awayFor is how long a backend that could not be reached is passed over.
	awayFor = time.Second
	// replayBytes is how much of a body is kept to be sent again.
	replayBytes = 1 << 20
	attempts    = 3
)

// upstream sends requests to several backends in turn. A request that fails
// before it has an answer goes to the next one: all that the gateway forwards
// may be repeated. Bodies are kept for that up to replayBytes; a longer one that
// was read further than that is not sent again.
type upstream struct {
	backends []*endpoint
	next     http.RoundTripper
	turn     atomic.Uint64
	now      func() time.Time
	buffers  sync.Pool
	room     *replayRoom
}

// replayRoom bounds what all requests together keep of their bodies. A body that
// finds no room is passed on all the same, and is not sent again.
type replayRoom struct {
	limit int64 // bytes; 0 is no limit
	used  atomic.Int64
}

func (r *replayRoom) take(n int64) bool {
	if used := r.used.Add(n); r.limit > 0 && used > r.limit {
		r.used.Add(-n)
		return false
	}
	return true
}

type endpoint struct {
	url  *url.URL
	away atomic.Int64 // Unix nanoseconds until which it is passed over
}

func newUpstream(urls []*url.URL, next http.RoundTripper, now func() time.Time, room *replayRoom) *upstream {
	u := &upstream{next: next, now: now, room: room}
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
	var kept *replayed
	if r.Body != nil && r.Body != http.NoBody {
		kept = u.keep(r.Body)
		defer kept.done()
	}
	tried := map[*endpoint]bool{}
	var errs error
	for try := range attempts {
		b := u.pick(tried)
		tried[b] = true
		out := r.Clone(r.Context())
		(&httputil.ProxyRequest{Out: out}).SetURL(b.url)
		if kept != nil {
			if try > 0 && !kept.rewind() {
				break
			}
			out.Body = kept.reader()
		}
		resp, err := u.next.RoundTrip(out)
		if err == nil {
			b.away.Store(0)
			return resp, nil
		}
		errs = errors.Join(errs, err)
		if r.Context().Err() != nil || kept.failed() {
			break
		}
		b.away.Store(u.now().Add(awayFor).UnixNano())
	}
	return nil, errs
}

func (u *upstream) keep(body io.ReadCloser) *replayed {
	buf, _ := u.buffers.Get().(*bytes.Buffer)
	if buf == nil {
		buf = &bytes.Buffer{}
	}
	buf.Reset()
	return &replayed{src: body, buf: buf, pool: &u.buffers, room: u.room}
}

// replayed is a body that remembers its beginning. The transport may still read
// from an earlier attempt when the next begins: each has a reader of its own,
// and an outdated one reads nothing any more.
type replayed struct {
	mu      sync.Mutex
	src     io.ReadCloser
	buf     *bytes.Buffer
	pool    *sync.Pool
	room    *replayRoom
	kept    int64 // taken of the room
	attempt int
	past    bool  // more was read than is kept
	err     error // of the source, io.EOF too
	over    bool  // nobody may read any more
}

// rewind begins another attempt and reports whether it can.
func (b *replayed) rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attempt++
	return !b.past
}

// failed reports whether the client's body could not be read.
func (b *replayed) failed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil && !errors.Is(b.err, io.EOF)
}

// done ends the attempts. The transport may go on to send the rest of a body of
// which it has the answer already; when all of it was read before, the buffer is
// used again.
func (b *replayed) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.past = true
	if b.err != nil {
		b.over = true
		b.pool.Put(b.buf)
	}
	b.room.used.Add(-b.kept)
	b.kept = 0
}

func (b *replayed) reader() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &attempt{body: b, number: b.attempt}
}

// attempt is the body as one attempt sends it.
type attempt struct {
	body   *replayed
	number int
	at     int // bytes of the kept beginning that were sent
}

var errOutdated = errors.New("another attempt was begun")

func (a *attempt) Read(p []byte) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.number != b.attempt || b.over {
		return 0, errOutdated
	}
	if a.at < b.buf.Len() {
		n := copy(p, b.buf.Bytes()[a.at:])
		a.at += n
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	if b.buf.Len()+n <= replayBytes && !b.past && b.room.take(int64(n)) {
		b.kept += int64(n)
		b.buf.Write(p[:n])
		a.at += n
	} else {
		b.past = true
		a.at = b.buf.Len()
	}
	b.err = err
	return n, err
}

// Close lets the source be: another attempt may need it, and the gateway closes
// what it opened.
func (a *attempt) Close() error { return nil }
