package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/palliumhq/pallium/gateway/conn"
)

// Listener is the admin listener. It is open from the beginning of the start to the
// end of the process, so that probes, Prometheus and an operator can tell a long
// replay from a process that hangs.
type Listener struct {
	listener net.Listener
	server   *http.Server
	handler  atomic.Pointer[http.Handler]
	failed   chan error // what Serve returned
	ended    chan struct{}
	early    *prometheus.Registry
}

// ListenerOptions are the options of Listen.
type ListenerOptions struct {
	Address string
	Hosts   []string      // names in URLs, beside localhost, IP addresses and that of Address
	Doing   func() string // what the process does during the start
	Logger  *slog.Logger
	Context context.Context // of requests; it ends when they are cut off
}

// Listen opens the listener, which tells of the start until Serve is called.
func Listen(o ListenerOptions) (*Listener, error) {
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, err
	}
	ad := &Listener{listener: l, failed: make(chan error, 1), ended: make(chan struct{}), early: prometheus.NewRegistry()}
	names := slices.Clone(o.Hosts)
	if host, _, err := net.SplitHostPort(o.Address); err == nil && host != "" {
		names = append(names, host)
	}
	ad.answer(ad.starting(o.Doing, o.Logger))
	ad.server = conn.Server(conn.Options{Handler: RequireHost(names, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*ad.handler.Load()).ServeHTTP(w, r)
	})), Logger: o.Logger})
	ad.server.BaseContext = func(net.Listener) context.Context { return o.Context }
	go func() {
		defer close(ad.ended)
		ad.failed <- ad.server.Serve(l)
	}()
	return ad, nil
}

// Addr is where it listens.
func (ad *Listener) Addr() net.Addr { return ad.listener.Addr() }

// Server is the server of its requests.
func (ad *Listener) Server() *http.Server { return ad.server }

// Failed gets why it does not serve any more.
func (ad *Listener) Failed() <-chan error { return ad.failed }

// Early has the metrics that are shown during the start: those that are complete
// while parts of the process do not exist yet.
func (ad *Listener) Early() *prometheus.Registry { return ad.early }

// Close closes it and waits until nothing of it runs.
func (ad *Listener) Close() error {
	err := ad.server.Close()
	if closed := ad.listener.Close(); !errors.Is(closed, net.ErrClosed) { // Serve may not have begun
		err = errors.Join(err, closed)
	}
	<-ad.ended
	return err
}

func (ad *Listener) answer(h http.Handler) { ad.handler.Store(&h) }

// starting is the handler during the start.
func (ad *Listener) starting(doing func() string, logger *slog.Logger) http.Handler {
	r := chi.NewRouter()
	r.Handle("/metrics", promhttp.HandlerFor(ad.early, promhttp.HandlerOpts{}))
	r.Get("/healthy", serveHealthy)
	r.Get("/ready", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, doing(), http.StatusServiceUnavailable)
	})
	other := Starting(doing, logger)
	r.NotFound(other.ServeHTTP)
	r.MethodNotAllowed(other.ServeHTTP)
	return r
}

func serveHealthy(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("healthy\n")) }

// Surface is what the listener of a process that serves has: metrics and health, open
// to all who can reach it, and behind a token the profiles, the page and the API.
type Surface struct {
	Metrics *prometheus.Registry
	// Ready returns why the process is not ready, or what one that is ready cannot do.
	Ready func(context.Context) (impaired, err error)
	// Token is for profiles and the page; empty: there are none. TokenName says to a
	// browser what to ask for.
	Token, TokenName string
	Page             http.Handler // at /; nil: there is none
	API              http.Handler // of all paths below Root; nil: there is none
}

// Handler is the handler of a surface.
func (s Surface) Handler() http.Handler {
	r := chi.NewRouter()
	r.Handle("/metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{Registry: s.Metrics}))
	r.Get("/ready", s.serveReady)
	r.Get("/healthy", serveHealthy)
	if s.Token != "" {
		r.Group(func(r chi.Router) {
			r.Use(RejectCrossSite, askBrowser(s.TokenName), RequireToken(s.Token))
			if s.Page != nil {
				r.Method(http.MethodGet, "/", s.Page)
			}
			profileRoutes(r)
		})
	}
	if s.API == nil {
		return r
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, Root+"/") {
			s.API.ServeHTTP(w, req)
			return
		}
		r.ServeHTTP(w, req)
	})
}

// Serve has a surface answer from now on.
func (ad *Listener) Serve(s Surface) { ad.answer(s.Handler()) }

func (s *Surface) serveReady(w http.ResponseWriter, r *http.Request) {
	impaired, err := s.Ready(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	text := "ready\n"
	if impaired != nil {
		text += impaired.Error() + "\n"
	}
	_, _ = io.WriteString(w, text)
}

func profileRoutes(r chi.Router) {
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// askBrowser lets a browser send a token as the password of Basic auth, and asks
// it for one.
func askBrowser(token string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, ok := r.BasicAuth(); ok {
				r = r.Clone(r.Context())
				r.Header.Set("Authorization", "Bearer "+password)
			}
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm="Pallium operator: any user, the %s as password"`, token))
				http.Error(w, "the "+token+" is needed", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
