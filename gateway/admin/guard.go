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

// MinTokenLength is the least length of the admin credential in bytes.
const MinTokenLength = 32

// Failed logins that one network (an IPv4 /24 or IPv6 /64) may make at once,
// and how soon it gets another.
const (
	loginBurst  = 10
	loginRefill = 6 * time.Second
	maxNetworks = 4096
)

// CheckToken reports why an admin credential will not do.
func CheckToken(token string) error {
	if len(token) < MinTokenLength {
		return fmt.Errorf("admin token has %d bytes, at least %d are needed; set PALLIUM_ADMIN_TOKEN or PALLIUM_ADMIN_TOKEN_FILE",
			len(token), MinTokenLength)
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return errors.New("admin token has a blank or a character that is not printable ASCII")
		}
	}
	return nil
}

// RequireToken returns middleware that lets only the admin credential in, sent
// as Authorization: Bearer. It is for pages beside the admin API. With a token
// that CheckToken rejects, nobody gets in.
func RequireToken(token string) func(http.Handler) http.Handler {
	return newGuard(token, time.Now, slog.New(slog.DiscardHandler), nil).require
}

// guard compares credentials and slows down guessing.
type guard struct {
	usable   bool
	want     [sha256.Size]byte
	now      func() time.Time
	logger   *slog.Logger
	failures *prometheus.CounterVec

	mu       sync.Mutex
	networks map[netip.Prefix]*bucket
	others   bucket // of the networks that find no room
}

// bucket counts how many failures a network still has.
type bucket struct {
	left  float64
	since time.Time
}

func newGuard(token string, now func() time.Time, logger *slog.Logger, reg prometheus.Registerer) *guard {
	g := &guard{
		usable: CheckToken(token) == nil, want: sha256.Sum256([]byte(token)), now: now, logger: logger,
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_admin_login_failures_total",
			Help: "Requests to the admin API that were rejected for their credential.",
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
			writeProblem(w, r, &problem{status: http.StatusTooManyRequests, message: "too many failed logins from this network; try again later"})
		default:
			g.failures.WithLabelValues("wrong").Inc()
			g.logger.Warn("admin login failed", "source", source(r), "request", requestID(r))
			w.Header().Set("WWW-Authenticate", `Bearer realm="pallium admin"`)
			writeProblem(w, r,
				&problem{status: http.StatusUnauthorized, message: "the admin token is missing or wrong; send it as Authorization: Bearer <token>"})
		}
	})
}

var (
	errTooMany = errors.New("too many failed logins")
	errWrong   = errors.New("wrong admin token")
)

func (g *guard) check(r *http.Request) error {
	if g.usable && g.matches(r.Header.Values("Authorization")) {
		return nil // whatever others in its network got wrong: a revocation must not wait for them
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

// bucket returns the network's bucket. When there are too many, those that are
// full again go; if that is not enough, the rest share one.
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

// network is the client's; the zero Prefix stands for what is no IP address.
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

// source is the client's address for logs and audit.
func source(r *http.Request) string {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return ap.Addr().String()
	}
	return r.RemoteAddr
}
