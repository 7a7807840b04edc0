package operator

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/palliumhq/pallium/gateway/admin"
)

//go:embed page.html
var pageText string

// pagePolicy allows the page its styles, and the buttons that post to this listener.
var pagePolicy = strings.Replace(admin.ContentSecurityPolicy, "form-action 'none'", "form-action 'self'", 1) + "; style-src 'unsafe-inline'"

// statusTimeout bounds how long the page waits for the status.
const statusTimeout = 10 * time.Second

// Page is the operator's overview page.
type Page struct {
	version, role string
	now           func() time.Time
	status        func(context.Context) ([]byte, error) // returns JSON; nil: no status to show
	template      *template.Template
	logger        *slog.Logger
}

// PageOptions are the options of NewPage. The status comes from Commands or Forwarder;
// both are nil in a gateway in front of another backend than Pallium.
type PageOptions struct {
	Version, Role string
	Commands      *Commands
	Forwarder     *Forwarder
	Now           func() time.Time
	Logger        *slog.Logger
}

// NewPage returns the page.
func NewPage(o PageOptions) (*Page, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"ms": func(ms int64) string {
			if ms > 1<<61 || ms < -(1<<61) {
				return "-"
			}
			return time.UnixMilli(ms).UTC().Format(timeFormat)
		},
		"day": func(day int64) string {
			return fmt.Sprintf("%s (day %d)", time.Unix(day*86400, 0).UTC().Format(time.DateOnly), day)
		},
		"time":    func(t time.Time) string { return t.UTC().Format(timeFormat) },
		"percent": func(f float64) string { return fmt.Sprintf("%.1f%%", f*100) },
		"bytes":   func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) },
	}).Parse(pageText)
	if err != nil {
		return nil, fmt.Errorf("parse the template of the overview page: %w", err)
	}
	p := &Page{version: o.Version, role: o.Role, now: o.Now, template: t, logger: o.Logger}
	switch {
	case o.Commands != nil:
		p.status = o.Commands.status
	case o.Forwarder != nil:
		p.status = o.Forwarder.status
	}
	return p, nil
}

const timeFormat = "2006-01-02 15:04:05"

// view is the data of the template. Processes, Members and RingError are decoded from the response
// of GET /status, and have only the fields that the template needs.
type view struct {
	Version, Role string
	Now           time.Time
	Error         string // the reason why the status is missing

	Processes []struct {
		Instance string
		Error    string // why the request to it failed
		Queries  []struct {
			ID, Tenant, Path, Query string
			Start, End, Step        string
			Since                   time.Time
			Running                 bool
		}
		Ingester *struct {
			ID        string
			HeadBytes int64
			Segment   int
			Tenants   []struct {
				Tenant           string
				Series           int
				MinTime, MaxTime int64
			}
			Packs []struct {
				Name             string
				MinTime, MaxTime int64
				Tenants, Series  int
				Samples, Bytes   int64
			}
		}
		Compactor *struct {
			Day     int64
			LastRun time.Time
			LastErr string `json:"lastError"`
			Clock   string
			Expired int
			Waiting []struct {
				Day    int64
				Reason string
			}
			Failing []struct {
				Tenant, Pack string
				Day          int64
				Err          string `json:"error"`
				Since, Next  time.Time
				Attempts     int
			}
		}
	}
	Members   []Member
	RingError string
}

// HasQueries reports whether a process has queries in progress.
func (v view) HasQueries() bool {
	for _, p := range v.Processes {
		if len(p.Queries) > 0 {
			return true
		}
	}
	return false
}

// ServeHTTP serves the page.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := view{Version: p.version, Role: p.role, Now: p.now()}
	if p.status != nil {
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		text, err := p.status(ctx)
		if err == nil {
			err = json.Unmarshal(text, &v)
		}
		if err != nil {
			v.Error = err.Error()
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", pagePolicy)
	if err := p.template.Execute(w, v); err != nil {
		p.logger.Error("failed to render the overview page", "err", err)
	}
}
