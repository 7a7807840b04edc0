package alertsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager"
	"github.com/palliumhq/pallium/policies/limits"
)

// replica returns the reply of a replica. attempt and success are the minutes of the last attempt and of the last success; 0
// means that there was none.
func replica(attempt, success, failures int, why string) Reply {
	at := func(minute int) (t time.Time) {
		if minute > 0 {
			t = time.Date(2026, 12, 1, 10, minute, 0, 0, time.UTC)
		}
		return t
	}
	hook := alertmanager.Integration{Kind: alertmanager.Kind{Name: "webhook"}, LastNotifyAttempt: at(attempt), LastNotifySuccess: at(success),
		FailedNotifyAttempts: failures, LastNotifyAttemptError: why}
	body, err := json.Marshal(alertmanager.Receivers{Receivers: []alertmanager.Receiver{
		{Name: "hook", Active: true, Integrations: []alertmanager.Integration{hook}}, {Name: "none", Integrations: []alertmanager.Integration{}}}})
	return Reply{Response: &alertmanager.Response{Code: http.StatusOK, Body: body}, Err: err}
}

// ask sends a request of the tenant acme, whose replicas have the given replies, and returns the response.
func ask(route string, replies ...Reply) (int, string) {
	handlers := New(Options{Limits: func(tenant.ID) limits.Limits { return limits.Default() },
		Forward: func(context.Context, tenant.ID, *alertmanager.Request) (*alertmanager.Response, error) {
			return &alertmanager.Response{Code: http.StatusOK, Body: []byte("[]")}, nil
		},
		ForwardAll: func(_ context.Context, id tenant.ID, r *alertmanager.Request) ([]Reply, error) {
			if id != "acme" || r.Method != http.MethodGet || r.Path != alertmanager.ReceiversPath {
				return nil, fmt.Errorf("%s %s of %s", r.Method, r.Path, id)
			}
			return replies, nil
		}})
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	w := httptest.NewRecorder()
	handlers[route](w, r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()})))
	return w.Code, w.Body.String()
}

// TestReceivers checks the merged replies of replicas: the newest attempt wins, and the failures of replicas whose last attempt is
// newer than the last success are added.
func TestReceivers(t *testing.T) {
	down := Reply{Err: errors.New("r2 at 10.1.2.3 does not answer")}
	old := Reply{Response: &alertmanager.Response{Code: http.StatusNotFound}}
	for what, c := range map[string]struct {
		replies []Reply
		code    int
		want    []string // parts of the response
	}{
		"no attempt": {[]Reply{replica(0, 0, 0, ""), replica(0, 0, 0, "")}, 200, []string{
			`"integrations":[{"name":"webhook","index":0,"sendResolved":false,"failedNotifyAttempts":0}]`, `"warnings":[]`, `{"name":"none","active":false,"integrations":[]}`}},
		"failures of two":     {[]Reply{replica(5, 0, 2, "first"), replica(7, 0, 3, "second")}, 200, []string{`:07:00Z","lastNotifyAttemptError":"second","failedNotifyAttempts":5`}},
		"recovered":           {[]Reply{replica(5, 1, 2, "first"), replica(7, 7, 0, "")}, 200, []string{`"lastNotifyAttempt":"2026-12-01T10:07:00Z","lastNotifySuccess":"2026-12-01T10:07:00Z","failedNotifyAttempts":0`}},
		"failed after it":     {[]Reply{replica(8, 1, 2, "again"), replica(7, 7, 0, "")}, 200, []string{`:08:00Z","lastNotifyAttemptError":"again","lastNotifySuccess":"2026-12-01T10:07:00Z","failedNotifyAttempts":2`}},
		"one is down":         {[]Reply{down, replica(7, 0, 1, "second"), old}, 200, []string{`"second"`, `"2 of 3 replicas of the Alertmanager did not respond`}},
		"all are down":        {[]Reply{down, old}, 503, []string{"the Alertmanager could not be read"}},
		"not decodable":       {[]Reply{{Response: &alertmanager.Response{Code: 200, Body: []byte("x")}}}, 503, []string{"the Alertmanager could not be read"}},
		"it does not run":     {[]Reply{{Response: &alertmanager.Response{Code: 200, Body: []byte(`{"receivers":[],"failed":"no secret slack"}`)}}}, 200, []string{`"the stored configuration does not run: no secret slack"`, `"data":[]`}},
		"other configuration": {[]Reply{{Response: &alertmanager.Response{Code: 200, Body: []byte(`{"receivers":[]}`)}}, replica(1, 1, 0, "")}, 200, []string{`"data":[]`}},
	} {
		code, text := ask("alertmanager_attempts", c.replies...)
		for _, part := range c.want {
			if code != c.code || !strings.Contains(text, part) {
				t.Errorf("%s: %d %s\nwant %d %s", what, code, text, c.code, part)
			}
		}
		if strings.Contains(text, "10.1.2.3") {
			t.Errorf("%s: the response has the address of a replica: %s", what, text)
		}
	}
}

// TestPageOfReceivers checks that the page shows attempts, and that it escapes the errors of receivers.
func TestPageOfReceivers(t *testing.T) {
	for what, c := range map[string]struct {
		reply Reply
		want  string
	}{
		"none":    {replica(0, 0, 0, ""), "<td>hook</td><td>webhook[0]</td><td>none</td>"},
		"sent":    {replica(7, 7, 0, ""), "<td>2026-12-01T10:07:00Z</td><td>sent in"},
		"hostile": {replica(7, 0, 3, `</code><script>alert("x")</script>`), `<code>&lt;/code&gt;&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;</code><br>attempts that failed since the last success: 3<`},
		"unused":  {replica(0, 0, 0, ""), "<td>none (no route leads to it)</td><td>none: notifies nobody</td>"},
	} {
		if code, text := ask("alertmanager_page", c.reply); code != http.StatusOK || !strings.Contains(text, c.want) || strings.Contains(text, "<script") {
			t.Errorf("%s: %d %s\nwant %s", what, code, text, c.want)
		}
	}
	if _, text := ask("alertmanager_page", replica(0, 0, 0, ""), Reply{Err: errors.New("down")}); !strings.Contains(text, "1 of 2 replicas") {
		t.Errorf("without a replica: %s", text)
	}
}
