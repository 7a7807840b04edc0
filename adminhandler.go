package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// buildAdmin is the admin listener's handler: metrics and health, open to all who
// can reach it, and of a gateway or of one process the admin API, the operator's
// page and profiles, with the admin token. A backend has no admin token: its
// profiles want a token of their own, and commands come from gateways.
func (p *process) buildAdmin(token string) error {
	r := chi.NewRouter()
	r.Handle("/metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{Registry: p.registry}))
	r.Get("/ready", p.serveReady)
	r.Get("/healthy", serveHealthy)
	p.admin.all = r
	if p.opts.Role == Backend {
		profiles, err := p.profilesToken()
		if err == nil && profiles != "" {
			r.Group(func(r chi.Router) {
				r.Use(admin.RefuseCrossSite, askBrowser("PALLIUM_PPROF_TOKEN"), admin.RequireToken(profiles))
				profileRoutes(r)
			})
		}
		return err
	}
	o := operator.PageOptions{Version: p.opts.Version, Role: string(p.opts.Role), Now: p.opts.Now, Logger: p.opts.Logger}
	api := admin.Options{
		Control: p.control, Token: token, EdgeURL: p.edgeURL(),
		Logger: p.opts.Logger, Registerer: p.registry, Now: p.opts.Now,
	}
	switch {
	case p.backend != nil:
		o.Commands, api.Extra = p.backend.commands, p.backend.commands.Routes
	case p.edge.toBackend != nil:
		o.Forwarder, api.Extra = p.edge.toBackend, p.edge.toBackend.Routes
	}
	adminAPI, err := admin.New(api)
	if err != nil {
		return err
	}
	page, err := operator.NewPage(o)
	if err != nil {
		return err
	}
	r.Group(func(r chi.Router) {
		r.Use(admin.RefuseCrossSite, askBrowser("admin token"), admin.RequireToken(token))
		r.Method(http.MethodGet, "/", page)
		profileRoutes(r)
	})
	p.admin.all = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, admin.Root+"/") {
			adminAPI.ServeHTTP(w, req)
			return
		}
		r.ServeHTTP(w, req)
	})
	return nil
}

func profileRoutes(r chi.Router) {
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// profilesToken is what profiles of a backend want; empty: there are none.
func (p *process) profilesToken() (string, error) {
	const name = "PALLIUM_PPROF_TOKEN"
	if _, ok := p.opts.Env(name); !ok && !hasFile(p.opts.Env, name) {
		return "", nil
	}
	token, _, _, err := secret{name: name}.load(p.cfg.DataDir, p.opts.Env)
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

func (p *process) serveReady(w http.ResponseWriter, r *http.Request) {
	if err := p.ready(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	text := "ready\n"
	if err := p.impaired(r.Context()); err != nil {
		text += err.Error() + "\n"
	}
	_, _ = io.WriteString(w, text)
}
