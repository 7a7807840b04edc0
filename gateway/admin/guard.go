package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// MinTokenLength is the minimum length of the admin credential in bytes.
const MinTokenLength = 32

// Each network (an IPv4 /24 or IPv6 /64) may fail loginBurst logins at once, and one more per
// loginRefill. At most maxNetworks networks have their own bucket.
const (
	loginBurst  = 10
	loginRefill = 6 * time.Second
	maxNetworks = 4096
)

// CheckToken returns an error if a token for the admin listener is too short or malformed.
func CheckToken(token string) error {
	if len(token) < MinTokenLength {
		return fmt.Errorf("token has %d bytes, at least %d are required", len(token), MinTokenLength)
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return errors.New("token contains a space or a character that is not printable ASCII")
		}
	}
	return nil
}

// RequireToken returns middleware that accepts only requests with the admin credential,
// sent as Authorization: Bearer. It is for pages outside the admin API. With a token that
// CheckToken rejects, all requests are rejected.
func RequireToken(token string) func(http.Handler) http.Handler {
	return newGuard(token, time.Now, slog.New(slog.DiscardHandler), nil).require
}

// guard compares credentials and limits the rate of failed logins.
type guard struct {
	usable   bool
	want     [sha256.Size]byte
	now      func() time.Time
	logger   *slog.Logger
	failures *prometheus.CounterVec

	mu       sync.Mutex
	networks map[netip.Prefix]*bucket
	others   bucket // shared by networks beyond maxNetworks
}

// bucket counts how many more failed logins of a network get status 401. Further ones get 429.
type bucket struct {
	left  float64
	since time.Time
}

func newGuard(token string, now func() time.Time, logger *slog.Logger, reg prometheus.Registerer) *guard {
	g := &guard{
		usable: CheckToken(token) == nil, want: sha256.Sum256([]byte(token)), now: now, logger: logger,
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_admin_login_failures_total",
			Help: "Requests to the admin API that were rejected because of their credential, by reason.",
		}, []string{"reason"}),
		networks: map[netip.Prefix]*bucket{},
		others:   bucket{left: loginBurst},
	}
	if reg != nil {
		reg.MustRegister(g.failures)
	}
	return g
}

func (g *guard) require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := g.check(r)
		switch {
		case err == nil:
			next.ServeHTTP(w, r)
		case errors.Is(err, errTooMany):
			g.failures.WithLabelValues("too_many").Inc()
			w.Header().Set("Retry-After", strconv.Itoa(int(loginRefill/time.Second)))
			writeProblem(w, r, &problem{status: http.StatusTooManyRequests, message: "too many failed logins from this network; try again in " +
				"a few seconds"})
		default:
			g.failures.WithLabelValues("wrong").Inc()
			g.logger.Warn("admin login failed", "source", source(r), "request", requestID(r))
			w.Header().Set("WWW-Authenticate", `Bearer realm="pallium admin"`)
			writeProblem(w, r,
				&problem{status: http.StatusUnauthorized, message: "the admin token is missing or wrong: send it as Authorization: Bearer <token>"})
		}
	})
}

var (
	errTooMany = errors.New("too many failed logins")
	errWrong   = errors.New("wrong admin token")
)

func (g *guard) check(r *http.Request) error {
	if g.usable && g.matches(r.Header.Values("Authorization")) {
		return nil // even after too many failures in the same network: the operator must not be locked out
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.bucket(network(r))
	b.refill(g.now())
	if b.left < 1 {
		return errTooMany
	}
	b.left--
	return errWrong
}

func (g *guard) matches(authorization []string) bool {
	if len(authorization) != 1 {
		return false
	}
	scheme, token, ok := strings.Cut(authorization[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	have := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(have[:], g.want[:]) == 1
}

// bucket returns the network's bucket. If there are too many buckets, full ones are
// deleted first; if there are still too many, new networks share one.
func (g *guard) bucket(n netip.Prefix) *bucket {
	if b := g.networks[n]; b != nil {
		return b
	}
	if len(g.networks) >= maxNetworks {
		now := g.now()
		for k, b := range g.networks {
			if b.refill(now); b.left >= loginBurst {
				delete(g.networks, k)
			}
		}
	}
	if len(g.networks) >= maxNetworks {
		return &g.others
	}
	b := &bucket{left: loginBurst, since: g.now()}
	g.networks[n] = b
	return b
}

func (b *bucket) refill(now time.Time) {
	b.left = min(loginBurst, b.left+max(0, float64(now.Sub(b.since))/float64(loginRefill)))
	b.since = now
}

// network returns the client's network, or the zero Prefix if its address is not an IP
// address.
func network(r *http.Request) netip.Prefix {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := ap.Addr().Unmap(), 64
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// source returns the client's address for logs and the audit log.
func source(r *http.Request) string {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return ap.Addr().String()
	}
	return r.RemoteAddr
}
