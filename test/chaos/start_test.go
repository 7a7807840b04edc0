package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// writeLog adds samples of the last half hour to the write-ahead log of a process that
// is not running, in whole requests as the process would have logged them.
func writeLog(t *testing.T, p *programs.Pallium, id string, seriesCount, samples int) {
	t.Helper()
	lim := limits.Default()
	lim.MaxActiveSeries = 0
	ing, err := ingester.Open(context.Background(), ingester.Options{
		ID: "ingester-1", Dir: filepath.Join(p.DataDir, "ingester"), Limits: func(tenant.ID) limits.Limits { return lim },
		Replication: 3, // synced every second, not with each request
	})
	if err != nil {
		t.Fatal(err)
	}
	const atOnce = 100_000 // samples in a request
	step := (20 * time.Minute).Milliseconds() / int64(samples)
	from := time.Now().Add(-30 * time.Minute).UnixMilli()
	b := &series.Batch{Tenant: tenant.ID(id)}
	size := 0
	push := func() {
		out, err := ing.Push(context.Background(), b)
		if err != nil || out.Samples != size {
			t.Fatalf("%d of %d samples were accepted: %v", out.Samples, size, err)
		}
		b, size = &series.Batch{Tenant: tenant.ID(id)}, 0
	}
	for i := range seriesCount {
		ls := labels.FromStrings("__name__", "logged", "instance", fmt.Sprintf("10.0.%d.%d:9100", i/250, i%250), "job", "node")
		e := series.Entry{Labels: ls, Hash: ls.Hash()}
		for j := range samples {
			e.Samples = append(e.Samples, series.Sample{T: from + int64(j)*step, V: float64(i + j)})
		}
		if b.Entries, size = append(b.Entries, e), size+samples; size >= atOnce {
			push()
		}
	}
	if size > 0 {
		push()
	}
	if err := ing.Close(); err != nil {
		t.Fatal(err)
	}
}

// countLogged fails the test unless all samples of writeLog are there.
func countLogged(t *testing.T, when string, p *programs.Pallium, token string, seriesCount, samples int) {
	t.Helper()
	data := programs.Query(t, p.Edge+"/prometheus", token, "query", url.Values{"query": {"sum(count_over_time(logged[2h])) * 1000000 + count(count_over_time(logged[2h]))"}})
	var answer struct{ Result []struct{ Value [2]any } }
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(seriesCount*samples*1_000_000 + seriesCount)
	if len(answer.Result) != 1 || answer.Result[0].Value[1] != want {
		t.Errorf("%s: %s, want %s", when, data, want)
	}
}

// segments returns names and sizes of the segments of the log.
func segments(t *testing.T, p *programs.Pallium) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(filepath.Join(p.DataDir, "ingester", "wal"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&out, d.Name(), info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// waitReadySays waits until the admin listener reports that the process is not ready,
// with want as the reason.
func waitReadySays(t *testing.T, p *programs.Pallium, want string) {
	t.Helper()
	text := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		resp, err := http.Get(p.Admin + "/ready")
		if err != nil {
			continue // the listener is not open yet
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		text = string(data)
		switch {
		case err != nil:
		case resp.StatusCode == http.StatusOK:
			t.Fatalf("the process is ready and never reported %q:\n%s", want, p.Log())
		case strings.Contains(text, want):
			return
		}
	}
	t.Fatalf("readiness never reported %q, but %q:\n%s", want, text, p.Log())
}

// exitCode waits for the process to end and returns its exit code.
func exitCode(t *testing.T, p *programs.Pallium) int {
	t.Helper()
	err := p.Wait(time.Minute)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("the process did not end: %v\n%s", err, p.Log())
	}
	if exit != nil {
		return exit.ExitCode()
	}
	return 0
}

// TestTerminateWhileReplaying checks that the admin listener, and not the edge, is open while the
// log is replayed, that SIGTERM ends the process soon and with exit code 0, and that the next start
// loses nothing.
func TestTerminateWhileReplaying(t *testing.T) {
	const seriesCount, samples = 400, 10_000
	p := programs.StartPalliumIn(t, t.TempDir(), unlimited+"shutdown_timeout: 1m\n")
	token := p.Tenant("alpha")
	p.Stop()
	writeLog(t, p, "alpha", seriesCount, samples)
	before := segments(t, p)
	for range 3 {
		p.Begin()
		waitReadySays(t, p, "write-ahead log")
		if c, err := net.Dial("tcp", strings.TrimPrefix(p.Edge, "http://")); err == nil {
			c.Close()
			t.Error("the edge accepts connections during the replay")
		}
		for path, want := range map[string]string{"/healthy": "200", "/metrics": "200", "/admin/v1/tenants": `503 {"code":"unavailable"`} {
			if code, text := programs.Do(t, http.MethodGet, p.Admin+path, "", "", nil); !strings.HasPrefix(fmt.Sprint(code, " ", text), want) {
				t.Errorf("%s during the replay: %d %s", path, code, text)
			}
		}
		p.Signal(syscall.SIGTERM)
		if code := exitCode(t, p); code != 0 || !strings.Contains(p.Log(), "stopped during the start; nothing is lost") {
			t.Fatalf("SIGTERM during the replay: exit code %d\n%s", code, p.Log())
		}
		noPanic(t, p)
		if after := segments(t, p); after != before {
			t.Errorf("the log has changed from\n%s\nto\n%s", before, after)
		}
	}
	p.Restart()
	countLogged(t, "after SIGTERM during the replay", p, token, seriesCount, samples)
}

// TestEndWhileSealing checks that nothing is lost if the shutdown timeout is shorter than the seal,
// or if the process is killed during the seal, and that a later seal completes.
func TestEndWhileSealing(t *testing.T) {
	const seriesCount, samples = 60_000, 25
	p := programs.StartPalliumIn(t, t.TempDir(), unlimited)
	token := p.Tenant("alpha", "max_active_series=0")
	p.Stop()
	writeLog(t, p, "alpha", seriesCount, samples)
	configure := func(timeout string) {
		if err := os.WriteFile(p.Config, []byte(unlimited+"shutdown_timeout: "+timeout+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure("100ms")
	for range 2 {
		p.Restart()
		countLogged(t, "before an interrupted seal", p, token, seriesCount, samples)
		p.Signal(syscall.SIGTERM)
		code := exitCode(t, p)
		for _, want := range []string{"sealing the head", "shutdown timeout exceeded", "nothing acknowledged is lost", `waiting_for="sealing of the head"`} {
			if code != 1 || !strings.Contains(p.Log(), want) {
				t.Errorf("a grace period shorter than the seal: exit code %d, the log has no %q:\n%s", code, want, p.Log())
			}
		}
		noPanic(t, p)
	}
	configure("2m")
	p.Restart()
	countLogged(t, "after an interrupted seal", p, token, seriesCount, samples)
	p.Signal(syscall.SIGTERM)
	kit.Eventually(t, time.Minute, func() error {
		if !strings.Contains(p.Log(), "sealing the head") {
			return errors.New("the process is not sealing")
		}
		return nil
	})
	p.Kill()
	if strings.Contains(p.Log(), `msg="sealed samples into packs"`) {
		t.Log("the seal had completed before the process was killed")
	}
	p.Restart()
	countLogged(t, "after a kill during the seal", p, token, seriesCount, samples)
	p.Stop()
	if !strings.Contains(p.Log(), `msg="sealed samples into packs" series=`) {
		t.Errorf("nothing was sealed although there was enough time:\n%s", p.Log())
	}
	p.Restart()
	countLogged(t, "after a complete seal", p, token, seriesCount, samples)
	if strings.Contains(p.Log(), "replayed the write-ahead log") {
		t.Errorf("the log was replayed although it had been sealed:\n%s", p.Log())
	}
}

// TestRestartOnFullDisk checks that a process whose disk is full starts, has all data, rejects
// writes with a helpful text, and accepts them again when the disk has space.
func TestRestartOnFullDisk(t *testing.T) {
	t.Run("small disk", func(t *testing.T) { restartOnFullDisk(t, smallDisk(t)) })
	t.Run("bounded files", func(t *testing.T) { restartOnFullDisk(t, boundedFiles(t)) })
}

func restartOnFullDisk(t *testing.T, d disk) {
	p := programs.StartPalliumIn(t, d.dir, unlimited)
	tenants := newTenants(p, "alpha", "beta")
	senders := newSenders(tenants, 4, 2900)
	startLoad(t, p.Edge, senders, 30).wait(false)
	p.Flush()
	startLoad(t, p.Edge, senders, 30).wait(false)
	p.Kill() // the second half is only in the log
	d.fill(p)
	for round := range 2 {
		p.Begin()
		if !d.rows {
			d.fill(p) // a limit applies to one process
		}
		p.WaitReady(p.Edge + "/ready")
		verifyAll(t, fmt.Sprint("after restart ", round, " on a full disk"), p, tenants)
		l := startLoad(t, p.Edge, senders, 100000)
		waitRejected(t, l)
		l.wait(true)
		verifyAll(t, "after writes on a full disk", p, tenants)
		adminSurvives(t, p, d.rows, fmt.Sprint("late-", round))
		noPanic(t, p)
		p.Kill()
	}
	p.Begin()
	if !d.rows {
		d.fill(p)
	}
	p.WaitReady(p.Edge + "/ready")
	d.free(p)
	works(t, p, senders[0])
	p.Tenant("after")
	startLoad(t, p.Edge, senders, 30).wait(false)
	verifyAll(t, "with free space again", p, tenants)
	p.Flush()
	p.Kill()
	p.Restart()
	verifyAll(t, "with free space again, after a restart", p, tenants)
	noPanic(t, p)
}
