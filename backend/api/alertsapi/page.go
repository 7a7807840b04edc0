package alertsapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"

	"github.com/palliumhq/pallium/backend/alertmanager"
)

//go:embed page.html
var pageText string

// status is the content of the page, in the form in which Alertmanager's API returns it.
type status struct {
	Tenant string
	Groups []struct {
		Labels   map[string]string
		Receiver struct{ Name string }
		Alerts   []struct {
			Labels   map[string]string
			StartsAt string
			Status   struct{ State string }
		}
	}
	Silences []struct {
		ID, Comment, CreatedBy, EndsAt string
		Status                         struct{ State string }
		Matchers                       []struct {
			Name, Value      string
			IsRegex, IsEqual bool
		}
	}
	Receivers []alertmanager.Receiver
	Warnings  []string // reasons for which attempts to notify may be missing
}

// page shows the groups of alerts, the silences and the receivers of the tenant.
func (a *api) page(x *request) error {
	s := status{Tenant: string(x.Tenant)}
	for path, into := range map[string]any{"alerts/groups": &s.Groups, "silences": &s.Silences} {
		r := &alertmanager.Request{Method: http.MethodGet, Path: alertmanager.Prefix + "/api/v2/" + path}
		out, err := a.Forward(x.R.Context(), x.Tenant, r)
		if err != nil {
			return err
		}
		if out.Code != http.StatusOK {
			return fmt.Errorf("read %s: status %d", path, out.Code)
		}
		if err := x.Memory.Take(bodyFactor * int64(len(out.Body))); err != nil {
			return err
		}
		if err := json.Unmarshal(out.Body, into); err != nil {
			return fmt.Errorf("decode %s: %w", path, err)
		}
	}
	var err error
	if s.Receivers, s.Warnings, err = a.receivers(x); err != nil {
		return err
	}
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return fmt.Errorf("parse the page: %w", err)
	}
	var text bytes.Buffer
	if err := page.Execute(&text, s); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	x.W.Header().Set("Content-Type", "text/html; charset=utf-8")
	x.W.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_, err = x.W.Write(text.Bytes())
	return ignoreWrite(err)
}
