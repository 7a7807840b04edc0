package app

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/gateway/admin"
)

// processStatus is what one process tells of itself.
type processStatus struct {
	Instance  string            `json:"instance"`
	Error     string            `json:"error,omitempty"` // why it could not be asked
	Ingester  *ingester.Stats   `json:"ingester,omitempty"`
	Compactor *compactor.Status `json:"compactor,omitempty"`
}

// clusterStatus is what the operator's page shows.
type clusterStatus struct {
	Processes []processStatus `json:"processes"` // with a role that has something to tell
	Members   []member        `json:"members,omitempty"`
	RingError string          `json:"ringError,omitempty"`
}

// statusTimeout bounds how long a process may take to tell its status.
const statusTimeout = 5 * time.Second

func (a *App) ownStatus() processStatus {
	s := processStatus{Instance: soleIngester}
	if a.members != nil {
		s.Instance = a.members.Self().ID
	}
	if a.ingester != nil {
		of := a.ingester.Stats()
		s.Ingester = &of
	}
	if a.compactor != nil {
		of := a.compactor.Status()
		s.Compactor = &of
	}
	return s
}

// status asks all processes that have something to tell.
func (a *App) status(ctx context.Context) clusterStatus {
	if a.members == nil {
		return clusterStatus{Processes: []processStatus{a.ownStatus()}}
	}
	out := clusterStatus{Processes: []processStatus{}}
	list, err := a.memberList(ctx)
	if err != nil {
		out.RingError = err.Error()
		return out
	}
	out.Members = list
	list = slices.DeleteFunc(slices.Clone(list), func(m member) bool {
		return !slices.Contains(m.Roles, string(TargetIngester)) && !slices.Contains(m.Roles, string(TargetCompactor))
	})
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	out.Processes = eachMember(list, 16, func(m *member) processStatus {
		s := processStatus{Instance: m.ID}
		if err := a.statusOf(ctx, m.Address, &s); err != nil {
			s.Error = err.Error()
		}
		return s
	})
	return out
}

// eachMember calls fn for all members, so many at once.
func eachMember(list []member, atOnce int, fn func(*member) processStatus) []processStatus {
	out := make([]processStatus, len(list))
	slots, done := make(chan struct{}, atOnce), make(chan struct{})
	for i := range list {
		go func() {
			slots <- struct{}{}
			out[i] = fn(&list[i])
			<-slots
			done <- struct{}{}
		}()
	}
	for range list {
		<-done
	}
	return out
}

func (a *App) statusOf(ctx context.Context, addr string, into *processStatus) error {
	p, err := a.pool.Peer(addr)
	if err != nil {
		return err
	}
	text, err := p.Status(ctx)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("its status cannot be decoded: %w", err)
	}
	return nil
}

func (a *App) showStatus(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	admin.WriteJSON(w, http.StatusOK, a.status(r.Context()))
	return nil
}

type pageData struct {
	Version string
	Role    Role
	Now     time.Time
	Error   string // why there is no status
	clusterStatus
}

// page is the operator's overview. A gateway of a cluster asks a backend.
func (a *App) page(w http.ResponseWriter, r *http.Request) {
	d := pageData{Version: a.opts.Version, Role: a.opts.Role, Now: a.opts.Now().UTC()}
	switch {
	case a.longTerm != nil:
		d.clusterStatus = a.status(r.Context())
	case a.toBackend != nil:
		ctx, cancel := context.WithTimeout(r.Context(), 2*statusTimeout)
		defer cancel()
		if err := a.toBackend.get(ctx, "/status", &d.clusterStatus); err != nil {
			d.Error = err.Error()
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
{{with .Error}}<p>{{.}}</p>{{end}}{{range .Processes}}{{if .Error}}<h2>{{.Instance}}</h2><p>{{.Error}}</p>{{end}}
{{with .Ingester}}<h2>Head</h2><p>Ingester {{.ID}}: about {{bytes .HeadBytes}} in memory, write-ahead log at segment {{.Segment}}.</p>
<h2>Tenants</h2><table><tr><th>Tenant</th><th>Series</th><th>From</th><th>To</th></tr>
{{range .Tenants}}<tr><td>{{.Tenant}}</td><td class="n">{{.Series}}</td><td>{{ms .MinTime}}</td><td>{{ms .MaxTime}}</td></tr>{{end}}</table>
<h2>Sealed windows</h2><table><tr><th>From</th><th>To</th><th>Tenants</th><th>Series</th><th>Samples</th><th>Bytes</th><th>Pack</th></tr>
{{range .Packs}}<tr><td>{{ms .MinTime}}</td><td>{{ms .MaxTime}}</td><td class="n">{{.Tenants}}</td><td class="n">{{.Series}}</td><td class="n">{{.Samples}}</td><td class="n">{{.Bytes}}</td><td>{{.Name}}</td></tr>{{end}}</table>{{end}}
{{$of := .Instance}}{{with .Compactor}}<h2>Compactor</h2><p>{{$of}}: {{if ge .Day 0}}compacting day {{.Day}}{{else}}idle{{end}}, last run {{.LastRun.UTC.Format "2006-01-02 15:04:05"}} UTC.{{with .LastErr}} Last error: {{.}}{{end}}</p>
{{with .Clock}}<p>Nothing is deleted by its time: {{.}}.</p>{{end}}{{with .Expired}}<p>{{.}} days beyond retention wait: few go in 24 hours. If the clock is right, <code>POST /admin/v1/compact?expire=all</code> takes them now.</p>{{end}}
{{with .Waiting}}<table><tr><th>Day</th><th>Waits because</th></tr>{{range .}}<tr><td>{{.Day}}</td><td>{{.Reason}}</td></tr>{{end}}</table>{{end}}
{{with .Failing}}<table><tr><th>Tenant</th><th>Day</th><th>Cannot be compacted because</th><th>Since</th><th>Attempts</th><th>Next attempt</th></tr>
{{range .}}<tr><td>{{if .Tenant}}{{.Tenant}}{{else}}all in pack {{.Pack}}{{end}}</td><td>{{.Day}}</td><td>{{.Err}}</td><td>{{.Since.UTC.Format "2006-01-02 15:04:05"}}</td><td class="n">{{.Attempts}}</td><td>{{.Next.UTC.Format "2006-01-02 15:04:05"}}</td></tr>{{end}}</table>{{end}}{{end}}{{end}}
{{with .RingError}}<h2>Ring</h2><p>{{.}}</p>{{end}}
{{with .Members}}<h2>Ring</h2><table><tr><th>Instance</th><th>Roles</th><th>State</th><th>Zone</th><th>Last heartbeat</th><th>Member since</th><th>Share of the series</th><th>Tokens</th><th>Address</th></tr>
{{range .}}<tr><td>{{.ID}}</td><td>{{range .Roles}}{{.}} {{end}}</td><td>{{.State}}{{if .Unhealthy}}, unhealthy{{end}}</td><td>{{.Zone}}</td><td class="n">{{.Silent}}</td><td>{{.Registered.Format "2006-01-02 15:04:05"}}</td><td class="n">{{if .Tokens}}{{percent .Share}}{{end}}</td><td class="n">{{if .Tokens}}{{.Tokens}}{{end}}</td><td>{{.Address}}</td></tr>{{end}}</table>{{end}}
</body></html>
`
