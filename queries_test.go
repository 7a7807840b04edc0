package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/test/kit"
)

// TestEndQuery checks that an operator finds a query in progress on the page and in the status,
// ends it with the button, and that its client gets an error that says so; and that a slow
// query is in the log.
func TestEndQuery(t *testing.T) {
	cfg := testConfig(t)
	cfg.Querier.LogQueriesLongerThan = model.Duration(time.Millisecond)
	p := start(t, cfg, All, nil)
	key := p.tenant("acme")
	const text = `max_over_time(quantile_over_time(0.3, (vector(time()) % 7)[1h:1s])[20h:10s])` // takes long without any samples
	type response struct {
		code int
		text string
	}
	done := make(chan response, 1)
	go func() {
		form := url.Values{"query": {text}, "start": {"1000000"}, "end": {"1500000"}, "step": {"600"}}
		code, body := p.do(http.MethodGet, p.edge+"/prometheus/api/v1/query_range?"+form.Encode(), key, nil)
		done <- response{code, body}
	}()
	var id string
	kit.Until(t, "the query is in the status", func() bool {
		code, body := p.do(http.MethodGet, p.admin+"/admin/v1/status", p.token, nil)
		var status struct{ Processes []processStatus }
		if err := json.Unmarshal([]byte(body), &status); code != http.StatusOK || err != nil || len(status.Processes) != 1 {
			t.Fatalf("status: %d %s: %v", code, body, err)
		}
		for _, q := range status.Processes[0].Queries {
			if q.Text == text && q.Tenant == "acme" && q.Running {
				id = q.ID
			}
		}
		return id != ""
	})
	page := func(method, path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, p.admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("operator", p.token)
		resp, err := p.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body := new(strings.Builder)
		if err := resp.Write(body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body.String()
	}
	action := fmt.Sprintf("/queries/end?id=%s", id)
	if code, body := page(http.MethodGet, "/"); code != http.StatusOK || !strings.Contains(body, `action="`+action+`"`) {
		t.Errorf("the page has no button to end the query: %d %s", code, body)
	}
	if code, body := page(http.MethodPost, action); code != http.StatusOK || !strings.Contains(body, "<h1>Pallium") { // redirected to the page
		t.Errorf("after the button: %d %s", code, body)
	}
	if r := <-done; r.code != http.StatusUnprocessableEntity || !strings.Contains(r.text, "the query was ended by an operator") {
		t.Errorf("the client got %d %s", r.code, r.text)
	}
	if code, body := p.do(http.MethodPost, p.admin+"/admin/v1/queries/end?id="+id, p.token, nil); code != http.StatusNotFound {
		t.Errorf("ending the query again: %d %s", code, body)
	}
	if log := p.log.String(); !strings.Contains(log, `msg="slow query" id=`+id+` tenant=acme path=/prometheus/api/v1/query_range`) ||
		!strings.Contains(log, "status=422") {
		t.Errorf("the log has no entry of the query: %s", log)
	}
}
