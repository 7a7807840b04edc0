package app

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/palliumhq/pallium/gateway/admin"
)

// buildAdmin is the admin listener's handler: metrics and health, open to all who
// can reach it, and of a gateway or of one process the admin API, the operator's
// page and profiles, with the admin token. A backend has no admin token: its
// profiles want a token of their own, and commands come from gateways.
func (a *App) buildAdmin(token string) (http.Handler, error) {
	r := chi.NewRouter()
	r.Handle("/metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{Registry: a.registry}))
	r.Get("/ready", a.serveReady)
	r.Get("/healthy", serveHealthy)
	if a.opts.Role == Backend {
		profiles, err := a.profilesToken()
		if err == nil && profiles != "" {
			r.Group(func(r chi.Router) {
				r.Use(admin.RefuseCrossSite, askBrowser("PALLIUM_PPROF_TOKEN"), admin.RequireToken(profiles))
				profileRoutes(r)
			})
		}
		return r, err
	}
	adminAPI, err := admin.New(admin.Options{
		Control: a.control, Token: token, EdgeURL: a.edgeURL(), Extra: a.commandRoutes,
		Logger: a.opts.Logger, Registerer: a.registry, Now: a.opts.Now,
	})
	if err != nil {
		return nil, err
	}
	r.Group(func(r chi.Router) {
		r.Use(admin.RefuseCrossSite, askBrowser("admin token"), admin.RequireToken(token))
		r.Get("/", a.page)
		profileRoutes(r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, admin.Root+"/") {
			adminAPI.ServeHTTP(w, req)
			return
		}
		r.ServeHTTP(w, req)
	}), nil
}

func profileRoutes(r chi.Router) {
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// profilesToken is what profiles of a backend want; empty: there are none.
func (a *App) profilesToken() (string, error) {
	const name = "PALLIUM_PPROF_TOKEN"
	if _, ok := a.opts.Env(name); !ok && !hasFile(a.opts.Env, name) {
		return "", nil
	}
	token, _, _, err := secret{name: name}.load(a.cfg.DataDir, a.opts.Env)
	if err == nil {
		err = admin.CheckToken(token)
	}
	if err != nil {
		return "", fmt.Errorf("token for profiles: %w", err)
	}
	return token, nil
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

// edgeURL is how clients reach the edge, as far as we can tell.
func (a *App) edgeURL() string {
	if a.cfg.ExternalURL != "" {
		return strings.TrimRight(a.cfg.ExternalURL, "/")
	}
	scheme := "http"
	if a.cfg.TLS.CertFile != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(a.cfg.Listen)
	if err != nil || port == "" {
		return scheme + "://localhost:9009"
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func (a *App) serveReady(w http.ResponseWriter, r *http.Request) {
	if err := a.ready(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	text := "ready\n"
	if err := a.zonesMissing(r.Context()); err != nil {
		text += err.Error() + "\n"
	}
	_, _ = io.WriteString(w, text)
}
