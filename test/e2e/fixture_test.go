// Package e2e tests Pallium with its users' clients: a real Prometheus that writes and
// reads, promtool, and the requests of Grafana's Prometheus data source.
package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const palliumConfig = `
log: {level: warn}
self_monitoring: {disabled: true}
`

const prometheusConfig = `
global: {scrape_interval: 1s, scrape_timeout: 1s, scrape_native_histograms: true}
scrape_configs:
  - job_name: prometheus
    static_configs: [{targets: [%[1]q]}]
  - job_name: node
    static_configs: [{targets: [%[2]q]}]
  - job_name: app
    always_scrape_classic_histograms: true
    static_configs: [{targets: [%[3]q]}]
remote_write:
  - url: %[4]s/api/v1/push
    name: one
    authorization: {credentials: %[5]s}
    send_exemplars: true
    send_native_histograms: true
    queue_config: {batch_send_deadline: 500ms, max_backoff: 1s}
    metadata_config: {send_interval: 1s}
  - url: %[4]s/api/v1/push
    name: two
    protobuf_message: io.prometheus.write.v2.Request
    authorization: {credentials: %[6]s}
    send_exemplars: true
    send_native_histograms: true
    queue_config: {batch_send_deadline: 500ms, max_backoff: 1s}
`

// client sends requests to one Prometheus API.
type client struct {
	name string
	base string // URL before /api/v1
	auth func(*http.Request)
	user string // user of Basic authentication
	key  string // empty for a Prometheus without authentication
}

// system is a Prometheus that scrapes targets and writes to two tenants of a Pallium.
type system struct {
	pallium *programs.Pallium
	prom    *programs.Prometheus
	local   client   // that Prometheus
	tenants []client // written by remote write 1.0 and 2.0
}

func startSystem(t *testing.T) *system {
	t.Helper()
	s := &system{pallium: programs.StartPallium(t, palliumConfig)}
	for _, id := range []string{"one", "two"} {
		key := s.pallium.Tenant(id)
		s.tenants = append(s.tenants, client{name: "tenant " + id, base: s.pallium.Edge + "/prometheus", user: id, key: key,
			auth: func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) }})
	}
	node := kit.FreeAddr(t)
	programs.Start(t, programs.Binary(t, "NODE_EXPORTER"), "--web.listen-address="+node, "--log.level=error").
		WaitReady("http://" + node + "/")
	addr := kit.FreeAddr(t)
	s.prom = programs.StartPrometheus(t, addr, fmt.Sprintf(prometheusConfig, addr, node, startApp(t), s.pallium.Edge, s.tenants[0].key, s.tenants[1].key),
		"--enable-feature=exemplar-storage,metadata-wal-records")
	s.local = client{name: "prometheus", base: s.prom.URL, auth: func(*http.Request) {}}
	return s
}

// basic returns a client of the same tenant that sends the tenant as user and the key
// as password.
func (c client) basic() client {
	c.name += ", basic auth"
	c.auth = func(r *http.Request) { r.SetBasicAuth(c.user, c.key) }
	return c
}

// call sends a request. form is sent in the body of a POST and in the URL of a GET.
func (c client) call(t testing.TB, method, path string, form url.Values, header http.Header) programs.Answer {
	t.Helper()
	target, body := c.base+path, ""
	if method == http.MethodPost {
		body = form.Encode()
	} else if len(form) > 0 {
		target += "?" + form.Encode()
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	c.auth(req)
	return programs.Send(t, req)
}

// data returns the data of a response; a failed query is an error.
func (c client) data(t testing.TB, endpoint string, form url.Values) (json.RawMessage, error) {
	t.Helper()
	method := http.MethodPost
	if strings.HasSuffix(endpoint, "/values") || endpoint == "metadata" {
		method = http.MethodGet
	}
	r := c.call(t, method, "/api/v1/"+endpoint, form, nil)
	var a struct {
		Status string
		Data   json.RawMessage
	}
	if err := json.Unmarshal([]byte(r.Body), &a); err != nil || a.Status != "success" {
		return nil, fmt.Errorf("%s: %s %v: %d %.500s", c.name, endpoint, form, r.Code, r.Body)
	}
	return a.Data, nil
}

// seconds formats a time for the API.
func seconds(t time.Time) string { return fmt.Sprintf("%.3f", float64(t.UnixMilli())/1000) }
