package chaos

import (
	"fmt"
	"math"
	"math/rand"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"sync/atomic"

	"github.com/prometheus/prometheus/prompb"
)

// hostileTenant sends one attack after the other, and deletes series and tenants.
type hostileTenant struct {
	run       *hostileRun
	name      string
	unlimited bool
	rnd       *rand.Rand
	tokens    []string // keys of the successive tenants: after one tenant is deleted, the next one is used
	used      int
	serial    int
	sent      []string // attacks that stored series
	ledger    *hostileLedger
	rounds    atomic.Int64
	answers   map[int]int
	reasons   map[string]bool // reasons of rejections in responses
}

const lives = 5 // number of successive tenants

func newHostileTenant(r *hostileRun, name string, unlimited bool) *hostileTenant {
	h := &hostileTenant{run: r, name: name, unlimited: unlimited, rnd: rand.New(rand.NewSource(r.seed + int64(len(name)))), answers: map[int]int{}, reasons: map[string]bool{}}
	var limits []string
	if unlimited {
		limits = unlimitedLimits()
	}
	for i := range lives {
		h.tokens = append(h.tokens, tenantToken(r.p, fmt.Sprint(name, "-", i), limits...))
	}
	h.ledger = newHostileLedger(h.id())
	return h
}

func (h *hostileTenant) id() string    { return fmt.Sprint(h.name, "-", h.used) }
func (h *hostileTenant) token() string { return h.tokens[h.used] }

// work begins with a few attacks whose data is deleted, and continues with rounds of
// all attacks.
func (h *hostileTenant) work() {
	defer h.rounds.Add(1) // also after a failure
	for _, i := range h.rnd.Perm(len(attacks))[:5] {
		h.attack(attacks[i])
	}
	h.end()
	for round := 1; ; round++ {
		for n, i := range h.rnd.Perm(len(attacks)) {
			if h.run.t.Failed() || round > 1 && h.run.finish.Load() {
				return
			}
			h.attack(attacks[i])
			if n%6 == 5 {
				h.deleteSome()
			}
		}
		if h.unlimited && round%3 == 1 {
			h.flood()
		}
		h.deleteLarge()
		h.rounds.Add(1)
		if h.run.finish.Load() || !h.run.long && round == 2 {
			return
		}
		if h.run.long && round%3 == 0 {
			h.end()
		}
	}
}

// remaining repeats the attacks without an acknowledged sample: on a slow machine the process may
// have been killed whenever the attack was sent.
func (h *hostileTenant) remaining() {
	for _, k := range attacks {
		if h.unlimited && h.ledger.acked[k.name] == 0 && !h.run.t.Failed() {
			h.attack(k)
		}
	}
}

// end deletes all series of the tenant, or the tenant.
func (h *hostileTenant) end() {
	if !h.unlimited && h.rnd.Intn(3) > 0 || h.used == lives-1 {
		h.deleteSeries("", `{__name__=~".+"}`, math.MinInt64, math.MaxInt64)
		h.sent = nil
		return
	}
	a, tries := h.run.steadily(func() answer {
		return h.run.call(http.MethodDelete, h.run.p.Admin+"/admin/v1/tenants/"+h.id(), h.run.p.AdminToken(), "", "")
	})
	if a.code != http.StatusNoContent && (a.code != http.StatusNotFound || tries == 1) {
		h.run.t.Errorf("delete tenant %s: %d %s", h.id(), a.code, a.text)
	}
	body, err := (&hostileRequest{good: []hostileSeries{{labels: hostileLabels("none", "1"), points: []point{{t: nowMillis(), v: 1}}}}}).encode()
	if err != nil {
		h.run.t.Error(err)
	}
	if a, _ = h.run.steadily(func() answer { return push(h.run.client, h.run.p.Edge, h.token(), 1, body, 1) }); a.code != http.StatusUnauthorized {
		h.run.t.Errorf("push to the deleted tenant %s: %d %s", h.id(), a.code, a.text)
	}
	h.used++
	h.sent, h.ledger = nil, newHostileLedger(h.id())
}

func (h *hostileTenant) attack(k attack) {
	h.serial++
	a := &attacker{rnd: h.rnd, unlimited: h.unlimited, long: h.run.long && h.rnd.Intn(4) == 0, id: fmt.Sprint(h.serial), now: nowMillis()}
	for _, req := range k.make(a) {
		h.send(k.name, &req)
	}
	h.sent = append(h.sent, k.name)
}

// flood sends more chunks into one head than a page can hold.
func (h *hostileTenant) flood() {
	h.run.acting.Lock()
	defer h.run.acting.Unlock()
	h.serial++
	a := &attacker{rnd: h.rnd, id: fmt.Sprint(h.serial), now: nowMillis()}
	for part := range floodRequests {
		req := a.flood(part)
		h.send("flood", &req)
	}
}

// send sends a request and records its outcome.
func (h *hostileTenant) send(name string, req *hostileRequest) {
	body, err := req.encode()
	if err != nil {
		h.run.t.Errorf("encode %s: %v", name, err)
		return
	}
	a, tries := h.run.steadily(func() answer {
		return push(h.run.client, h.run.p.Edge, h.token(), req.version, body, samplesOf(req.good)+samplesOf(req.beyond))
	})
	h.answers[a.code]++
	h.ledger.note(req.good, false)
	all := samplesOf(req.good)
	switch {
	case a.code == 0 || a.code >= 500:
		h.run.t.Errorf("tenant %s, %s: %d %s", h.id(), name, a.code, short(a.text))
	case req.code != 0 && a.code != req.code && h.unlimited:
		h.run.t.Errorf("tenant %s, %s: %d, want %d: %s", h.id(), name, a.code, req.code, short(a.text))
	case a.code/100 == 2 && samplesOf(req.beyond) > 0:
		h.run.t.Errorf("tenant %s, %s: samples beyond the bound were accepted: %d", h.id(), name, a.code)
	case a.code/100 == 2 && a.written == all, a.code == http.StatusBadRequest && samplesOf(req.beyond) > 0 && a.written == all && strings.Contains(a.text, req.reason):
		h.ledger.note(req.good, true)
		if a.code == http.StatusBadRequest {
			h.reasons[req.reason] = true
		}
	case a.code/100 == 2:
		h.run.t.Errorf("tenant %s, %s: %d of %d samples were written, status %d", h.id(), name, a.written, all, a.code)
	case samplesOf(req.beyond) == 0 && req.reason != "" && strings.Contains(a.text, req.reason):
		h.reasons[req.reason] = true
	case tries > 1 && strings.Contains(a.text, "too_many_sample_type_changes"): // each repeated copy counts as out of order
	case h.unlimited && a.code != req.code:
		h.run.t.Errorf("tenant %s, %s: %d, %d of %d samples were written: %s", h.id(), name, a.code, a.written, all, short(a.text))
	default:
		h.run.note("tenant %s, %s: %d, %d of %d samples were written: %s", h.id(), name, a.code, a.written, all, a.text)
	}
}

// deleteSome deletes the samples of one of the attacks, all or those in a time range.
func (h *hostileTenant) deleteSome() {
	name := h.sent[h.rnd.Intn(len(h.sent))]
	mint, maxt := int64(math.MinInt64), int64(math.MaxInt64)
	if h.rnd.Intn(3) > 0 {
		mint = (nowMillis()/1000 - h.rnd.Int63n(60)) * 1000
		maxt = mint + h.rnd.Int63n(60)*1000
	}
	h.deleteSeries(name, fmt.Sprintf("{%s=%q}", attackLabel, name), mint, maxt)
}

func (h *hostileTenant) deleteSeries(attack, selector string, mint, maxt int64) {
	params := url.Values{"match[]": {selector}}
	if mint != math.MinInt64 {
		params.Set("start", fmt.Sprint(mint/1000))
		params.Set("end", fmt.Sprint(maxt/1000))
	}
	a, _ := h.run.steadily(func() answer {
		return h.run.call(http.MethodPost, h.run.p.Edge+"/prometheus/api/v1/admin/tsdb/delete_series", h.token(), form, params.Encode())
	})
	if a.code != http.StatusNoContent {
		h.run.t.Errorf("tenant %s: delete %s: %d %s", h.id(), selector, a.code, a.text)
	}
	h.ledger.remove(attack, mint, maxt, a.code == http.StatusNoContent)
}

// deleteLarge sends matchers near the bound, which must be accepted, and beyond the
// bound, which is also beyond the default of max_query_length.
func (h *hostileTenant) deleteLarge() {
	for size, want := range map[int]int{60 << 10: http.StatusNoContent, 66 << 10: http.StatusBadRequest} {
		params := url.Values{"match[]": {`{attack="none",text="` + repeat("x", size) + `"}`}}
		a, _ := h.run.steadily(func() answer {
			return h.run.call(http.MethodPost, h.run.p.Edge+"/prometheus/api/v1/admin/tsdb/delete_series", h.token(), form, params.Encode())
		})
		tooLong := want == http.StatusBadRequest && a.code == http.StatusUnprocessableEntity && strings.Contains(a.text, "max_query_length")
		if a.code != want && !tooLong {
			h.run.t.Errorf("tenant %s: a deletion with matchers of %d bytes: %d, want %d: %s", h.id(), size, a.code, want, short(a.text))
		}
	}
}

func (h *hostileTenant) verify(when string) {
	for _, k := range attacks {
		got, err := readMatching(h.run.p, h.token(), boundTime, &prompb.LabelMatcher{Type: prompb.LabelMatcher_EQ, Name: attackLabel, Value: k.name})
		if err != nil {
			h.run.t.Errorf("%s, tenant %s: read %s: %v", when, h.id(), k.name, err)
			continue
		}
		if wrong := h.ledger.compare(k.name, got); wrong.n > 0 {
			h.run.t.Errorf("%s, tenant %s, %s: %d faults:\n%s", when, h.id(), k.name, wrong.n, wrong.text)
		}
	}
}

// report logs numbers about the tenant, and fails the test if an attack had no effect.
func (h *hostileTenant) report() {
	var counts, reasons []string
	total := 0
	for _, k := range attacks {
		total += h.ledger.acked[k.name]
		counts = append(counts, fmt.Sprintf("%s %d", k.name, h.ledger.acked[k.name]))
		if h.unlimited && h.ledger.acked[k.name] == 0 {
			h.run.t.Errorf("tenant %s: no sample of attack %s was acknowledged", h.id(), k.name)
		}
	}
	for reason := range h.reasons {
		reasons = append(reasons, reason)
	}
	sort.Strings(reasons)
	h.run.t.Logf("tenant %s: %d samples acknowledged (%s); answers %v; reasons %v", h.id(), total, strings.Join(counts, ", "), h.answers, reasons)
	if want := "after_2261 before_1970 histogram_too_large label_value_invalid labels_too_large max_request_windows metric_name_too_long " +
		"too_many_labels too_many_sample_type_changes"; h.unlimited && strings.Join(reasons, " ") != want {
		h.run.t.Errorf("tenant %s got the reasons %v, want %s", h.id(), reasons, want)
	}
}
