package alertmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// unreliable is a webhook receiver that records its notifications in a ledger, and can be made to fail.
type unreliable struct {
	*httptest.Server
	ledger *ledger

	mu      sync.Mutex
	rnd     *rand.Rand
	mode    string // "": it responds with 200, half of the time after a delay
	changed chan struct{}
	errs    []string // errors of requests that it could not read
}

func newUnreliable(t *testing.T, l *ledger, seed int64) *unreliable {
	u := &unreliable{ledger: l, rnd: rand.New(rand.NewSource(seed)), changed: make(chan struct{})}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(u.Close)
	return u
}

// set changes the mode of the receiver. It closes the connections of notifications that hang.
func (u *unreliable) set(mode string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mode = mode
	close(u.changed)
	u.changed = make(chan struct{})
}

func (u *unreliable) serve(w http.ResponseWriter, q *http.Request) {
	r, err := read(q)
	u.mu.Lock()
	if err != nil {
		u.errs = append(u.errs, err.Error())
	}
	mode, changed := u.mode, u.changed
	delay := max(0, between(u.rnd, -answerTime, answerTime))
	u.mu.Unlock()
	got := u.ledger.got(r)
	switch mode {
	case "":
		if sleep(q.Context(), delay) != nil {
			panic(http.ErrAbortHandler) // the sender has closed the connection
		}
		u.ledger.answer(got)
	case "answers 500":
		w.WriteHeader(http.StatusInternalServerError)
	case "hangs":
		select {
		case <-q.Context().Done():
		case <-changed:
		}
		panic(http.ErrAbortHandler)
	default:
		panic(http.ErrAbortHandler)
	}
}

// read decodes a notification.
func read(q *http.Request) (receipt, error) {
	var n struct {
		Status      string
		GroupLabels map[string]string
		Alerts      []struct{ Annotations map[string]string }
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return receipt{}, fmt.Errorf("read a notification: %w", err)
	}
	if err := json.Unmarshal(body, &n); err != nil {
		return receipt{}, fmt.Errorf("decode a notification: %w", err)
	}
	r := receipt{group: n.GroupLabels["alertname"], firing: n.Status == "firing", at: time.Now()}
	if len(n.Alerts) != 1 {
		return r, fmt.Errorf("the notification of %s has %d alerts, want 1", r.group, len(n.Alerts))
	}
	if _, err := fmt.Sscanf(n.Alerts[0].Annotations["episode"], "%d", &r.episode); err != nil {
		return r, fmt.Errorf("the episode of %s is %q: %w", r.group, n.Alerts[0].Annotations["episode"], err)
	}
	return r, nil
}

// client sends alerts as Prometheus does: repeatedly while they fire, and also after they are resolved.
type client struct {
	*system
	ledger *ledger

	mu     sync.Mutex
	alerts map[string]*posted // by group
}

// posted is an alert in a request to the API.
type posted struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
	episode     int
	firing      bool
}

// change makes an alert fire if it is resolved or new, and resolves it if it fires.
func (c *client) change(group string, silenced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, now := c.alerts[group], time.Now()
	if a == nil {
		a = &posted{Labels: map[string]string{"alertname": group}}
		c.alerts[group] = a
	}
	if a.firing = !a.firing; a.firing {
		a.episode++
		a.StartsAt = now
		a.Annotations = map[string]string{"episode": fmt.Sprint(a.episode)}
	}
	a.EndsAt = now
	c.ledger.begin(&state{group: group, episode: a.episode, firing: a.firing, begin: now, silenced: silenced})
}

// unsilence records that the current state of a group is no longer silenced.
func (c *client) unsilence(group string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.alerts[group]
	c.ledger.begin(&state{group: group, episode: a.episode, firing: a.firing, begin: time.Now()})
}

// send sends the alerts until the context ends.
func (c *client) send(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		c.mu.Lock()
		var list []*posted
		for _, a := range c.alerts {
			p := *a
			if p.firing {
				p.EndsAt = time.Now().Add(alertEnd)
			}
			list = append(list, &p)
		}
		c.mu.Unlock()
		if body, err := json.Marshal(list); err != nil {
			c.t.Error(err)
		} else if len(list) > 0 {
			_, _ = c.request(ctx, http.MethodPost, c.c.Edges[i%2]+"/alertmanager/api/v2/alerts", string(body)) // the next iteration sends the alerts again
		}
		_ = sleep(ctx, repeatAlerts)
	}
}

// request returns the body of a response with the status 200.
func (c *client) request(ctx context.Context, method, url, body string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // Prometheus' default
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	q.Header.Set("Authorization", "Bearer "+c.key)
	q.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %d %s", method, url, resp.StatusCode, text)
	}
	return string(text), err
}

// flap makes the alert of a group fire and resolve at random times until the context ends.
func (c *client) flap(ctx context.Context, rnd *rand.Rand, group string, least, most time.Duration) {
	for {
		c.change(group, false)
		if sleep(ctx, between(rnd, least, most)) != nil {
			return
		}
	}
}

// silence silences a group before its alert fires for the first time, lets the alert fire, resolve and fire again, and
// deletes the silence. The alert then fires until the end of the run.
func (c *client) silence(ctx context.Context, rnd *rand.Rand, group string, least, most time.Duration) {
	path := c.c.Edges[0] + "/alertmanager/api/v2/silence"
	var id string
	for id == "" {
		text, err := c.request(ctx, http.MethodPost, path+"s", fmt.Sprintf(
			`{"matchers":[{"name":"alertname","value":%q,"isRegex":false}],"startsAt":%q,"endsAt":%q,"createdBy":"t","comment":"c"}`,
			group, time.Now().UTC().Format(time.RFC3339Nano), time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)))
		var made struct{ SilenceID string }
		if err == nil && json.Unmarshal([]byte(text), &made) == nil {
			id = made.SilenceID
			break
		}
		group += "x" // the failed request may have stored a silence that is never deleted
		if sleep(ctx, time.Second) != nil {
			return
		}
	}
	c.ledger.silence(group, time.Now(), time.Time{})
	for range 3 { // fires, resolves, fires
		c.change(group, true)
		_ = sleep(ctx, between(rnd, least, most))
	}
	c.ledger.silence(group, time.Time{}, time.Now())
	for !c.expired(context.WithoutCancel(ctx), path+"/"+id) {
		_ = sleep(c.t.Context(), time.Second)
		if c.t.Context().Err() != nil {
			return
		}
	}
	c.unsilence(group)
}

// expired deletes a silence, and reports whether it is certainly deleted. After an error it reads the silence, because the
// request may have deleted it.
func (c *client) expired(ctx context.Context, url string) bool {
	if _, err := c.request(ctx, http.MethodDelete, url, ""); err == nil {
		return true
	}
	text, err := c.request(ctx, http.MethodGet, url, "")
	return err == nil && strings.Contains(text, `"state":"expired"`)
}

// silence records the time from which, or until which, a group was certainly silenced.
func (l *ledger) silence(group string, from, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.silences[group]
	if s[0].IsZero() {
		s[0], s[1] = from, from.Add(24*time.Hour)
	}
	if !until.IsZero() {
		s[1] = until
	}
	l.silences[group] = s
}
