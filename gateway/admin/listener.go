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

// Listener is the admin listener. It is open from the very start until the end of the process, so
// that probes, Prometheus and an operator can distinguish a long replay of the write-ahead log from
// a process that hangs.
type Listener struct {
	listener net.Listener
	server   *http.Server
	handler  atomic.Pointer[http.Handler]
	failed   chan error // receives the error that Serve returned
	ended    chan struct{}
	early    *prometheus.Registry
}

// ListenerOptions are the options of Listen.
type ListenerOptions struct {
	Address string
	Hosts   []string      // accepted host names, in addition to localhost, IP addresses and the host of Address
	Doing   func() string // describes the current step of the start
	Logger  *slog.Logger
	Context context.Context // parent of the requests' contexts
}

// Listen opens the listener. Until Serve is called, it responds that the process is
// starting.
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

// Addr returns the listener's address.
func (ad *Listener) Addr() net.Addr { return ad.listener.Addr() }

// Server returns the listener's HTTP server.
func (ad *Listener) Server() *http.Server { return ad.server }

// Failed receives the error with which serving ended.
func (ad *Listener) Failed() <-chan error { return ad.failed }

// Early returns the registry of the metrics that are also served during the start, because
// they do not depend on parts of the process that are built later.
func (ad *Listener) Early() *prometheus.Registry { return ad.early }

// Close closes the listener and waits until its goroutine has ended.
func (ad *Listener) Close() error {
	err := ad.server.Close()
	if closed := ad.listener.Close(); !errors.Is(closed, net.ErrClosed) { // the server closes the listener only after Serve was called
		err = errors.Join(err, closed)
	}
	<-ad.ended
	return err
}

func (ad *Listener) answer(h http.Handler) { ad.handler.Store(&h) }

// starting returns the handler of requests during the start.
func (ad *Listener) starting(doing func() string, logger *slog.Logger) http.Handler {
	r := chi.NewRouter()
	r.Handle("/metrics", promhttp.HandlerFor(ad.early, promhttp.HandlerOpts{}))
	r.Get("/healthy", serveHealthy)
	r.Get("/ready", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, doing(), http.StatusServiceUnavailable)
	})
	other := Starting(doing, logger)
	r.NotFound(other.ServeHTTP)
	r.MethodNotAllowed(other.ServeHTTP)
	return r
}

func serveHealthy(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("healthy\n")) }

// Surface has the handlers of the listener for a started process: metrics and health for
// everyone who can reach it, and profiles, the overview page and the API for clients with
// a token.
type Surface struct {
	Metrics *prometheus.Registry
	// Ready returns an error if the process is not ready. impaired is not nil if a ready process
	// cannot do some of its work at the moment; its text says which.
	Ready func(context.Context) (impaired, err error)
	// Token protects the profiles and the page; without it, neither is served. TokenName
	// is the token's name in a browser's password prompt.
	Token, TokenName string
	Page             http.Handler // served at /; nil: no page
	API              http.Handler // handles all paths below Root; nil: no API
}

// Handler returns the handler of the surface.
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
				if s.API != nil {
					r.Post("/queries/end", s.button)
				}
			}
			profileRoutes(r)
		})
	}
	if s.API == nil {
		r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "not found: the admin listener of a backend has /metrics, /ready, /healthy and, "+
				"with PALLIUM_PPROF_TOKEN, /debug/pprof/; "+
				"the overview page and the admin API are on the admin listener of a gateway", http.StatusNotFound)
		})
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

// Serve replaces the handler of the start by the handler of the surface.
func (ad *Listener) Serve(s Surface) { ad.answer(s.Handler()) }

func (s *Surface) serveReady(w http.ResponseWriter, r *http.Request) {
	impaired, err := s.Ready(r.Context())
	if err != nil {
		w.Header().Set("Retry-After", retryAfter)
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

// askBrowser accepts a token as the password of Basic authentication, and makes a browser
// prompt for it.
func askBrowser(token string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, ok := r.BasicAuth(); ok {
				r = r.Clone(r.Context())
				r.Header.Set("Authorization", "Bearer "+password)
			}
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm="Pallium operator: any user, the %s as password"`, token))
				http.Error(w, "authentication required: send the "+token+" as the password of Basic authentication or as a Bearer "+
					"token", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
