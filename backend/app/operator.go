package app

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/gateway/admin"
)

// buildAdmin is the admin listener's handler: the admin API, the operator's
// page and actions, profiles, and, open to all who can reach it, metrics and
// health. A backend has the actions only: tenants are the gateways' business.
func (a *App) buildAdmin(token string) (http.Handler, error) {
	var adminAPI http.Handler
	if a.opts.Role == Backend {
		r := chi.NewRouter()
		r.Route(admin.Root, func(r chi.Router) {
			r.Use(admin.RequireToken(token))
			a.actions(r)
		})
		adminAPI = r
	} else {
		var err error
		if adminAPI, err = admin.New(admin.Options{
			Control: a.control, Token: token, EdgeURL: a.edgeURL(), Extra: a.actions,
			Logger: a.opts.Logger, Registerer: a.registry, Now: a.opts.Now,
		}); err != nil {
			return nil, err
		}
	}
	r := chi.NewRouter()
	r.Handle("/metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{Registry: a.registry}))
	r.Get("/ready", a.serveReady)
	r.Get("/healthy", serveHealthy)
	r.Group(func(r chi.Router) {
		r.Use(admin.RefuseCrossSite, askBrowser, admin.RequireToken(token))
		r.Get("/", a.page)
		r.HandleFunc("/debug/pprof/*", pprof.Index)
		r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		r.HandleFunc("/debug/pprof/profile", pprof.Profile)
		r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, admin.Root+"/") {
			adminAPI.ServeHTTP(w, req)
			return
		}
		r.ServeHTTP(w, req)
	}), nil
}

// actions are the operator's commands beside the admin API. A gateway before a
// backend of this cluster passes them on.
func (a *App) actions(r chi.Router) {
	if a.longTerm == nil {
		if a.security != nil {
			a.forwardActions(r)
		}
		return
	}
	r.Post("/flush", a.flush)
	r.Post("/compact", a.compact)
	r.Post("/compact/accept-loss", a.acceptLoss)
	r.Get("/erasures/{tenant}", a.erasure)
	r.Get("/aside", a.listAside)
	r.Post("/aside/drop", a.dropAside)
	if a.members != nil {
		r.Get("/ring", a.showRing)
		r.Post("/ring/forget", a.forget)
		if a.ingester != nil {
			r.Post("/ring/leave", a.leaveRing)
		}
	}
}

// askBrowser lets a browser send the admin token as the password of Basic auth,
// and asks it for one.
func askBrowser(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, ok := r.BasicAuth(); ok {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+password)
		}
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="Pallium operator: any user, the admin token as password"`)
			http.Error(w, "the admin token is needed", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
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
	_, _ = w.Write([]byte("ready\n"))
}

// flush seals everything in the head and uploads it. With wait=true it answers when that is
// done, else at once.
func (a *App) flush(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("wait") != "true" {
		a.background.Go(func() {
			if err := a.flushAll(a.running); err != nil {
				a.opts.Logger.Error("flush failed", "err", err)
			}
		})
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(map[string]string{"status": "started"})
		return
	}
	if err := a.flushAll(r.Context()); err != nil {
		a.opts.Logger.Error("flush failed", "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": "internal", "message": "flush failed, see the log: nothing is lost, what was not sealed stays in memory and in the write-ahead log"})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"status": "done"})
}

type pageData struct {
	Version string
	Role    Role
	Now     time.Time
	Head    *ingester.Stats
	Ring    []member

	RingError string

	Compactor *compactor.Status
}

// page is the operator's overview.
func (a *App) page(w http.ResponseWriter, r *http.Request) {
	d := pageData{Version: a.opts.Version, Role: a.opts.Role, Now: a.opts.Now().UTC()}
	if a.ingester != nil {
		s := a.ingester.Stats()
		d.Head = &s
	}
	if a.compactor != nil {
		c := a.compactor.Status()
		d.Compactor = &c
	}
	if a.members != nil {
		var err error
		if d.Ring, err = a.memberList(r.Context()); err != nil {
			d.RingError = err.Error()
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", admin.ContentSecurityPolicy+"; style-src 'unsafe-inline'")
	if err := operatorPage().Execute(w, d); err != nil {
		a.opts.Logger.Error("operator page", "err", err)
	}
}

func operatorPage() *template.Template {
	return template.Must(template.New("page").Funcs(template.FuncMap{
		"ms": func(ms int64) string {
			if ms > 1<<61 || ms < -(1<<61) {
				return "-"
			}
			return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05")
		},
		"percent": func(f float64) string { return fmt.Sprintf("%.1f%%", f*100) },
		"bytes":   func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) },
	}).Parse(pageText))
}

const pageText = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Pallium</title>
<style>body{font:15px/1.4 system-ui,sans-serif;margin:2rem;max-width:72rem}table{border-collapse:collapse;margin:.5rem 0 2rem}
th,td{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}</style></head><body>
<h1>Pallium {{.Version}}</h1><p>Role {{.Role}}, {{.Now.Format "2006-01-02 15:04:05"}} UTC. <a href="/metrics">Metrics</a></p>
{{with .Head}}<h2>Head</h2><p>Ingester {{.ID}}: about {{bytes .HeadBytes}} in memory, write-ahead log at segment {{.Segment}}.</p>
<h2>Tenants</h2><table><tr><th>Tenant</th><th>Series</th><th>From</th><th>To</th></tr>
{{range .Tenants}}<tr><td>{{.Tenant}}</td><td class="n">{{.Series}}</td><td>{{ms .MinTime}}</td><td>{{ms .MaxTime}}</td></tr>{{end}}</table>
<h2>Sealed windows</h2><table><tr><th>From</th><th>To</th><th>Tenants</th><th>Series</th><th>Samples</th><th>Bytes</th><th>Pack</th></tr>
{{range .Packs}}<tr><td>{{ms .MinTime}}</td><td>{{ms .MaxTime}}</td><td class="n">{{.Tenants}}</td><td class="n">{{.Series}}</td><td class="n">{{.Samples}}</td><td class="n">{{.Bytes}}</td><td>{{.Name}}</td></tr>{{end}}</table>{{end}}
{{with .Compactor}}<h2>Compactor</h2><p>{{if ge .Day 0}}Compacting day {{.Day}}{{else}}Idle{{end}}, last run {{.LastRun.UTC.Format "2006-01-02 15:04:05"}} UTC.{{with .LastErr}} Last error: {{.}}{{end}}</p>
{{with .Clock}}<p>Nothing is deleted by its time: {{.}}.</p>{{end}}{{with .Expired}}<p>{{.}} days beyond retention wait: few go in 24 hours. If the clock is right, <code>POST /admin/v1/compact?expire=all</code> takes them now.</p>{{end}}
{{with .Waiting}}<table><tr><th>Day</th><th>Waits because</th></tr>{{range .}}<tr><td>{{.Day}}</td><td>{{.Reason}}</td></tr>{{end}}</table>{{end}}
{{with .Failing}}<table><tr><th>Tenant</th><th>Day</th><th>Cannot be compacted because</th><th>Since</th><th>Attempts</th><th>Next attempt</th></tr>
{{range .}}<tr><td>{{if .Tenant}}{{.Tenant}}{{else}}all in pack {{.Pack}}{{end}}</td><td>{{.Day}}</td><td>{{.Err}}</td><td>{{.Since.UTC.Format "2006-01-02 15:04:05"}}</td><td class="n">{{.Attempts}}</td><td>{{.Next.UTC.Format "2006-01-02 15:04:05"}}</td></tr>{{end}}</table>{{end}}{{end}}
{{with .RingError}}<h2>Ring</h2><p>{{.}}</p>{{end}}
{{with .Ring}}<h2>Ring</h2><table><tr><th>Instance</th><th>Roles</th><th>State</th><th>Zone</th><th>Last heartbeat</th><th>Member since</th><th>Share of the series</th><th>Tokens</th><th>Address</th></tr>
{{range .}}<tr><td>{{.ID}}</td><td>{{range .Roles}}{{.}} {{end}}</td><td>{{.State}}{{if .Unhealthy}}, unhealthy{{end}}</td><td>{{.Zone}}</td><td class="n">{{.Silent}}</td><td>{{.Registered.Format "2006-01-02 15:04:05"}}</td><td class="n">{{if .Tokens}}{{percent .Share}}{{end}}</td><td class="n">{{if .Tokens}}{{.Tokens}}{{end}}</td><td>{{.Address}}</td></tr>{{end}}</table>{{end}}
</body></html>
`
