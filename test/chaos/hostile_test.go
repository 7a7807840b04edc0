package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestHostileTenants lets two tenants send every kind of hostile request, one with the
// default limits and one without limits, while a third one works normally and an
// operator flushes, compacts, restarts and kills the process. No operation of the
// operator or the normal tenant may fail, and no acknowledged sample of the three may be
// lost. CHAOS=long takes at least ten minutes; CHAOS_SEED is the seed.
func TestHostileTenants(t *testing.T) {
	seed := time.Now().UnixNano()
	if n, err := strconv.ParseInt(os.Getenv("CHAOS_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("CHAOS_SEED=%d", seed)
	r := &hostileRun{t: t, seed: seed, rnd: rand.New(rand.NewSource(seed)), long: os.Getenv("CHAOS") == "long", begin: time.Now(),
		client: &http.Client{Timeout: 3 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 2}}}
	r.p = programs.StartPalliumDefault(t, "compactor: {interval: 5s}\nself_monitoring: {interval: 1s}\n")
	r.good = newGoodTenant(r)
	r.hostile = []*hostileTenant{newHostileTenant(r, "bad-default", false), newHostileTenant(r, "bad-zero", true)}
	var actors sync.WaitGroup
	actors.Go(r.good.work)
	for _, h := range r.hostile {
		actors.Go(h.work)
	}
	r.operate()
	r.finish.Store(true)
	actors.Wait()
	for _, h := range r.hostile {
		h.remaining()
	}
	r.t.Logf("actors done after %s", time.Since(r.begin).Round(time.Second))
	if !t.Failed() {
		r.finalChecks()
	}
}

// hostileRun is one run of the test.
type hostileRun struct {
	t       *testing.T
	p       *programs.Pallium
	seed    int64
	rnd     *rand.Rand // for the operator's actions
	long    bool
	begin   time.Time
	client  *http.Client
	good    *goodTenant
	hostile []*hostileTenant

	acting sync.Mutex // held by actions of the operator, and by code that must not run during one
	finish atomic.Bool
	down   atomic.Bool  // the process is not running, or is about to end
	starts atomic.Int64 // number of restarts
	odd    sync.Map     // status and text of unusual responses → true
}

// steadily calls do while the process runs, and repeats the call if the process ended
// meanwhile. tries is the number of calls.
func (r *hostileRun) steadily(do func() answer) (a answer, tries int) {
	for tries = 1; ; tries++ {
		for r.down.Load() {
			time.Sleep(10 * time.Millisecond)
		}
		starts := r.starts.Load()
		a = do()
		if a.code/100 == 2 || a.code/100 == 4 || !r.down.Load() && r.starts.Load() == starts {
			return a, tries
		}
	}
}

// call sends a form or a body to the edge or the admin API.
func (r *hostileRun) call(method, url, token, contentType, body string) answer {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return answer{text: err.Error()}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", contentType)
	if method == http.MethodDelete {
		req.Header.Set("If-Match", "*")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return answer{text: err.Error()}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{text: err.Error()}
	}
	return answer{code: resp.StatusCode, text: string(text)}
}

const form = "application/x-www-form-urlencoded"

// operate does every kind of operator action, each round in another order, until each
// hostile tenant has sent every attack, and in the long run for at least ten minutes.
func (r *hostileRun) operate() {
	actions := []struct {
		name string
		do   func()
	}{
		{"flush", func() { r.act("flush") }}, {"compact", func() { r.act("compact") }}, {"flush", func() { r.act("flush") }},
		{"terminate", r.terminate}, {"kill", func() { r.kill(false) }}, {"kill in a flush", func() { r.kill(true) }},
	}
	for round := 0; ; round++ {
		for _, i := range r.rnd.Perm(len(actions)) {
			time.Sleep(time.Duration(200+r.rnd.Intn(1800)) * time.Millisecond)
			r.acting.Lock()
			began := time.Now()
			actions[i].do()
			r.t.Logf("%s: %s took %s", time.Since(r.begin).Round(time.Millisecond), actions[i].name, time.Since(began).Round(time.Millisecond))
			r.check()
			r.acting.Unlock()
		}
		through := r.hostile[0].rounds.Load() > 0 && r.hostile[1].rounds.Load() > 0
		if r.t.Failed() || through && (!r.long || time.Since(r.begin) > 10*time.Minute) {
			return
		}
	}
}

// act flushes or compacts, which must always succeed.
func (r *hostileRun) act(action string) {
	a := r.call(http.MethodPost, r.p.Admin+"/admin/v1/"+action+"?wait=true", r.p.AdminToken(), "", "")
	if a.code != http.StatusOK {
		r.t.Errorf("%s: %d %s", action, a.code, a.text)
	}
}

func (r *hostileRun) terminate() {
	r.check()
	r.down.Store(true)
	r.p.Signal(syscall.SIGTERM)
	if err := r.p.Wait(3 * time.Minute); err != nil {
		r.t.Errorf("SIGTERM: %v", err)
	}
	r.start()
}

func (r *hostileRun) kill(inFlush bool) {
	r.check()
	r.down.Store(true)
	if inFlush {
		defer actSoon(r.p, "flush", "compact").Wait()
		time.Sleep(time.Duration(r.rnd.Intn(500)) * time.Millisecond)
	}
	r.p.Kill()
	r.start()
}

func (r *hostileRun) start() {
	r.checkLog()
	r.p.Restart()
	r.starts.Add(1)
	r.down.Store(false)
}

func (r *hostileRun) checkLog() {
	for _, line := range strings.Split(r.p.Log(), "\n") {
		switch {
		case strings.Contains(line, "panic") || strings.HasPrefix(line, "goroutine "):
			r.t.Errorf("the log has a panic: %s", r.p.Log())
			return
		case strings.Contains(line, "level=ERROR"):
			r.odd.Store(short(line[strings.Index(line, "level=ERROR"):]), true)
		}
	}
}

// check checks that no series was set aside and that no seal, upload or compaction has
// failed since the process started.
func (r *hostileRun) check() {
	a := r.call(http.MethodGet, r.p.Admin+"/admin/v1/aside", r.p.AdminToken(), "", "")
	var aside struct{ Items []json.RawMessage }
	if err := json.Unmarshal([]byte(a.text), &aside); a.code != http.StatusOK || err != nil || len(aside.Items) > 0 {
		r.t.Errorf("list of series set aside: %d %s, want an empty list", a.code, a.text)
	}
	a = r.call(http.MethodGet, r.p.Admin+"/metrics", "", "", "")
	found := 0
	for _, line := range strings.Split(a.text, "\n") {
		for _, name := range []string{"pallium_ingester_seal_failures_total", "pallium_ingester_upload_failures_total", "pallium_compactor_failures_total", "pallium_ingester_series_set_aside_total"} {
			if !strings.HasPrefix(line, name) {
				continue
			}
			found++
			if !strings.HasSuffix(line, " 0") {
				r.t.Errorf("a failure was counted: %s", line)
			}
		}
	}
	if found < 3 {
		r.t.Errorf("found %d failure metrics, status %d", found, a.code)
	}
}

// finalChecks reads everything back from the head, from packs, and from the long-term
// store alone.
func (r *hostileRun) finalChecks() {
	r.verify("at the end")
	r.act("flush")
	r.act("compact")
	r.check()
	r.terminate()
	r.verify("after a flush, a compaction and a restart")
	r.act("flush")
	r.act("compact")
	r.check()
	r.p.Kill()
	r.checkLog()
	if out, err := r.p.Offline("verify", "-data"); err != nil {
		r.t.Errorf("verify: %v\n%s", err, out)
	}
	if r.p.DropUploaded() == 0 {
		r.t.Error("no pack was uploaded")
	}
	r.p.Restart()
	r.verify("from the long-term store alone")
	r.check()
	r.checkLog()
	r.good.report()
	for _, h := range r.hostile {
		h.report()
	}
	r.odd.Range(func(k, _ any) bool { r.t.Logf("seen: %v", k); return true })
}

func (r *hostileRun) verify(when string) {
	began := time.Now()
	r.good.verify(when)
	for _, h := range r.hostile {
		h.verify(when)
	}
	r.t.Logf("%s: everything %s read in %s", time.Since(r.begin).Round(time.Second), when, time.Since(began).Round(time.Millisecond))
}

// unlimitedLimits returns limits that hostile requests could reach, with value 0.
func unlimitedLimits() []string {
	var out []string
	for _, name := range []string{"requests_per_second", "request_burst", "samples_per_second", "sample_burst", "bytes_per_second", "byte_burst", "max_body_bytes",
		"max_decoded_bytes", "max_concurrent_requests", "max_active_series", "max_labels_per_series", "max_label_name_length", "max_label_value_length",
		"max_exemplars", "max_metadata_metrics", "max_histogram_buckets", "ha_max_clusters", "max_query_steps", "max_query_series", "max_query_samples",
		"max_concurrent_queries", "max_query_length"} {
		out = append(out, name+"=0")
	}
	for _, name := range []string{"past_grace", "future_grace", "retention", "max_query_range", "query_timeout"} {
		out = append(out, name+"=0s")
	}
	return out
}

// tenantToken creates a tenant with a key that also has the scope to delete.
func tenantToken(p *programs.Pallium, id string, limits ...string) string {
	p.Tenant(id, limits...)
	return p.Token(id, "metrics:read,metrics:write,metrics:delete")
}

func (r *hostileRun) note(format string, args ...any) {
	r.odd.Store(short(fmt.Sprintf(format, args...)), true)
}
